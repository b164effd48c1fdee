"""Sample inputs for every operation: what the tests feed to an operation because it stands in the registry.

    args, options, wanted = samples("softmax", np.random.default_rng(0))

Each entry of the table below draws random shapes (size 1 and, where an operation has a meaning for it, size 0 and no axes
at all), random axes and options, in float64. Where a function has a kink (abs, relu, max, ...) the values keep a distance
from it that finite differences do not cross; what holds *at* a kink is a convention, tested by equality elsewhere.
A new operation adds an entry with `sampler`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minivit.autograd.registry import REGISTRY


class Sample(NamedTuple):
    """One call of an operation.

    Attributes:
        args: the inputs: float64 arrays, index arrays, numbers or None.
        options: the keyword arguments.
        wanted: the positions in `args` of the inputs that have a derivative.
    """

    args: tuple[Any, ...]
    options: dict[str, Any]
    wanted: tuple[int, ...]


SAMPLERS: dict[str, Callable[[np.random.Generator], Sample]] = {}


def samples(name: str, rng: np.random.Generator) -> Sample:
    """Random inputs for the operation `name` of the registry."""
    if name not in SAMPLERS:
        known = "it has no sampler" if name in REGISTRY else f"there is no such operation; there are {', '.join(REGISTRY)}"
        raise ValueError(f"samples: name {name!r}: {known}")
    return SAMPLERS[name](rng)


def sampler(*names: str) -> Callable[[Callable[[np.random.Generator], Sample]], Callable[[np.random.Generator], Sample]]:
    """Decorator: enters a function from a random generator to a `Sample` for each operation named."""

    def enter(draw: Callable[[np.random.Generator], Sample]) -> Callable[[np.random.Generator], Sample]:
        SAMPLERS.update(dict.fromkeys(names, draw))
        return draw

    return enter


# ---- shapes and values ----


def _shape(rng, low=0, high=3, empty=True):
    """`low` to `high` axes of length 1 to 4; one time in twelve, if `empty`, an axis of length 0."""
    shape = [int(n) for n in rng.integers(1, 5, size=rng.integers(low, high + 1))]
    if shape and empty and rng.random() < 1 / 12:
        shape[rng.integers(len(shape))] = 0
    return tuple(shape)


def _partner(rng, shape):
    """A shape that broadcasts to `shape`: some axes of length 1, some leading axes missing."""
    partner = [n if rng.random() < 0.6 else 1 for n in shape]
    return tuple(partner[rng.integers(len(shape) + 1) if rng.random() < 0.4 else 0 :])


def _partners(rng):
    """Two shapes that broadcast against each other, each repeated along some axis or neither."""
    whole = _shape(rng)
    return tuple((whole, _partner(rng, whole), _partner(rng, whole))[i] for i in rng.permutation(3)[:2])


def _normal(rng, *shape):
    return np.asarray(rng.normal(size=shape))


def _apart(rng, *shape):
    """Values that differ from each other, from 0 and from every multiple of 0.3 by at least 0.1."""
    n = int(np.prod(shape))
    grid = 0.3 * (np.arange(n) - n // 2) + 0.15 + rng.uniform(-0.05, 0.05, n)
    return rng.permutation(grid).reshape(shape)


def _away_from_zero(rng, *shape):
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 2, shape))


def _axis(rng, ndim):
    """None, one axis or a tuple of axes, counted from either end."""
    if ndim == 0 or rng.random() < 0.25:
        return None
    chosen = rng.permutation(ndim)[: rng.integers(1, ndim + 1)]
    axes = tuple(int(a - ndim if rng.random() < 0.5 else a) for a in chosen)
    return axes[0] if len(axes) == 1 and rng.random() < 0.7 else axes


def _one_axis(rng, ndim):
    return int(rng.integers(-ndim, ndim))


def _flip(rng):
    return bool(rng.random() < 0.5)


# ---- the table ----


@sampler("identity", "negative", "exp", "tanh", "erf", "sin", "cos")
def _smooth(rng):
    return Sample((_normal(rng, *_shape(rng)),), {}, (0,))


@sampler("log", "sqrt")
def _positive(rng):
    return Sample((np.asarray(rng.uniform(0.3, 3, _shape(rng))),), {}, (0,))


@sampler("abs", "sign", "relu")
def _kink_at_zero(rng):
    return Sample((_apart(rng, *_shape(rng)),), {}, (0,))


@sampler("add", "subtract", "multiply")
def _two(rng):
    left, right = _partners(rng)
    if rng.random() < 0.2:  # a number on one side
        x, number = _normal(rng, *left), float(rng.normal())
        return Sample((x, number), {}, (0,)) if _flip(rng) else Sample((number, x), {}, (1,))
    return Sample((_normal(rng, *left), _normal(rng, *right)), {}, (0, 1))


@sampler("divide")
def _divide(rng):
    left, right = _partners(rng)
    return Sample((_normal(rng, *left), _away_from_zero(rng, *right)), {}, (0, 1))


@sampler("maximum")
def _maximum(rng):
    left, right = _partners(rng)
    values = _apart(rng, int(np.prod(left) + np.prod(right)))  # no two alike, across both
    x, y = values[: int(np.prod(left))].reshape(left), values[int(np.prod(left)) :].reshape(right)
    return Sample((x, 0.3), {}, (0,)) if rng.random() < 0.2 else Sample((x, y), {}, (0, 1))


@sampler("power")
def _power(rng):
    x = _away_from_zero(rng, *_shape(rng))
    exponent = (0, 1, 2, 3, -1, -2.0, 0.5, -1.5, 2.5)[rng.integers(9)]
    return Sample((np.abs(x) if exponent % 1 else x,), {"exponent": exponent}, (0,))


@sampler("clip")
def _clip(rng):
    ends: dict[str, float | None] = {"low": -0.3 * int(rng.integers(0, 3)), "high": 0.3 * int(rng.integers(1, 4))}
    if rng.random() < 0.3:
        ends["low" if _flip(rng) else "high"] = None
    return Sample((_apart(rng, *_shape(rng)),), ends, (0,))


@sampler("where")
def _where(rng):
    left, right = _partners(rng)
    condition = np.asarray(rng.random(_partner(rng, np.broadcast_shapes(left, right))) < 0.5)
    return Sample((condition, _normal(rng, *left), _normal(rng, *right)), {}, (1, 2))


@sampler("astype")
def _astype(rng):
    return Sample((_normal(rng, *_shape(rng)),), {"dtype": "float64"}, (0,))


@sampler("matmul")
def _matmul(rng):
    n, k, m = (int(i) for i in rng.integers(1, 5, 3))
    batch = _shape(rng, 0, 2)
    left, right = (batch if rng.random() < 0.7 else () for _ in range(2))
    return Sample((_normal(rng, *left, n, k), _normal(rng, *right, k, m)), {}, (0, 1))


@sampler("sum")
def _sum(rng):
    shape = _shape(rng)
    return Sample((_normal(rng, *shape),), {"axis": _axis(rng, len(shape)), "keepdims": _flip(rng)}, (0,))


@sampler("max")
def _max(rng):
    shape = _shape(rng, empty=False)
    return Sample((_apart(rng, *shape),), {"axis": _axis(rng, len(shape)), "keepdims": _flip(rng)}, (0,))


@sampler("reshape")
def _reshape(rng):
    shape = _shape(rng, 1, 3)
    size = int(np.prod(shape))
    targets = [(size,), shape[::-1], (1, *shape), (*shape, 1), *([-1, (shape[0], -1)] if size else [])]
    return Sample((_normal(rng, *shape),), {"shape": targets[rng.integers(len(targets))]}, (0,))


@sampler("transpose")
def _transpose(rng):
    shape = _shape(rng)
    axes = tuple(int(a - len(shape) if rng.random() < 0.3 else a) for a in rng.permutation(len(shape)))
    return Sample((_normal(rng, *shape),), {"axes": None if rng.random() < 0.2 else axes}, (0,))


@sampler("broadcast_to")
def _broadcast_to(rng):
    shape = _shape(rng)
    return Sample((_normal(rng, *_partner(rng, shape)),), {"shape": shape}, (0,))


@sampler("concatenate")
def _concatenate(rng):
    shape = list(_shape(rng, 1, 3))
    axis = _one_axis(rng, len(shape))
    arrays = []
    for _ in range(rng.integers(1, 4)):
        shape[axis] = int(rng.integers(0, 4))
        arrays.append(_normal(rng, *shape))
    return Sample(tuple(arrays), {"axis": axis}, tuple(range(len(arrays))))


@sampler("pad")
def _pad(rng):
    shape = _shape(rng, 1, 3)
    return Sample((_normal(rng, *shape),), {"widths": tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (len(shape), 2)))},
                  (0,))


def _index(rng, shape):
    """An index into an array of `shape`, which has two axes or more: every kind NumPy knows."""
    n, m = shape[:2]
    rows, columns = rng.integers(-n, n, 5), rng.integers(-m, m, 5)  # five draws from at most four: some occur twice
    choices = [
        int(rng.integers(-n, n)), slice(1, None), slice(None, None, -2), (slice(None), -1), (Ellipsis, None, 0),
        (None, slice(0, 1)), rows, (rows, columns), (rows, slice(None, None, 2)), (slice(None), columns),
        (rows[:, None], columns[None, :2]), rng.random(shape) < 0.5, rng.random(n) < 0.7, [0, 0, n - 1], (),
    ]  # fmt: skip
    return choices[rng.integers(len(choices))]


@sampler("getitem")
def _getitem(rng):
    shape = _shape(rng, 2, 3, empty=False)
    return Sample((_normal(rng, *shape),), {"index": _index(rng, shape)}, (0,))


@sampler("scatter_add")
def _scatter_add(rng):
    shape = _shape(rng, 2, 3, empty=False)
    index = _index(rng, shape)
    return Sample((_normal(rng, *np.zeros(shape)[index].shape),), {"shape": shape, "index": index}, (0,))


@sampler("im2col")
def _im2col(rng):
    P, h, w, B, C = (int(i) for i in rng.integers(1, 4, 5))
    B = 0 if rng.random() < 1 / 12 else B
    return Sample((_normal(rng, B, h * P, w * P, C),), {"patch_size": P}, (0,))


@sampler("col2im")
def _col2im(rng):
    P, h, w, B, C = (int(i) for i in rng.integers(1, 4, 5))
    size = h * P if h == w else (h * P, w * P)
    return Sample((_normal(rng, B, h * w, P * P * C),), {"image_size": size, "patch_size": P}, (0,))


@sampler("linear")
def _linear(rng):
    (d, m), lead = (int(i) for i in rng.integers(1, 5, 2)), _shape(rng, 0, 2)
    args = (_normal(rng, *lead, d), _normal(rng, d, m), _normal(rng, m))
    return Sample((*args[:2], None), {}, (0, 1)) if rng.random() < 0.3 else Sample(args, {}, (0, 1, 2))


@sampler("softmax", "log_softmax")
def _softmax(rng):
    shape = _shape(rng, 1, 3, empty=False)
    return Sample((2 * _normal(rng, *shape),), {"axis": _one_axis(rng, len(shape))}, (0,))


@sampler("gelu")
def _gelu(rng):
    return Sample((2 * _normal(rng, *_shape(rng)),), {"approximate": _flip(rng)}, (0,))


@sampler("layer_norm")
def _layer_norm(rng):
    lead, D = _shape(rng, 0, 2), int(rng.integers(1, 6))
    args = (_apart(rng, *lead, D), _normal(rng, D), _normal(rng, D))
    # two values are -1 and 1 whatever they were, but for eps: with a small one their derivative is lost in cancellation
    return Sample(args, {"eps": (1e-6, 1e-2, 0.5)[rng.integers(3)] if D > 2 else 0.5}, (0, 1, 2))


@sampler("cross_entropy")
def _cross_entropy(rng):
    B, K = (int(i) for i in rng.integers(1, 5, 2))
    labels = rng.integers(0, K, B).astype(("int64", "int32", "uint8")[rng.integers(3)])
    options = {"reduction": ("mean", "sum", "none")[rng.integers(3)], "label_smoothing": (0.0, 0.3)[rng.integers(2)]}
    return Sample((2 * _normal(rng, B, K), labels), options, (0,))


@sampler("scaled_dot_product_attention")
def _attention(rng):
    B, h, M, d, dv = (int(i) for i in rng.integers(1, 4, 5))
    N = int(rng.integers(0, 12))
    args = (_normal(rng, B, h, N, d), _normal(rng, B, h, M, d), _normal(rng, B, h, M, dv))
    bias = _bias(rng, h, N, M)
    return Sample((*args, bias), {"scale": _scale(rng)}, (0, 1, 2) if bias is None else (0, 1, 2, 3))


@sampler("multi_head_attention")
def _multi_head_attention(rng):
    B, h, d = (int(i) for i in rng.integers(1, 4, 3))
    N = int(rng.integers(1, 12))
    queries = int(rng.integers(1, N + 1)) if _flip(rng) else None
    bias = _bias(rng, h, queries or N, N)
    options = {"num_heads": h, "scale": _scale(rng), "queries": queries}
    return Sample((_normal(rng, B, N, 3 * h * d), bias), options, (0,) if bias is None else (0, 1))


@sampler("encoder")
def _encoder(rng):
    B, h, d, H, N = (int(i) for i in rng.integers(1, (3, 3, 3, 4, 4)))
    D = h * d
    arrays = [_apart(rng, B, N, D)]
    for _ in range(rng.integers(1, 3)):  # blocks
        for first, second in ((3 * D, D), (H, H)):  # numbers, between the two linear layers
            arrays += [_normal(rng, D), _normal(rng, D), _normal(rng, D, first) / 2, _normal(rng, first),
                       _normal(rng, second, D), _normal(rng, D)]  # fmt: skip
            for bias in (-3, -1):
                if rng.random() < 0.2:
                    arrays[bias] = None
    options = {"num_heads": h, "scale": _scale(rng), "queries": int(rng.integers(1, N + 1)) if _flip(rng) else None,
               "approximate": _flip(rng), "eps": (1e-2, 0.5)[rng.integers(2)] if D > 2 else 0.5}  # fmt: skip
    return Sample(tuple(arrays), options, tuple(i for i, a in enumerate(arrays) if a is not None))


def _bias(rng, h, N, M):
    """None, one for every head or one for all; at times some keys are hidden, never all from a query."""
    if rng.random() < 0.3:
        return None
    bias = _normal(rng, *((h, N, M) if _flip(rng) else (N, M)))
    if rng.random() < 0.3:
        bias[..., 1:][rng.random(bias[..., 1:].shape) < 0.4] = -np.inf
    return bias


def _scale(rng):
    return (None, None, 0.0, float(rng.uniform(0.2, 1)))[rng.integers(4)]

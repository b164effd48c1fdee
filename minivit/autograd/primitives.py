"""The primitives: every operation is its forward line and, beside it, its rule.

A rule maps the cotangent g of the result to the cotangents of the inputs. It is written with operators, methods and
other primitives only, so it computes when given arrays and is itself differentiable when given Tensors. Where inputs
broadcast, the engine sums the gradient back to the input's shape, so no rule mentions it.

Conventions where a function has no derivative: |x|' = 0 and relu'(x) = 0 at 0; ties of a maximum share evenly;
clip' = 1 only strictly inside; sqrt'(0) = inf, as it is (keep zero away with `where` before the root, not after).
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minivit.autograd.operation import Op
from minivit.autograd.registry import register
from minivit.autograd.special import erf as _erf
from minivit.autograd.tensor import Tensor
from minivit.backend import add as _add
from minivit.backend import add_at, array_module, is_array, products, zeros
from minivit.backend import concatenate as _concatenate


def primitive(forward: Callable[..., Any] | None = None, *, broadcasts: bool = False) -> Any:
    """An operation of minivit's own: `op`, entered in the registry."""
    if forward is None:
        return lambda f: register(Op(f, broadcasts=broadcasts))
    return register(Op(forward, broadcasts=broadcasts))


# ---- arithmetic ----


@primitive
def identity(x):
    return x + 0


@identity.vjp
def _(g):
    return g


@primitive(broadcasts=True)
def add(x, y):
    return _add(x, y)  # x + y, on all cores


@add.vjp
def _(g):
    return g, g


@primitive(broadcasts=True)
def subtract(x, y):
    return x - y


@subtract.vjp
def _(g):
    return g, -g


@primitive
def negative(x):
    return -x


@negative.vjp
def _(g):
    return -g


@primitive(broadcasts=True)
def multiply(x, y):
    return x * y


@multiply.vjp
def _(g, x, y, needs):
    return g * y if needs[0] else None, g * x if needs[1] else None


@primitive(broadcasts=True)
def divide(x, y):
    return x / y


@divide.vjp
def _(g, x, y, needs):
    return g / y, -g * (x / y) / y if needs[1] else None  # y² may be too large or too small for a float


@primitive
def power(x, *, exponent):
    """x to a constant power."""
    return x**exponent


@power.vjp
def _(g, x, exponent):
    return g * 0 if exponent == 0 else g * (exponent * x ** (exponent - 1))


@primitive
def matmul(x, y):
    """Matrix product over the last two axes, (..., n, k) @ (..., k, m) -> (..., n, m); leading axes must be equal, or
    one of the inputs has none."""
    if x.ndim < 2 or y.ndim < 2:
        raise ValueError("matmul: both inputs need at least two axes; reshape a vector to (1, n) or (n, 1)")
    if x.shape[:-2] != y.shape[:-2] and x.ndim > 2 and y.ndim > 2:
        raise ValueError(f"matmul: the leading axes of x {x.shape} and y {y.shape} differ; broadcast one of them first")
    if x.shape[-1] != y.shape[-2]:
        raise ValueError(f"matmul: x of shape {x.shape} does not multiply y of shape {y.shape}")
    return products.matmul(x, y)


@matmul.vjp
def _(g, x, y, needs):
    gx = gy = None
    if needs[0]:
        gx = matmul(g, swapaxes(y, -1, -2))  # (..., n, m) @ (..., m, k) -> (..., n, k)
        gx = gx if gx.ndim == x.ndim else gx.sum(axis=tuple(range(gx.ndim - 2)))
    if needs[1]:
        gy = matmul(swapaxes(x, -1, -2), g)  # (..., k, n) @ (..., n, m) -> (..., k, m)
        gy = gy if gy.ndim == y.ndim else gy.sum(axis=tuple(range(gy.ndim - 2)))
    return gx, gy


# ---- elementwise functions ----


@primitive
def exp(x):
    return array_module(x).exp(x)


@exp.vjp
def _(g, out):
    return g * out


@primitive
def log(x):
    return array_module(x).log(x)


@log.vjp
def _(g, x):
    return g / x


@primitive
def sqrt(x):
    return array_module(x).sqrt(x)


@sqrt.vjp
def _(g, out):
    return g / (2 * out)


@primitive
def tanh(x):
    return array_module(x).tanh(x)


@tanh.vjp
def _(g, out):
    return g * (1 - out * out)


@primitive
def erf(x):
    """The error function, (2/√π) ∫₀ˣ exp(-t²) dt."""
    return _erf(x)


@erf.vjp
def _(g, x):
    return g * exp(-x * x) * (2 / math.sqrt(math.pi))


@primitive
def sin(x):
    return array_module(x).sin(x)


@sin.vjp
def _(g, x):
    return g * cos(x)


@primitive
def cos(x):
    return array_module(x).cos(x)


@cos.vjp
def _(g, x):
    return -g * sin(x)


@primitive
def abs(x):
    return array_module(x).abs(x)


@abs.vjp
def _(g, x):
    return g * sign(x)


@primitive
def sign(x):
    """-1, 0 or 1; its derivative is 0 everywhere (the lecture's sign(·) of the FGSM attack)."""
    return array_module(x).sign(x)


@sign.vjp
def _(g):
    return g * 0


@primitive
def relu(x):
    return array_module(x).maximum(x, 0)


@relu.vjp
def _(g, x):
    return where(x > 0, g, 0.0)  # a product would make NaN of an infinite g


@primitive
def clip(x, *, low, high):
    return array_module(x).clip(x, low, high)


@clip.vjp
def _(g, x, low, high):
    if low is not None:
        g = where(x > low, g, 0.0)
    return g if high is None else where(x < high, g, 0.0)


@primitive(broadcasts=True)
def maximum(x, y):
    return array_module(x, y).maximum(x, y)


@maximum.vjp
def _(g, x, y):
    at_a_tie = where(x == y, g / 2, 0.0)
    return where(x > y, g, at_a_tie), where(x < y, g, at_a_tie)


@primitive(broadcasts=True)
def where(condition, x, y):
    """x where the condition holds, y elsewhere. The condition is a boolean array, or a Tensor without gradient."""
    return array_module(condition, x, y).where(condition, x, y)


@where.vjp
def _(g, condition):
    return None, where(condition, g, 0.0), where(condition, 0.0, g)


@primitive
def astype(x, *, dtype):
    return x.astype(dtype)


@astype.vjp
def _(g):
    return g  # the engine gives every gradient its input's dtype


# ---- reductions ----


@primitive
def sum(x, *, axis=None, keepdims=False):
    return x.sum(axis=axis, keepdims=keepdims)


@sum.vjp
def _(g, x_shape, axis, keepdims):
    return broadcast_to(_restore_axes(g, x_shape, axis, keepdims), shape=x_shape)


@primitive
def max(x, *, axis=None, keepdims=False):
    return x.max(axis=axis, keepdims=keepdims)


@max.vjp
def _(g, x, out, axis, keepdims):
    ties = x == _restore_axes(out, x.shape, axis, keepdims)
    share = _restore_axes(g, x.shape, axis, keepdims) / _as_float(ties.sum(axis=axis, keepdims=True), g)
    return where(ties, share, 0.0)


def mean(x, axis=None, keepdims=False):
    """The mean over an axis, a tuple of axes, or everything."""
    if not isinstance(axis, int | np.integer | tuple | None):
        raise TypeError(f"mean: axis: expected None, an integer or a tuple of integers, got {axis!r}")
    count = _count(x.shape, axis)
    if not count:
        raise ValueError(f"mean: of x of shape {x.shape} there are no elements along axis {axis}")
    if x.dtype == np.float16:  # their sum may be more than it holds
        return astype(mean(astype(x, dtype=np.float32), axis, keepdims), dtype=np.float16)
    return sum(x, axis=axis, keepdims=keepdims) / count


def min(x, axis=None, keepdims=False):
    if x.dtype.kind == "f":
        return -max(-x, axis=axis, keepdims=keepdims)
    least = _array(x).min(axis=axis, keepdims=keepdims)  # not every integer has a negative
    return Tensor(array_module(_array(x)).asarray(least)) if isinstance(x, Tensor) else least


def var(x, axis=None, keepdims=False):
    """The mean squared deviation from the mean (divided by n, as layer norm has it)."""
    if x.dtype == np.float16:
        return astype(var(astype(x, dtype=np.float32), axis, keepdims), dtype=np.float16)
    centered = x - mean(x, axis=axis, keepdims=True)
    return mean(centered * centered, axis=axis, keepdims=keepdims)


def logsumexp(x, axis=None, keepdims=False):
    """log Σ exp(x), with the maximum taken out first so that nothing overflows (an infinite one stays where it is)."""
    top = max(x, axis=axis, keepdims=True)
    top = where(array_module(_array(top)).isfinite(_array(top)), top, 0.0)
    out = log(sum(exp(x - top), axis=axis, keepdims=True)) + top
    return out if keepdims else reshape(out, shape=_reduced_shape(x.shape, axis))


# ---- shape ----


@primitive
def reshape(x, *, shape):
    return x.reshape(shape)


@reshape.vjp
def _(g, x_shape):
    return reshape(g, shape=x_shape)


@primitive
def transpose(x, *, axes=None):
    """The axes in the order given; reversed if none is."""
    return x.transpose(axes)


@transpose.vjp
def _(g, axes):
    inverse = None if axes is None else tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))
    return transpose(g, axes=inverse)


def swapaxes(x, axis1, axis2):
    """x with two axes exchanged."""
    axes = list(range(x.ndim))
    axes[axis1], axes[axis2] = axes[axis2], axes[axis1]
    return transpose(x, axes=tuple(axes))


@primitive
def broadcast_to(x, *, shape):
    return array_module(x).broadcast_to(x, shape)


@broadcast_to.vjp
def _(g, x_shape):
    extra = g.ndim - len(x_shape)
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(x_shape) if n == 1)
    return reshape(g.sum(axis=axes), shape=x_shape) if axes else g


@primitive
def concatenate(*arrays, axis=0):
    _check_no_list("concatenate", arrays)
    if axis is None:
        raise TypeError("concatenate: axis: expected an integer, got None; reshape the arrays to (-1,) first")
    return _concatenate(arrays, axis)


@concatenate.vjp
def _(g, arrays_shape, axis):
    pieces, start = [], 0
    for shape in arrays_shape:
        index = [slice(None)] * g.ndim
        index[axis] = slice(start, start + shape[axis])
        start += shape[axis]
        pieces.append(g[tuple(index)])
    return tuple(pieces)


def stack(*arrays, axis=0):
    """Joins arrays of one shape along a new axis."""
    _check_no_list("stack", arrays)
    shapes = [a.shape for a in arrays]
    if not shapes or len(set(shapes)) > 1:
        raise ValueError(f"stack: expected arrays of one shape, got {', '.join(map(str, shapes)) or 'none'}")
    shape = list(shapes[0])
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 1)
    return concatenate(*(reshape(a, shape=tuple(shape)) for a in arrays), axis=axis)


@primitive
def pad(x, *, widths):
    """Zeros around x; widths is one pair (before, after) per axis."""
    if isinstance(widths, int) or [len(pair) for pair in widths] != [2] * x.ndim:
        raise ValueError(f"pad: widths: expected a pair (before, after) for each of {x.ndim} axes, got {widths}")
    return array_module(x).pad(x, widths)


@pad.vjp
def _(g, x_shape, widths):
    return g[tuple(slice(before, before + n) for (before, _), n in zip(widths, x_shape))]


@primitive
def getitem(x, *, index):
    """x[index]: integers, slices, None, Ellipsis, integer arrays, boolean arrays."""
    return x[index]


@getitem.vjp
def _(g, x_shape, index):
    return scatter_add(g, shape=x_shape, index=index)


@primitive
def scatter_add(x, *, shape, index):
    """Zeros of `shape`, with x added at `index`: the adjoint of getitem. A repeated index adds up."""
    xp = array_module(x)
    out = zeros(shape, x.dtype, xp)
    if _is_basic(index):
        out[index] = x
    else:
        add_at(out, index, x)
    return out


@scatter_add.vjp
def _(g, index):
    return g[index]


# ---- the lecture's im2col ----


@primitive
def im2col(images, *, patch_size):
    """Cuts images into non-overlapping patches, row by row, each flattened in (row, column, channel) order.

    x ∈ R^(H×W×C) becomes p ∈ R^(N×P²C) with N = HW/P² (lecture, "Image to Patches").

    Args:
        images: (B, H, W, C).
        patch_size: P; must divide H and W.

    Returns:
        (B, N, P·P·C)
    """
    if images.ndim != 4:
        raise ValueError(f"im2col: expected images of shape (batch, height, width, channels), got {images.shape}")
    B, H, W, C = images.shape
    P = patch_size
    if P < 1 or H % P or W % P:
        raise ValueError(
            f"im2col: patch_size {P} does not divide the image size {H}×{W}; choose one that does, or pad the images"
        )
    x = images.reshape(B, H // P, P, W // P, P, C).transpose(0, 1, 3, 2, 4, 5)  # (B, H/P, W/P, P, P, C)
    return x.reshape(B, (H // P) * (W // P), P * P * C)


@im2col.vjp
def _(g, images_shape, patch_size):
    return col2im(g, image_size=images_shape[1:3], patch_size=patch_size)


@primitive
def col2im(patches, *, image_size, patch_size):
    """Puts patches back in their places: the inverse of im2col and, as nothing overlaps, its adjoint.

    Args:
        patches: (B, N, P·P·C).
        image_size: (H, W), or one number for a square.
        patch_size: P.

    Returns:
        (B, H, W, C)
    """
    H, W = (image_size, image_size) if isinstance(image_size, int | np.integer) else image_size
    P = patch_size
    if P < 1 or H % P or W % P:
        raise ValueError(f"col2im: patch_size {P} does not divide the image size {H}×{W}")
    if patches.ndim != 3 or patches.shape[1] != (H // P) * (W // P) or patches.shape[2] % (P * P):
        raise ValueError(
            f"col2im: expected patches of shape (batch, {(H // P) * (W // P)}, {P * P}·channels) for images of "
            f"{H}×{W} and patch_size {P}, got {patches.shape}"
        )
    B, _, D = patches.shape
    x = patches.reshape(B, H // P, W // P, P, P, D // (P * P)).transpose(0, 1, 3, 2, 4, 5)  # (B, H/P, P, W/P, P, C)
    return x.reshape(B, H, W, D // (P * P))


@col2im.vjp
def _(g, patch_size):
    return im2col(g, patch_size=patch_size)


# ---- helpers of the rules ----


def _check_no_list(name: str, arrays: Sequence[Any]) -> None:
    for a in arrays:
        if isinstance(a, list | tuple):
            raise TypeError(f"{name}: expected arrays or Tensors, got a {type(a).__name__}; write {name}(a, b)")


def _as_float(mask: Any, like: Any) -> Any:
    """A boolean array as numbers of the dtype of `like`: a constant in the graph."""
    return mask.astype(like.dtype)


def _axes(ndim: int, axis: Any) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    if not ndim:
        return ()  # of a single number NumPy takes axis=0
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _reduced_shape(shape: tuple[int, ...], axis: Any, keepdims: bool = False) -> tuple[int, ...]:
    axes = _axes(len(shape), axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)


def _count(shape: tuple[int, ...], axis: Any) -> int:
    return math.prod(shape[a] for a in _axes(len(shape), axis))


def _restore_axes(g: Any, shape: tuple[int, ...], axis: Any, keepdims: bool) -> Any:
    """Gives a reduced array its axes of length 1 back, so that it broadcasts against `shape`."""
    return g if keepdims else reshape(g, shape=_reduced_shape(shape, axis, keepdims=True))


def _is_basic(index: Any) -> bool:
    """Whether an index consists of integers, slices, None and Ellipsis, so that no element can occur twice."""
    items = index if isinstance(index, tuple) else (index,)
    return builtins.all(i is None or i is Ellipsis or isinstance(i, (int, np.integer, slice)) for i in items)


# ---- the operators and methods of a Tensor ----


def _shape_of(args: tuple[Any, ...]) -> Any:
    return args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args


def _power(x, exponent):
    if not isinstance(exponent, int | float | np.number):
        raise TypeError(f"power: the exponent must be a number, got {type(exponent).__name__}; use exp(y * log(x))")
    return power(x, exponent=exponent.item() if isinstance(exponent, np.generic) else exponent)


def _getitem(x, index):
    if builtins.any(isinstance(i, Tensor) for i in (index if isinstance(index, tuple) else (index,))):
        raise TypeError("a Tensor cannot be an index; use an array of integers or booleans (tensor.numpy())")
    if x.requires_grad:  # an array may be filled again, with the next batch's places, before the gradients are asked for
        index = tuple(map(_own, index)) if isinstance(index, tuple) else _own(index)
    return getitem(x, index=index)


def _own(index):
    return index.copy() if is_array(index) or isinstance(index, list) else index


def _astype(x, dtype):
    return astype(x, dtype=dtype) if np.dtype(dtype).kind == "f" else Tensor(x.data.astype(dtype))  # no derivative there


_METHODS: dict[str, Callable[..., Any]] = {
    "__add__": lambda x, y: add(x, y),
    "__radd__": lambda x, y: add(y, x),
    "__sub__": lambda x, y: subtract(x, y),
    "__rsub__": lambda x, y: subtract(y, x),
    "__mul__": lambda x, y: multiply(x, y),
    "__rmul__": lambda x, y: multiply(y, x),
    "__truediv__": lambda x, y: divide(x, y),
    "__rtruediv__": lambda x, y: divide(y, x),
    "__matmul__": lambda x, y: matmul(x, y),
    "__rmatmul__": lambda x, y: matmul(y, x),
    "__neg__": lambda x: negative(x),
    "__abs__": lambda x: abs(x),
    "__pow__": _power,
    "__getitem__": _getitem,
    "sum": lambda x, axis=None, keepdims=False: sum(x, axis=axis, keepdims=keepdims),
    "mean": mean,
    "var": var,
    "max": lambda x, axis=None, keepdims=False: max(x, axis=axis, keepdims=keepdims),
    "min": min,
    "reshape": lambda x, *shape: reshape(x, shape=_shape_of(shape)),
    "transpose": lambda x, *axes: transpose(x, axes=tuple(_shape_of(axes)) if axes and axes != (None,) else None),
    "swapaxes": swapaxes,
    "astype": _astype,
    "T": property(lambda x: transpose(x)),  # type: ignore[dict-item]
    # comparisons are plain boolean arrays: they have no derivative
    "__lt__": lambda x, y: x.data < _array(y),
    "__le__": lambda x, y: x.data <= _array(y),
    "__gt__": lambda x, y: x.data > _array(y),
    "__ge__": lambda x, y: x.data >= _array(y),
    "__eq__": lambda x, y: x.data == _array(y),
    "__ne__": lambda x, y: x.data != _array(y),
}


def _array(value: Any) -> Any:
    return value.data if isinstance(value, Tensor) else value


for _name, _method in _METHODS.items():
    setattr(Tensor, _name, _method)

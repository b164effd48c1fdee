"""Why a gradient is wrong: an ordered table of small tests, each of one cause.

A test compares the analytic gradient a with the numeric one n, and with what else is known: the inputs, the result y,
the cotangent g, the derivative of every output by every input. It speaks only if its cause explains the numbers: what
remains after it must be a hundredth of the error or less. And it must explain them at two points, with the same
constants: at x = (1, 1, 1) a forgotten factor x and a right gradient look alike, elsewhere they do not.

To add a cause: write the test, and put it in `TESTS` where it belongs; the first that speaks is the surest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minivit.autograd import unbroadcast
from minivit.checking.report import Finding

Array = np.ndarray


@dataclass
class Point:
    """Everything known at one point x.

    Attributes:
        inputs, names: the inputs and what to call them.
        y, g: the result and the cotangent.
        a, n, bar: analytic gradient, numeric gradient and its error bar, one array per input. Of an input too large
            to look at every element: flat arrays of some.
        full: per input, whether all elements are there, in its shape.
        columns: per input (elements, outputs): the numeric derivative of every output; None if too large.
        other: the analytic gradients for another random cotangent, or None.
        constants: integer arrays among the arguments.
        derivative: of which order the gradient is. From the second on the result is flat, and its axes say nothing.
    """

    inputs: list[Array]
    names: list[str]
    y: Array
    g: Array
    a: list[Any]
    n: list[Array]
    bar: list[Array]
    full: list[bool]
    columns: list[Array | None]
    other: list[Array] | None
    constants: list[Array]
    derivative: int = 1
    full_sum: Any = None  # (input) -> numeric gradient as if the input had the result's shape, or None

    def explains(self, i: int, guess: Any, target: Any = None, free: int = 0) -> bool:
        """Whether `guess` equals the target (by default the numeric gradient of input i) as nearly as can be told.

        `free`: how many numbers of the guess were fitted; there must be more that were not.
        """
        target = self.n[i] if target is None else target
        if np.shape(guess) != target.shape or not np.isfinite(guess).all() or target.size <= free:
            return False
        left = float(np.max(np.abs(guess - target), initial=0.0))
        size = float(np.max(np.abs(target), initial=0.0))
        error = size if self.a[i].shape != self.n[i].shape else float(np.max(np.abs(self.a[i] - self.n[i]), initial=0.0))
        return size > 0 and left <= min(1e-6 * size + 10 * float(np.max(self.bar[i], initial=0.0)), 1e-2 * error)


class Hint(NamedTuple):
    code: str
    key: Any  # must be the same at both points
    message: str
    evidence: dict[str, Any]


# ---- the causes ----


def missing_broadcast_sum(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or p.derivative > 1:
        return
    if a.shape != n.shape:
        for k in range(1, a.ndim + 1):
            for axes in itertools.combinations(range(a.ndim), k):
                for keep in (False, True):
                    total = a.sum(axis=axes, keepdims=keep)
                    if total.shape != n.shape:
                        continue
                    for sign in (1, -1):
                        if p.explains(i, sign * total):
                            yield Hint("missing_broadcast_sum", axes, f"the gradient of {p.names[i]} has shape {a.shape}; "
                                       f"summed over {_axes(axes)}, along which the input was broadcast, it is "
                                       f"{'minus ' * (sign < 0)}the numeric one", {"axes": axes, "sign": sign})  # fmt: skip
                            return
        return
    spread = p.full_sum(i) if p.full_sum is not None else None
    if spread is None:
        return
    whole = spread.reshape(p.y.shape)
    extra = whole.ndim - n.ndim
    right = tuple(range(extra)) + tuple(extra + k for k, m in enumerate(n.shape) if m == 1 and whole.shape[extra + k] != 1)
    for axis in right:
        for position in (0, -1):
            piece = unbroadcast(whole.take([position], axis=axis), n.shape)
            if p.explains(i, piece, a):
                yield Hint("missing_broadcast_sum", (axis, position), f"the gradient of {p.names[i]} has only the "
                           f"{'first' if position == 0 else 'last'} of {whole.shape[axis]} entries along axis {axis} of the "
                           "result; the input was broadcast there, so all must be summed", {"axes": (axis,)})  # fmt: skip
                return
    for axes in itertools.combinations(range(whole.ndim), len(right)):
        total = whole.sum(axis=axes)
        if axes != right and total.size == n.size and p.explains(i, total.reshape(n.shape), a):
            yield Hint("missing_broadcast_sum", axes, f"the gradient of {p.names[i]} was summed over {_axes(axes)} of the "
                       f"result; the input was broadcast along {_axes(right)}", {"axes": right, "summed": axes})  # fmt: skip
            return


def swapped_inputs(p: Point, i: int) -> Iterator[Hint]:
    for j in range(len(p.n)):
        if (
            j != i and p.a[j] is not None and p.full[i] and p.full[j]
            and p.explains(i, p.a[j]) and p.explains(j, p.a[i])
        ):  # fmt: skip
            yield Hint("swapped_inputs", frozenset((i, j)), f"the gradients of {p.names[i]} and {p.names[j]} are right, but "
                       "in each other's place", {"inputs": (i, j)})  # fmt: skip
            return


def not_finite(p: Point, i: int) -> Iterator[Hint]:
    bad = int(np.sum(~np.isfinite(p.a[i])))
    if bad and p.a[i].shape == p.n[i].shape:
        yield Hint("not_finite", None, f"the gradient of {p.names[i]} has {bad} of {p.a[i].size} elements NaN or infinite, "
                   "where the derivative is finite", {"count": bad})  # fmt: skip


def zero_gradient(p: Point, i: int) -> Iterator[Hint]:
    if p.a[i].size and not p.a[i].any():
        yield Hint("zero_gradient", None, f"the gradient of {p.names[i]} is zero; the derivative is not (up to "
                   f"{np.max(np.abs(p.n[i])):.3g}). Was the input left out, or the graph cut on the way?",
                   {"largest": float(np.max(np.abs(p.n[i])))})  # fmt: skip


def cotangent_ignored(p: Point, i: int) -> Iterator[Hint]:
    if p.other is None or not p.a[i].any() or not p.full[i]:
        return
    change = float(np.max(np.abs(p.other[i] - p.a[i])))
    if change <= 1e-12 * float(np.max(np.abs(p.a[i]))):
        yield Hint("cotangent_ignored", None, f"the gradient of {p.names[i]} stays the same for another cotangent; multiply "
                   "by g (the chain rule)", {"change": change})  # fmt: skip


def wrong_sign(p: Point, i: int) -> Iterator[Hint]:
    if p.explains(i, -p.a[i]):
        yield Hint("wrong_sign", None, f"the gradient of {p.names[i]} is minus the numeric one", {"factor": -1.0})


def _factor(p: Point, i: int) -> float | None:
    """c, if a = c n."""
    a, n = p.a[i], p.n[i]
    if a.shape != n.shape or not a.any() or not n.any():
        return None
    c = float(np.sum(a * n) / np.sum(n * n))
    return c if c and p.explains(i, a / c) else None


def mean_vs_sum(p: Point, i: int) -> Iterator[Hint]:
    c = _factor(p, i)
    if c is None or p.derivative > 1:
        return
    for name, length in _reduced_lengths(p).items():
        for value, meaning in ((length, "the gradient of a sum where a mean is taken"),
                               (1 / length, "the gradient of a mean where a sum is taken")):  # fmt: skip
            for sign in (1, -1):
                if math.isclose(c, sign * value, rel_tol=1e-6):
                    yield Hint("mean_vs_sum", (length, value, sign), f"analytic = {c:.6g} × numeric for {p.names[i]}; {length} "
                               f"is the length of {name}: {meaning}{', and the sign' * (sign < 0)}?",
                               {"factor": c, "length": length})  # fmt: skip
                    return


def constant_factor(p: Point, i: int) -> Iterator[Hint]:
    c = _factor(p, i)
    if c is None or math.isclose(c, -1, rel_tol=1e-6):
        return
    known = _known_factor(p, abs(c))
    if p.n[i].size < 2 and not known:  # one number is always a multiple of another
        return
    sign = "the sign and " if c < 0 else ""
    yield Hint("constant_factor", (sign, known or f"{c:.5g}"), f"analytic = {c:.6g} × numeric for {p.names[i]}, all elements: "
               f"off by {sign}a constant factor{f', {known}' if known else ''}", {"factor": c})  # fmt: skip


def missing_factor(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.shape != n.shape:
        return
    passed = _fit(p.g, n.shape)
    for sign in (1, -1):
        if passed is not None and p.explains(i, sign * passed, a):
            yield Hint("missing_factor", ("g", sign), f"the gradient of {p.names[i]} is {'minus ' * (sign < 0)}the cotangent "
                       "itself: the local derivative is missing", {"equals": "g"})  # fmt: skip
            return
    for name, value in _known_values(p, i):
        with np.errstate(all="ignore"):
            for power, how in ((1, "times"), (-1, "divided by")):
                if np.ptp(value) > 1e-3 * np.max(np.abs(value)) and p.explains(i, a * value**power):
                    yield Hint("missing_factor", (name, power), f"the gradient of {p.names[i]}, {how} {name}, is the numeric "
                               "one: a factor is missing", {"factor": name, "power": power})  # fmt: skip
                    return


def softmax_off_diagonal(p: Point, i: int) -> Iterator[Hint]:
    y, a = p.y, p.a[i]
    if not p.full[i] or y.shape != a.shape or y.ndim == 0 or (y < 0).any():
        return
    for axis in range(y.ndim):
        if y.shape[axis] > 1 and np.allclose(y.sum(axis=axis), 1) and p.explains(
            i, p.g * y - y * np.sum(p.g * y, axis=axis, keepdims=True)
        ):
            for guess, text in ((p.g * y * (1 - y), "g p (1 - p), the diagonal of diag(p) - p pᵀ alone"),
                                (p.g * y, "g p: the part - p pᵀ is missing")):  # fmt: skip
                if p.explains(i, guess, a):
                    yield Hint("softmax_off_diagonal", text, f"the gradient of {p.names[i]} is {text}; every output of a "
                               "softmax depends on every input", {"axis": axis})  # fmt: skip
                    return


def layer_norm_term(p: Point, i: int) -> Iterator[Hint]:
    x, a = p.inputs[i], p.a[i]
    if not p.full[i] or p.y.shape != x.shape or a.shape != x.shape or x.ndim == 0 or x.shape[-1] < 3:
        return
    c = x - x.mean(axis=-1, keepdims=True)
    weights: list[Array | float] = [1.0, *(w for j, w in enumerate(p.inputs) if j != i and w.shape == x.shape[-1:])]
    for eps, w in itertools.product((0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-3), weights):
        with np.errstate(all="ignore"):
            r = 1 / np.sqrt(np.mean(c * c, axis=-1, keepdims=True) + eps)
        h, normed = p.g * w, c * r
        mean, variance = h.mean(axis=-1, keepdims=True), normed * np.mean(h * normed, axis=-1, keepdims=True)
        if not p.explains(i, r * (h - mean - variance)):
            continue
        for guess, text in (
            (r * h, "neither the mean nor the variance is differentiated"),
            (r * (h - mean), "the variance is not differentiated"),
            (r * (h - variance), "the mean is not differentiated"),
        ):
            if p.explains(i, guess, a):
                yield Hint("layer_norm_term", text, f"the gradient of {p.names[i]} of a normalization: {text}, though both "
                           "depend on x", {"eps": eps})  # fmt: skip
                return


def transposed(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.ndim < 2 or a.ndim > 5 or a.ndim != n.ndim:
        return
    for order in itertools.permutations(range(a.ndim)):
        if order != tuple(range(a.ndim)) and p.explains(i, a.transpose(order)):
            moved = [k for k, m in enumerate(order) if k != m]
            code = "transposed" if len(moved) == 2 else "permuted"
            yield Hint(code, order, f"the gradient of {p.names[i]} has the right numbers with {_axes(moved)} exchanged",
                       {"axes": order})  # fmt: skip
            return


def permuted(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.shape != n.shape:
        return
    for axis in range(a.ndim):
        if p.explains(i, np.flip(a, axis)):
            yield Hint("permuted", ("flip", axis), f"the gradient of {p.names[i]} is right but reversed along axis {axis}",
                       {"axis": axis, "how": "reversed"})  # fmt: skip
            return
        for shift in range(1, min(a.shape[axis], 16)):
            if p.explains(i, np.roll(a, shift, axis)):
                yield Hint("permuted", ("roll", axis, shift), f"the gradient of {p.names[i]} is right but rolled along axis "
                           f"{axis} by {shift}", {"axis": axis, "how": "rolled", "by": shift})  # fmt: skip
                return


def assigned_not_added(p: Point, i: int) -> Iterator[Hint]:
    columns = p.columns[i]
    if columns is None or not p.full[i] or p.a[i].shape != p.n[i].shape:
        return
    parts = columns * p.g.reshape(1, -1)  # what each output contributes to each element
    a, n = p.a[i].reshape(-1), p.n[i].reshape(-1)
    tolerance = 1e-6 * np.max(np.abs(n)) + 10 * np.max(p.bar[i])
    several = np.sum(np.abs(parts) > tolerance, axis=1) > 1
    wrong = np.abs(a - n) > tolerance
    if not wrong.any() or (wrong & ~several).any():
        return
    one_of_them = np.min(np.abs(parts - a[:, None]), axis=1) <= tolerance
    if one_of_them[wrong].all() and np.all(np.abs(a[wrong]) > tolerance):
        yield Hint("assigned_not_added", None, f"the gradient of {p.names[i]} is wrong only where several outputs use one "
                   f"element ({int(wrong.sum())} of {a.size}): there it has one contribution instead of their sum. `=` where "
                   "`+=` (np.add.at) is needed?", {"count": int(wrong.sum())})  # fmt: skip


def misplaced(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.size != n.size or n.size < 3:
        return
    if a.shape != n.shape and p.explains(i, a.reshape(n.shape)):
        return  # the shape alone is wrong, and said to be
    ordered = np.sort(n, axis=None)
    if np.max(np.abs(n)) * 1e-5 > np.min(np.diff(ordered), initial=np.inf) and len(np.unique(np.round(ordered, 8))) < 3:
        return
    guess = np.empty(n.size)
    guess[np.argsort(n, axis=None)] = np.sort(a, axis=None)
    if p.explains(i, guess.reshape(n.shape)):
        yield Hint("misplaced", None, f"the gradient of {p.names[i]} has the right {n.size} numbers in other places; is an "
                   "axis order, a reshape or an index inverted the wrong way?", {})  # fmt: skip


def missing_term(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.shape != n.shape or not a.any():
        return
    rest = n - a
    known = _known_values(p, i)
    with np.errstate(all="ignore"):
        factors = [("", np.ones(()))] + [(f" × {k}", v) for k, v in known] + [(f" / ({k})", 1 / v) for k, v in known]
        for chosen in itertools.combinations_with_replacement(factors[:9], 3):
            term = p.g
            for _, value in chosen:
                term = term * value if _spreads(value.shape, p.g.shape) else term * np.nan
            fitted = _fit(term, n.shape)
            if fitted is None or not np.isfinite(fitted).all() or not fitted.any():
                continue
            c = float(np.sum(rest * fitted) / np.sum(fitted * fitted))
            nice = next((k for k in (1, -1, 2, -2, 0.5, -0.5, 3, -3) if math.isclose(c, k, rel_tol=1e-5)), None)
            if nice is not None and p.explains(i, nice * fitted, rest):
                text = f"{nice:+g} × g" + "".join(name for name, _ in chosen)
                yield Hint("missing_term", text, f"numeric - analytic for {p.names[i]} is {text}: that term is missing (a part "
                           "of a product or quotient rule, or a second path to the result)", {"term": text})  # fmt: skip
                return
        shapes = [("the same", np.ones(n.shape)), *((f"a multiple of {k}", v) for k, v in known if v.shape == n.shape)]
        for axis, (text, value) in itertools.product(reversed(range(n.ndim)), shapes):
            size = np.sum(value * value, axis=axis, keepdims=True)
            scale = np.sum(rest * value, axis=axis, keepdims=True) / size
            if n.shape[axis] >= 3 and p.explains(i, scale * value, rest, free=scale.size * 2):
                yield Hint("missing_term", (text, axis), f"numeric - analytic for {p.names[i]} is {text} along axis {axis}: "
                           "the path through something reduced over that axis (a sum, mean or norm) is missing",
                           {"axis": axis, "term": text})  # fmt: skip
                return


TESTS = (
    not_finite, missing_broadcast_sum, zero_gradient, cotangent_ignored, wrong_sign, swapped_inputs, mean_vs_sum,
    missing_factor, softmax_off_diagonal, layer_norm_term, constant_factor, transposed, permuted, assigned_not_added,
    misplaced, missing_term,
)  # fmt: skip


def diagnose(points: Sequence[Point], wrong: Sequence[int]) -> list[Finding]:
    """The causes that explain the wrong inputs at every point, the surest first."""
    found: list[Finding] = []
    for test in TESTS:
        for i in wrong:
            if points[0].a[i] is None:
                continue
            hints = list(test(points[0], i))
            for p in points[1:]:
                keys = {(h.code, h.key) for h in test(p, i)} if p.a[i] is not None else set()
                hints = [h for h in hints if (h.code, h.key) in keys]
            for hint in hints:
                if test is missing_term and found:  # the vaguest of the causes
                    continue
                if test is misplaced and {"transposed", "permuted"} & {f.code for f in found}:  # said more exactly
                    continue
                if hint.code not in {f.code for f in found}:
                    found.append(Finding(hint.code, hint.message, {"input": points[0].names[i], **hint.evidence}))
    return found


# ---- what the causes look at ----


def _axes(axes: Sequence[int]) -> str:
    return f"{'axis' if len(axes) == 1 else 'axes'} {' and '.join(map(str, axes))}"


def _fit(value: Array, shape: tuple[int, ...]) -> Array | None:
    """An array of the result's shape as one of the input's: summed where the input was broadcast, or spread where it
    was reduced. None if neither fits."""
    if _spreads(shape, value.shape):
        return unbroadcast(value, shape)
    return np.array(np.broadcast_to(value, shape)) if _spreads(value.shape, shape) else None


def _spreads(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to the shape `to`."""
    return len(shape) <= len(to) and all(m in (1, n) for m, n in zip(reversed(shape), reversed(to)))


def _known_values(p: Point, i: int) -> list[tuple[str, Array]]:
    """Arrays a local derivative may be made of, if they broadcast against input i."""
    candidates = [("x" if len(p.inputs) == 1 else p.names[i], p.inputs[i]), ("the result", p.y)]
    candidates += [(p.names[j], v) for j, v in enumerate(p.inputs) if j != i]
    shape = p.n[i].shape
    known = []
    for name, value in candidates[:4]:
        if _spreads(value.shape, shape) and value.any():
            known.append((name, value))
    return known


def _reduced_lengths(p: Point) -> dict[str, int]:
    """Lengths over which something may be summed: of axes that an input has and the result has not, or the other way."""
    lengths: dict[str, int] = {}
    for x in p.inputs:
        for ours, theirs, whose in ((x.shape, p.y.shape, "a reduced axis"), (p.y.shape, x.shape, "a broadcast axis")):
            left = list(theirs)
            gone = [m for m in ours if m > 1 and not (m in left and not left.remove(m))]  # type: ignore[func-returns-value]
            for k in range(1, min(len(gone), 4) + 1):
                for chosen in itertools.combinations(gone, k):
                    name = whose if k == 1 else f"{whose.replace('axis', 'axes')} together"
                    lengths.setdefault(f"{name} ({' × '.join(map(str, chosen))})", math.prod(chosen))
    return lengths


def _known_factor(p: Point, c: float) -> str:
    """What a factor c > 0 may be, in words; empty if nothing comes to mind."""

    def near(value: float) -> bool:
        return value > 0 and math.isclose(c, value, rel_tol=1e-6)

    for value, text in ((2.0, "2 (a square's, or counted twice)"), (0.5, "1/2 (a forgotten 2 of a square, or one of two "
                        "equal paths)"), (3.0, "3"), (1 / 3, "1/3"), (math.pi, "π")):  # fmt: skip
        if near(value):
            return text
    lengths = sorted({m for a in (*p.inputs, p.y) for m in a.shape if m > 1})
    for m in lengths:
        for value, text in ((m, f"{m}"), (1 / m, f"1/{m}"), (m**0.5, f"√{m}"), (m**-0.5, f"1/√{m}")):
            if near(value):
                return f"{text}, with {m} the length of an axis"
    for x, name in zip(p.inputs, p.names):
        if x.size == 1:
            for value, text in ((abs(x.item()), "the value"), (1 / abs(x.item()) if x.item() else 0, "the inverse")):
                if near(value):
                    return f"{text} of {name.split(',')[0]} (a temperature?)"
    for m in (4, 5, 6, 8, 10):
        if near(m) or near(1 / m):
            return f"{m}" if near(m) else f"1/{m}"
    return ""

"""Why an array is not the expected one: a few small tests, each of one cause, with the codes of `mv.gradcheck`.

A gradient can be examined from many sides; of a plain result there are only two arrays, what came and what was
expected. A test speaks only if after undoing its cause nothing is left but rounding.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minivit.checking import Finding

Array = np.ndarray


def explain_values(
    came: Any, expected: Any, *, name: str = "the result", inputs: Sequence[Any] = (), rtol: float | None = None
) -> list[Finding]:
    """What is the matter with `came`, the surest first; [] if it is what was expected.

    Args:
        came: what a function returned, anything.
        expected: an array or a number.
        name: what to call it in messages.
        inputs: the arguments of the function; the lengths of their axes explain factors.
        rtol: how nearly, relative to the largest element; None is 1e-9, or 1e-4 where float32 is expected.
    """
    expected = np.asarray(expected)
    if came is None:
        return [Finding("wrong_shape", f"{name} is None; is a return missing?", {"came": "None"})]
    if not isinstance(came, np.ndarray | np.generic | float | int):
        return [Finding("wrong_dtype", f"{name} is a {type(came).__name__}, not an array", {"came": type(came).__name__})]
    a = np.asarray(came)
    if a.dtype.kind not in "fiub":
        return [Finding("wrong_dtype", f"{name} is an array of {a.dtype}", {"came": str(a.dtype)})]
    low = expected.dtype == np.float32
    rtol = (1e-4 if low else 1e-9) if rtol is None else rtol
    found: list[Finding] = []
    if a.shape != expected.shape:
        found.append(Finding("wrong_shape", f"{name} has shape {a.shape}, expected {expected.shape}",
                             {"came": a.shape, "expected": expected.shape}))  # fmt: skip
    if isinstance(came, np.ndarray | np.generic) and a.dtype != expected.dtype:
        found.append(Finding("wrong_dtype", f"{name} is {a.dtype}, expected {expected.dtype}",
                             {"came": str(a.dtype), "expected": str(expected.dtype)}))  # fmt: skip
    a, b = a.astype(np.float64), expected.astype(np.float64)
    if a.shape == b.shape and _near(a, b, rtol, _size(b)):
        return found
    causes = list(_causes(a, b, name, inputs, rtol))
    found = causes + found if any(c.code in ("transposed", "permuted") for c in causes) else found + causes
    return found or [Finding("unexplained", f"{name} differs by up to {np.max(np.abs(a - b)):.3g}, and the numbers support "
                             "no cause that is known here", {})]  # fmt: skip


def _size(b: Array) -> float:
    return float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))


def _near(a: Array, b: Array, rtol: float, size: float) -> bool:
    if a.shape != b.shape:
        return False
    with np.errstate(invalid="ignore"):
        return bool(np.all((np.abs(a - b) <= rtol * size) | (a == b)))


def _causes(a: Array, b: Array, name: str, inputs: Sequence[Any], rtol: float) -> Iterator[Finding]:
    size = _size(b)

    def is_expected(guess: Array) -> bool:
        return _near(guess, b, max(rtol, 1e-9), size)

    bad = int(np.sum(~np.isfinite(a)))
    if bad and np.isfinite(b).all():
        yield Finding("not_finite", f"{name} has {bad} of {a.size} elements NaN or infinite", {"count": bad})
    if bad or not np.isfinite(b).all():
        return
    if a.size == b.size and a.shape == b.shape:
        if not a.any():
            yield Finding("zero_gradient", f"{name} is all zeros", {})
            return
        if is_expected(-a):
            yield Finding("wrong_sign", f"{name} is exactly minus the expected one", {})
            return
        yield from _factor(a, b, name, inputs, is_expected)
    yield from _order(a, b, name, is_expected)
    if a.shape == b.shape:
        yield from _offset(a, b, name, is_expected)


def _factor(a: Array, b: Array, name: str, inputs: Sequence[Any], is_expected: Any) -> Iterator[Finding]:
    """One constant factor between them?"""
    c = float(np.sum(a * b) / np.sum(a * a))
    if b.size < 2 or not is_expected(c * a) or math.isclose(c, 1):
        return
    c = 1 / c  # came = c × expected
    lengths = sorted({m for v in (*inputs, b) if isinstance(v, np.ndarray) for m in v.shape if m > 2})
    for m in lengths:
        if math.isclose(abs(c), m, rel_tol=1e-6) or math.isclose(abs(c), 1 / m, rel_tol=1e-6):
            which = f"{m}" if abs(c) > 1 else f"1/{m}"
            yield Finding("mean_vs_sum", f"{name} is {'minus ' * (c < 0)}{which} of the expected one, and {m} is the length "
                          "of an axis: a mean where a sum is expected, or the other way?", {"factor": c})  # fmt: skip
            return
    maybe = ""
    for m in lengths:
        for value, text in ((math.sqrt(m), f"√{m}"), (1 / math.sqrt(m), f"1/√{m}")):
            if math.isclose(abs(c), value, rel_tol=1e-6):
                maybe = f" ({text}, with {m} the length of an axis)"
    yield Finding("constant_factor", f"{name} is {c:.6g} times the expected one{maybe}", {"factor": c})


def _order(a: Array, b: Array, name: str, is_expected: Any) -> Iterator[Finding]:
    """The right numbers in other places?"""
    if a.size != b.size or b.size < 2:
        return
    if a.ndim == b.ndim and 2 <= a.ndim <= 5:
        for axes in itertools.permutations(range(a.ndim)):
            if axes != tuple(range(a.ndim)) and is_expected(a.transpose(axes)):
                moved = [k for k, m in enumerate(axes) if k != m]
                code = "transposed" if len(moved) == 2 else "permuted"
                yield Finding(code, f"{name} has the right numbers with axes {' and '.join(map(str, moved))} exchanged",
                              {"axes": axes})  # fmt: skip
                return
    if a.shape == b.shape:
        for axis in range(a.ndim):
            if is_expected(np.flip(a, axis)):
                yield Finding("permuted", f"{name} is right but reversed along axis {axis}", {"axis": axis})
                return
            for shift in range(1, min(a.shape[axis], 16)):
                if is_expected(np.roll(a, shift, axis)):
                    yield Finding("permuted", f"{name} is right but rolled along axis {axis} by {shift}",
                                  {"axis": axis, "by": shift})  # fmt: skip
                    return
    elif is_expected(a.reshape(b.shape)):
        return  # the shape alone is wrong, and said to be
    if len(np.unique(b)) > 2:
        guess = np.empty(b.size)
        guess[np.argsort(b, axis=None, kind="stable")] = np.sort(a, axis=None)
        if is_expected(guess.reshape(b.shape)):
            yield Finding("misplaced", f"{name} has the right {b.size} numbers in other places; is an axis order, a reshape "
                          "or an index the wrong way?", {})  # fmt: skip


def _offset(a: Array, b: Array, name: str, is_expected: Any) -> Iterator[Finding]:
    """Right but for something that is the same along an axis?"""
    for axes in [None, *reversed(range(a.ndim))]:
        if a.size < 3 or (axes is not None and (a.shape[axes] < 3 or a.ndim < 2)):
            continue
        off = np.mean(b - a, axis=axes, keepdims=True)
        if is_expected(a + off):
            what = f"{float(off.ravel()[0]):.6g} everywhere" if axes is None else f"the same along axis {axes}"
            yield Finding("missing_term", f"expected - {name} is {what}: a term is missing or too many", {"axis": axes})
            return


def values_text(function: str, findings: Sequence[Finding], came: Any, expected: Any) -> str:
    """The findings and the worst elements, in 80 columns."""
    lines = [f"{function}:"]
    for k, finding in enumerate(findings, 1):
        lines += textwrap.wrap(f"{k}. {finding.code}: {finding.message}", 79, initial_indent="  ",
                               subsequent_indent="     ")  # fmt: skip
    if isinstance(came, np.ndarray | np.generic | float | int) and np.shape(came) == np.shape(expected):
        a, b = np.asarray(came, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            error = np.where(np.isfinite(a), np.abs(a - b), np.inf)
        if a.size and error.max() > 0:
            lines.append(f"{'element':<12}{'yours':>16}{'expected':>16}{'error':>10}")
            for flat in np.sort(np.argsort(-error, axis=None, kind="stable")[:5]):
                index = np.unravel_index(flat, a.shape)
                place = "[" + ",".join(str(int(k)) for k in index) + "]"
                lines.append(f"{place:<12}{a[index]:>16.8g}{b[index]:>16.8g}{error[index]:>10.1e}")
    return "\n".join(lines)

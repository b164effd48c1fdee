"""What is known where a gradient is wrong, and what a cause says about it.

A cause is a small test (`scale.py`, `place.py`, `terms.py`, `paths.py`): it compares the analytic gradient a with the
numeric one n, and speaks only if it explains the numbers: what it leaves must be a hundredth of the error or less.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minivit.autograd import unbroadcast
from minivit.checking.tracing import Step

Array = np.ndarray


class Hint(NamedTuple):
    """What a test says: `key` must come out the same at another point, or it was chance."""

    code: str
    key: Any
    message: str
    evidence: dict[str, Any]


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
        full_sum: (input) -> the numeric gradient as if the input had the result's shape, or None.
        steps: () -> the steps of the function (`tracing.py`), or None where there is no record of them.
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
    full_sum: Callable[[int], Array | None] = lambda i: None
    steps: Callable[[], list[Step] | None] = lambda: None

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

    def proportion(self, i: int, moved: Array) -> float | None:
        """c, if `moved` (the analytic gradient put in other places) is c times the numeric one, and c may be a reason."""
        n = self.n[i]
        if moved.shape != n.shape or not n.any() or not np.isfinite(moved).all():
            return None
        c = float(np.sum(moved * n) / np.sum(n * n))
        if not c or not self.explains(i, moved / c, free=0 if math.isclose(abs(c), 1, rel_tol=1e-6) else 3):
            return None
        if math.isclose(abs(c), 1, rel_tol=1e-6):
            return math.copysign(1.0, c)
        known = known_factor(self, abs(c)) or any(math.isclose(abs(c), v, rel_tol=1e-6)
                                                  for m in reduced_lengths(self).values() for v in (m, 1 / m))  # fmt: skip
        return c if known else None


def and_factor(c: float) -> str:
    """How a message goes on when the numbers are also off by the factor c."""
    return "" if c == 1 else ", with the opposite sign" if c == -1 else f", and {c:.6g} times as large"


# ---- what the causes look at ----


def axes_text(axes: Sequence[int]) -> str:
    return f"{'axis' if len(axes) == 1 else 'axes'} {' and '.join(map(str, axes))}"


def fit(value: Array, shape: tuple[int, ...]) -> Array | None:
    """An array of the result's shape as one of the input's: summed where the input was broadcast, or spread where it
    was reduced. None if neither fits."""
    if spreads(shape, value.shape):
        return unbroadcast(value, shape)
    return np.array(np.broadcast_to(value, shape)) if spreads(value.shape, shape) else None


def handed_on(g: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """A cotangent as it may have been handed on unchanged: as it is, summed, or repeated along an axis that was reduced."""
    whole = fit(g, shape)
    if whole is not None:
        yield whole
    elif g.ndim == len(shape) - 1:
        for axis in range(len(shape)):
            if g.shape == shape[:axis] + shape[axis + 1 :]:
                yield np.array(np.broadcast_to(np.expand_dims(g, axis), shape))


def spreads(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to the shape `to`."""
    return len(shape) <= len(to) and all(m in (1, n) for m, n in zip(reversed(shape), reversed(to)))


def known_values(p: Point, i: int) -> list[tuple[str, Array]]:
    """Arrays a local derivative may be made of, if they broadcast against input i."""
    shape = p.n[i].shape
    candidates = [("x" if len(p.inputs) == 1 else p.names[i], p.inputs[i])]
    if p.y.ndim and p.y.ndim == len(shape) - 1:
        with np.errstate(over="ignore"):
            candidates += [(text, np.expand_dims(v, k)) for k in range(len(shape)) if shape[:k] + shape[k + 1 :] == p.y.shape
                           for text, v in (("the result", p.y), ("exp(the result)", np.exp(p.y)))]  # fmt: skip
    else:
        candidates.append(("the result", p.y))
    candidates += [(p.names[j], v) for j, v in enumerate(p.inputs) if j != i]
    return [(name, value) for name, value in candidates[:5] if spreads(value.shape, shape) and value.any()]


def reduced_lengths(p: Point, i: int | None = None) -> dict[str, int]:
    """Lengths over which something may be summed: of axes that an input (i, or any) has and the result has not, or the other
    way."""
    lengths: dict[str, int] = {}
    for x in p.inputs if i is None else p.inputs[i : i + 1]:
        for ours, theirs, whose in ((x.shape, p.y.shape, "a reduced axis"), (p.y.shape, x.shape, "a broadcast axis")):
            gone = [m for m in (Counter(ours) - Counter(theirs)).elements() if m > 1]
            for k in range(1, min(len(gone), 4) + 1):
                for chosen in itertools.combinations(gone, k):
                    name = whose if k == 1 else f"{whose[2:-4]}axes together"
                    lengths.setdefault(f"{name} ({' × '.join(map(str, chosen))})", math.prod(chosen))
    return lengths


def known_factor(p: Point, c: float) -> str:
    """What a factor c > 0 may be, in words; empty if nothing comes to mind."""

    def near(value: float) -> bool:
        return value > 0 and math.isclose(c, value, rel_tol=1e-6)

    readings = [
        (2.0, "2 (a square's, or counted twice)"), (0.5, "1/2 (a forgotten 2 of a square, or one of two equal paths)"),
        (3.0, "3"), (1 / 3, "1/3"), (math.pi, "π"), (math.log(2), "ln 2"), (1 / math.log(2), "1/ln 2"),
        (math.sqrt(2 * math.pi), "√(2π)"), (1 / math.sqrt(2 * math.pi), "1/√(2π)"),
    ]  # fmt: skip
    for m in sorted({m for a in (*p.inputs, p.y) for m in a.shape if m > 1}):
        for value, text in ((m, f"{m}"), (1 / m, f"1/{m}"), (m**0.5, f"√{m}"), (m**-0.5, f"1/√{m}")):
            readings.append((value, f"{text}, with {m} the length of an axis"))
    found = [text for value, text in readings if near(value)]
    if found:
        return "; or ".join(found[:2])
    for x, name in zip(p.inputs, p.names):
        if x.size == 1:
            for value, text in ((abs(x.item()), "the value"), (1 / abs(x.item()) if x.item() else 0, "the inverse")):
                if near(value):
                    return f"{text} of {name.split(',')[0]} (a temperature?)"
    for m in (4, 5, 6, 8, 10):
        if near(m) or near(1 / m):
            return f"{m}" if near(m) else f"1/{m}"
    return ""

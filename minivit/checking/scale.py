"""Causes that leave every number in its place: a sign, a factor, a cotangent that was forgotten, nothing at all."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from minivit.checking.point import Hint, Point, handed_on, known_factor, known_values, reduced_lengths
from minivit.checking.report import ratio_text


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
    if a.shape != n.shape or not a.any() or not n.any() or (a.size < 3 and not p.full[i]):
        return None
    c = float(np.sum(a * n) / np.sum(n * n))
    return c if c and p.explains(i, a / c) else None


def mean_vs_sum(p: Point, i: int) -> Iterator[Hint]:
    c = _factor(p, i)
    if c is None or p.derivative > 1:
        return
    for name, length in reduced_lengths(p, i).items():
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
    known = known_factor(p, abs(c))
    if p.n[i].size < 2 and not known:  # one number is always a multiple of another
        return
    sign = "the sign and " if c < 0 else ""
    yield Hint("constant_factor", (sign, known or f"{c:.5g}"), f"analytic = {ratio_text(c)} × numeric for {p.names[i]}, all "
               f"elements: off by {sign}a constant factor{f', {known}' if known else ''}", {"factor": c})  # fmt: skip


def missing_factor(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.shape != n.shape:
        return
    for passed in handed_on(p.g, n.shape):
        for sign in (1, -1):
            if p.explains(i, sign * passed, a):
                yield Hint("missing_factor", ("g", sign), f"the gradient of {p.names[i]} is {'minus ' * (sign < 0)}the "
                           "cotangent itself: the local derivative is missing", {"equals": "g"})  # fmt: skip
                return
    for name, value in known_values(p, i):
        with np.errstate(all="ignore"):
            for power, how in ((1, "times"), (-1, "divided by")):
                if p.explains(i, a * value**power):
                    yield Hint("missing_factor", (name, power), f"the gradient of {p.names[i]}, {how} {name}, is the numeric "
                               "one: a factor is missing", {"factor": name, "power": power})  # fmt: skip
                    return

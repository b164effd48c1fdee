"""What is known where a gradient is wrong: all the numbers at one point and at another, and what other methods say.

The causes (`diagnosis.py`) are looked for in these.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from minivit.checking.differences import EPS, STEP, complex_step, differences
from minivit.checking.elsewhere import SHARES, cotangent, moved
from minivit.checking.judging import Judged, judge_all
from minivit.checking.point import Point
from minivit.checking.problem import HandWritten, Problem, check_forward
from minivit.checking.report import Report

Array = np.ndarray


def point_of(
    problem: Problem, inputs: list[Array], y: Array, g: Array, analytic: list[Any], judged: list[Judged],
    other: list[Array] | None,
) -> Point:  # fmt: skip
    full = [len(j.elements) == x.size and not j.kinks for j, x in zip(judged, inputs)]
    smooth = [[k for k in range(len(j.n)) if k not in j.kinks] for j in judged]
    n = [j.n.reshape(x.shape) if whole else j.n[s] for j, x, whole, s in zip(judged, inputs, full, smooth)]
    bar = [j.bar.reshape(x.shape) if whole else j.bar[s] for j, x, whole, s in zip(judged, inputs, full, smooth)]
    a = [None if a_ is None else a_ if whole or a_.shape != x.shape else j.a[s]
         for a_, j, x, whole, s in zip(analytic, judged, inputs, full, smooth)]  # fmt: skip

    def full_sum(i: int) -> Array | None:
        """The numeric gradient with input i first spread to the result's shape, if f allows that."""
        x = inputs[i]
        if x.shape == y.shape or y.size > 2000:
            return None
        try:
            spread = np.array(np.broadcast_to(x, y.shape))
            if not np.array_equal(problem.value(*inputs[:i], spread, *inputs[i + 1 :]), y):
                return None
            return differences(lambda v: problem.value(*inputs[:i], v, *inputs[i + 1 :]), spread, g, range(y.size)).value
        except Exception:  # f is particular about the shape: then this is not known
            return None

    return Point(inputs, problem.names, y, g, a, n, bar, full, [j.columns for j in judged], other, problem.constants,
                 problem.derivative, full_sum, cache(lambda: problem.steps(inputs)))  # fmt: skip


def second_point(
    problem: Problem, g: Array, rng: np.random.Generator, rtol: float, limit: int, wrong: list[int], usable: bool
) -> Point | None:
    """What is wrong at inputs a little beside those given."""
    for share in SHARES:
        point = _beside(problem, share, g, rng, rtol, limit, wrong, usable)
        if point is not None:
            return point
    return None


def _beside(
    problem: Problem, share: float, g: Array, rng: np.random.Generator, rtol: float, limit: int, wrong: list[int], usable: bool
) -> Point | None:
    before = problem.inputs
    problem.inputs = moved(before, rng, share)
    try:
        y = check_forward(problem)
        if y.shape != g.shape:
            return None
        if usable:
            analytic: list[Any] = list(problem.gradient(problem.inputs, g))
            other = problem.gradient(problem.inputs, cotangent(rng, y.shape))
        else:
            analytic, other = [None if a is None else np.asarray(a, dtype=np.float64)
                               for a in problem.form(problem.inputs, g).gradients], None  # fmt: skip
        judged, _ = judge_all(problem, y, g, analytic, rng, rtol, limit)
        if not usable or all(judged[i].wrong.any() for i in wrong):
            return point_of(problem, problem.inputs, y, g, analytic, judged, other)
        return None
    except Exception:  # f or its backward does not take those inputs: then there is one point only
        return None
    finally:
        problem.inputs = before


def third_opinions(
    report: Report, problem: Problem, y: Array, g: Array, analytic: list[Any], judged: list[Judged]
) -> None:
    """The complex step, where f carries complex numbers, and the Taylor slope, along the elements that are wrong."""
    if any(a is None or a.shape != x.shape or not np.isfinite(a).all() for a, x in zip(analytic, problem.inputs)):
        return
    ds = []
    for x, j in zip(problem.inputs, judged):
        d = np.zeros(x.shape)
        d.flat[j.elements[j.wrong]] = np.sign(j.a - j.n)[j.wrong]
        ds.append(d / (np.linalg.norm(d) or 1.0))
    if not any(d.any() for d in ds):
        return
    slope = sum(float(np.sum(a * d)) for a, d in zip(analytic, ds))

    def phi(t: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(g * (problem.value(*(x + t * d for x, d in zip(problem.inputs, ds))) - y)))

    numeric = (4 * (phi(STEP / 2) - phi(-STEP / 2)) / STEP - (phi(STEP) - phi(-STEP)) / (2 * STEP)) / 3
    if isinstance(problem, HandWritten) and len(problem.inputs) == 1:
        value = complex_step(problem.complex_value, problem.inputs[0], ds[0], g)
        if value is not None and abs(numeric - slope) > 1e-5 * abs(numeric):
            nearer = "numeric" if abs(value - numeric) < abs(value - slope) else "analytic"
            report.opinions.append(f"the complex step agrees with: {nearer}")
    steps = 1e-3 / 2.0 ** np.arange(4)
    remainder = np.array([abs(phi(h) - h * slope) for h in steps])
    decides = abs(numeric - slope) * steps > 0.5 * remainder  # not the curvature, beside which a small error disappears
    if np.isfinite(remainder).all() and remainder.min() > 1e3 * EPS * float(np.sum(np.abs(g * y))) and decides.all():
        fitted = np.polyfit(np.log(steps), np.log(remainder), 1)[0]
        report.opinions.append(f"Taylor slope {fitted:.2f} (2 if right, 1 if wrong)")

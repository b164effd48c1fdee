"""Which elements of a gradient are wrong, and which cannot be told.

Every element (of a large input some, and random directions) is compared with a difference. One that disagrees is looked at
closely before it is called wrong: at a kink there is nothing to compare with, and near one, or on a function sharper than
the steps, differences mislead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minivit.checking.differences import EPS, STEP, Line, Refined, differences, noise_of, refine
from minivit.checking.problem import Problem

Array = np.ndarray
_CLOSE_LOOKS = 256  # elements that may be refined: 34 calls of f each
_ENOUGH = 8  # once so many are certainly wrong, the others need no close look


@dataclass
class Judged:
    """What became of one input. Flat arrays over the elements that were looked at."""

    elements: Array
    a: Array
    n: Array
    bar: Array
    columns: Array | None
    wrong: Array
    kinks: dict[int, Refined] = field(default_factory=dict)  # position -> one-sided slopes
    unsure: dict[int, Refined] = field(default_factory=dict)
    direction: bool = False  # a random direction disagrees, though no element looked at does


def judge_all(
    problem: Problem, y: Array, g: Array, analytic: list[Any], rng: np.random.Generator, rtol: float, limit: int
) -> tuple[list[Judged], float]:
    """Judges every input; also the largest noise met, relative to <|g|, |y|>."""
    total = sum(x.size for x in problem.inputs)
    judged, worst_noise = [], 0.0
    size = float(np.sum(np.abs(g * y)))
    for i, x in enumerate(problem.inputs):
        f = _of_input(problem, i)
        noise = noise_of(f, x, g, rng.standard_normal(x.shape), problem.precision) if x.size else 0.0
        worst_noise = max(worst_noise, noise / size if size else 0.0)
        a = analytic[i]
        comparable = a is not None and a.shape == x.shape
        everything = total <= limit
        share = max(8, limit * x.size // max(total, 1))
        elements = np.arange(x.size) if everything or x.size <= share else np.sort(
            rng.choice(x.size, min(x.size, max(8, share // 8)), replace=False))  # fmt: skip
        judge = Judge(f, x, g, a if comparable else None, noise, size, rtol, rng)
        if not everything and comparable and len(elements) < x.size:
            suspects, direction = judge.directions()
            judged.append(judge.elements(np.union1d(elements, suspects).astype(int), False))
            judged[-1].direction = direction
        else:
            judged.append(judge.elements(elements, x.size * g.size <= 2_000_000))
    return judged, worst_noise


class Judge:
    """Compares the analytic gradient of one input with the numeric one."""

    def __init__(self, f: Any, x: Array, g: Array, a: Array | None, noise: float, size: float, rtol: float, rng: Any) -> None:
        self.f, self.x, self.g, self.a, self.noise, self.size, self.rtol, self.rng = f, x, g, a, noise, size, rtol, rng
        # a noisy function needs a wider step: h⁴ against noise / h
        self.step = min(0.05, max(STEP, (noise / size) ** 0.2)) if size else STEP

    def tolerance(self, n: Any, scale: float) -> Any:
        rounding = min(20 * self.noise / self.step, 1e-8 * max(scale, self.size))
        return self.rtol * np.abs(n) + 1e-9 * scale + rounding

    def elements(self, elements: Array, keep: bool) -> Judged:
        numeric = differences(self.f, self.x, self.g, elements.tolist(), self.step, keep)
        n, bar = numeric.value, numeric.bar
        a = np.full(len(elements), np.nan) if self.a is None else self.a.reshape(-1)[elements]
        judged = Judged(elements, a, n, bar, numeric.columns, np.zeros(len(elements), bool))
        if self.a is None or not len(elements):
            return judged
        scale = float(np.max(np.abs(n[np.isfinite(n)]), initial=0.0))
        with np.errstate(invalid="ignore"):
            excess = np.abs(a - n) - self.tolerance(n, scale)
        suspects = np.flatnonzero(~(excess <= 0))
        order = np.argsort(-np.where(np.isfinite(excess[suspects]), excess[suspects], np.inf), kind="stable")
        for k in suspects[order][:_CLOSE_LOOKS]:
            self._close_look(judged, int(k), scale)
            if judged.wrong.sum() >= _ENOUGH:
                break
        if judged.wrong.sum() >= _ENOUGH:
            looked = {*judged.kinks, *judged.unsure}
            for k in suspects:
                if int(k) not in looked and excess[k] > 10 * bar[k]:
                    judged.wrong[k] = True
        return judged

    def _close_look(self, judged: Judged, k: int, scale: float) -> None:
        i = int(judged.elements[k])
        d = np.zeros(self.x.shape)
        d.flat[i] = 1.0
        start = 4 * self.step * max(1.0, abs(self.x.flat[i]))
        r = refine(Line(self.f, self.x, d, self.g), self.noise, start)
        verdict = self.verdict(float(judged.a[k]), r, scale)
        if verdict == "wrong" and self.closer_in(float(judged.a[k]), i, r):
            verdict = "unsure"
            r = r._replace(bar=abs(float(judged.a[k]) - r.value))
        if not math.isnan(r.value):
            judged.n[k], judged.bar[k] = r.value, r.bar
        if verdict == "wrong":
            judged.wrong[k] = True
        elif verdict == "kink":
            judged.kinks[k] = r
        elif verdict == "unsure":
            judged.unsure[k] = r

    def verdict(self, a: float, r: Refined, scale: float) -> str:
        slack = 1e-6 * max(abs(r.left), abs(r.right)) + 1e-9 * scale + 20 * self.noise / self.step
        if r.kink == "jump":
            return "kink"
        if r.kink and (not math.isfinite(a) or min(r.left, r.right) - slack <= a <= max(r.left, r.right) + slack):
            return "kink"
        if r.kink:
            return "wrong"
        if math.isnan(r.value):
            return "unsure"
        if not math.isfinite(a):
            return "wrong"
        error = abs(a - r.value)
        if error <= self.tolerance(r.value, scale):
            return "right"
        return "unsure" if error <= 5 * r.bar else "wrong"

    def closer_in(self, a: float, i: int, r: Refined) -> bool:
        """Whether differences with steps much smaller than those of `refine` side with the analytic gradient.

        Then the function bends within those steps (a kink nearby, a wave shorter than they are), and they misled. Such
        small steps lose half of the digits, so they can acquit and not accuse.
        """
        apart = abs(a - r.value)
        if not math.isfinite(apart):
            return False
        agreed = 0
        for h in 10.0 ** -np.arange(5, 12):
            above, below = self.x.copy(), self.x.copy()
            above.flat[i] += h
            below.flat[i] -= h
            width = above.flat[i] - below.flat[i]
            if not width > 0:
                break
            n = float(np.sum(self.g * (np.asarray(self.f(above)) - np.asarray(self.f(below))))) / width
            decides = 20 * EPS * self.size / width < 0.05 * apart
            agreed = agreed + 1 if decides and abs(n - a) < 0.05 * apart else 0
            if agreed == 2:
                return True
        return False

    def directions(self, count: int = 4) -> tuple[Array, bool]:
        """Compares along random directions. One that disagrees is halved, and halved again, down to a few elements."""
        assert self.a is not None
        found: list[int] = []
        disagrees = False
        for _ in range(count):
            d = _direction(self.rng, self.x)
            if self._disagreement(d) <= 1:
                continue
            part = np.arange(self.x.size)
            while len(part) > 8:
                halves = np.array_split(part, 2)
                part = max(halves, key=lambda half: self._disagreement(_only(d, half), close=False))
            found += part.tolist()
            disagrees = True
        return np.array(found, dtype=int), disagrees

    def _disagreement(self, d: Array, close: bool = True) -> float:
        """|analytic - numeric| along d, in units of what may be put down to the method."""
        assert self.a is not None
        phi = Line(self.f, self.x, d, self.g)
        h = self.step
        far, near = (phi(h) - phi(-h)) / (2 * h), (phi(h / 2) - phi(-h / 2)) / h
        n, bar, a = (4 * near - far) / 3, abs(near - far) / 3, float(np.sum(self.a * d))
        scale = float(np.linalg.norm(self.a * d))
        if not math.isfinite(a):
            return math.inf
        if not close:
            return abs(a - n)
        if abs(a - n) <= self.tolerance(n, scale):
            return 0.0
        r = refine(phi, self.noise, 4 * h)
        n, bar = (r.value, r.bar) if not math.isnan(r.value) else (n, bar)
        return abs(a - n) / (self.tolerance(n, scale) + 5 * bar)


def _of_input(problem: Problem, i: int) -> Callable[[Array], Array]:
    def f(x: Array) -> Array:
        return problem.value(*problem.inputs[:i], x, *problem.inputs[i + 1 :])

    return f


def _direction(rng: np.random.Generator, x: Array) -> Array:
    d = rng.standard_normal(x.shape)
    return d / (np.linalg.norm(d) or 1.0)


def _only(d: Array, elements: Array) -> Array:
    part = np.zeros(d.shape)
    part.flat[elements] = d.flat[elements]
    return part

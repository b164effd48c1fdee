"""Which elements of a gradient are wrong, and which cannot be told.

Every element (of a large input some, and random directions) is compared with a difference. One that disagrees is looked at
closely before it is called wrong: at a kink there is nothing to compare with, and near one, or on a function sharper than
the steps, differences mislead.

How nearly the two must agree is a question to each element by itself. A slack that suits the largest would hide whatever
the small ones do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minivit.checking.differences import EPS, STEP, Line, Refined, differences, noise_of, reached, refine
from minivit.checking.problem import Problem

Array = np.ndarray
_CLOSE_LOOKS = 256  # elements that may be refined: some 50 calls of f each
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
    unseen: int = 0  # elements that disagree and had no close look
    direction: bool = False  # a random direction disagrees, though no element looked at does


@dataclass(frozen=True)
class Resolution:
    """How nearly a claimed derivative of <g, f> can be compared with a difference.

    Attributes:
        noise: the error of one value of <g, f>.
        size: <|g|, |f|>.
        rtol: how nearly the two must agree where nothing is in the way.
        step: of the differences; a noisy function needs a wider one (h⁴ against noise / h).
    """

    noise: Any
    size: Any
    rtol: float
    step: float

    @classmethod
    def of(cls, noise: float, size: float, rtol: float) -> Resolution:
        return cls(noise, size, rtol, min(0.05, max(STEP, (noise / size) ** 0.2)) if size else STEP)

    def agree(self, a: Any, n: Any, parts: Any, scale: float) -> Any:
        """Whether a is n, as far as that can be told; False also where nothing can be told.

        Args:
            a, n: analytic and numeric derivative.
            parts: the size of what was added up to n.
            scale: of the largest element of the gradient.
        """
        error, larger = np.abs(a - n), np.maximum(np.abs(a), np.abs(n))
        unit = self.noise / self.step
        rounding = np.minimum(20 * unit, 1e-8 * (parts + self.size))
        # within rounding, but is that more than to say that both are small? Of what is nothing beside the rest, or claimed to
        # be 0, no more is asked
        told = (error <= 1e-2 * larger) | (larger <= np.maximum(4 * unit, 1e-8 * scale))
        told |= (np.abs(a) <= unit) & (np.abs(n) <= 8 * unit)
        return (error <= self.rtol * np.abs(n) + 1e-9 * parts) | ((error <= rounding) & told)

    def verdict(self, a: float, r: Refined, parts: float, scale: float) -> str:
        """After a close look: "right", "wrong", "kink" or "unsure".

        At a kink nothing is wrong. Where several parts of f bend at once, each may take the slope of either side, and their
        sum need not lie between the two slopes of f.
        """
        if r.kink:
            return "kink"
        if math.isnan(r.value):
            return "unsure"
        if not math.isfinite(a):
            return "wrong"
        if self.agree(a, r.value, parts, scale):
            return "right"
        return "unsure" if abs(a - r.value) <= 5 * r.bar else "wrong"


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
        judge = Judge(f, x, y, g, a if comparable else None, Resolution.of(noise, size, rtol), rng, problem.precision,
                      problem.magnitude)  # fmt: skip
        if not everything and comparable and len(elements) < x.size:
            suspects, direction = judge.directions()
            judged.append(judge.elements(np.union1d(elements, suspects).astype(int), False))
            judged[-1].direction = direction
        else:
            judged.append(judge.elements(elements, x.size * g.size <= 2_000_000))
    return judged, worst_noise


class Judge:
    """Compares the analytic gradient of one input with the numeric one.

    No value is taken to be more exact than numbers of the function's `magnitude`: a small one may be the difference of two
    such, as 1 - tanh² is.
    """

    def __init__(
        self, f: Any, x: Array, y: Array, g: Array, a: Array | None, resolution: Resolution, rng: Any, precision: float,
        magnitude: float,
    ) -> None:  # fmt: skip
        self.f, self.x, self.y, self.g, self.a, self.resolution, self.rng = f, x, y, g, a, resolution, rng
        self.precision = precision
        self.least = float(np.max(np.abs(g), initial=0.0)) * magnitude  # that the size of any part of <g, f> is taken to have

    def elements(self, elements: Array, keep: bool) -> Judged:
        of = self.resolution
        numeric = differences(self.f, self.x, self.g, elements.tolist(), of.step, keep)
        n, bar = numeric.value, numeric.bar
        a = np.full(len(elements), np.nan) if self.a is None else self.a.reshape(-1)[elements]
        judged = Judged(elements, a, n, bar, numeric.columns, np.zeros(len(elements), bool))
        if self.a is None or not len(elements):
            return judged
        scale = float(np.max(np.abs(n[np.isfinite(n)]), initial=0.0))
        noise = np.maximum(of.noise * numeric.size / (of.size or 1.0), EPS * self.least)
        own = Resolution(noise, np.maximum(numeric.size, self.least), of.rtol, of.step)
        with np.errstate(invalid="ignore"):
            suspects = np.flatnonzero(~own.agree(a, n, numeric.parts, scale))
            error = np.abs(a - n)
        worth = error[suspects]
        if len(suspects) > _CLOSE_LOOKS:  # kinks may be what differs most, so first those that no kink explains
            worth = np.array([self._outside(float(a[k]), int(elements[k])) for k in suspects])
        order = suspects[np.argsort(-np.where(np.isfinite(worth), worth, np.inf), kind="stable")][:_CLOSE_LOOKS]
        looked = set()
        for k in order.tolist():
            self._close_look(judged, k, float(np.nan_to_num(numeric.parts[k])), scale)
            looked.add(k)
            if judged.wrong.sum() >= _ENOUGH:
                break
        rest = [k for k in suspects.tolist() if k not in looked]
        if judged.wrong.sum() >= _ENOUGH:
            judged.wrong[[k for k in rest if error[k] > 10 * bar[k]]] = True
        judged.unseen = int(np.sum(~judged.wrong[rest]))
        return judged

    def _axis(self, i: int) -> Array:
        d = np.zeros(self.x.shape)
        d.flat[i] = 1.0
        return d

    def _outside(self, a: float, i: int) -> float:
        """How far a is from lying between the slopes to the left and to the right."""
        phi, h = Line(self.f, self.x, self._axis(i), self.g), self.resolution.step
        slopes = phi(h) / h, -phi(-h) / h
        return max(0.0, min(slopes) - a, a - max(slopes)) if math.isfinite(a) else math.inf

    def _close_look(self, judged: Judged, k: int, parts: float, scale: float) -> None:
        i, a = int(judged.elements[k]), float(judged.a[k])
        d = self._axis(i)
        g = self.g * reached(self.f, self.x, self.y, d)
        hidden = 8 * EPS * float(np.sum(np.abs((self.g - g) * self.y)))  # of a derivative, by the rounding of the other outputs
        noise = max(noise_of(self.f, self.x, g, d, self.precision), EPS * self.least, hidden * self.resolution.step)
        size = max(float(np.sum(np.abs(g * self.y))), self.least)
        of = Resolution(noise, size, self.resolution.rtol, self.resolution.step)
        line, value = Line(self.f, self.x, d, g), float(self.x.flat[i])
        start = 4 * of.step * max(1.0, abs(value))
        r = refine(line, noise, start)
        verdict = of.verdict(a, r, parts, scale)
        unit = abs(value) or float(np.min(np.abs(self.x[self.x != 0]), initial=start))
        if verdict != "right" and unit < start:  # the steps reach over 0, where many a function has an end, or over all of x
            noise = max(noise_of(self.f, self.x, g, d * unit, self.precision), EPS * self.least)
            nearer = refine(line, noise, unit / 4)
            if not nearer.kink and nearer.bar <= 1e-4 * abs(nearer.value):
                of = Resolution(noise, size, of.rtol, of.step * unit)
                r, verdict = nearer, of.verdict(a, nearer, parts, scale)
        if verdict == "wrong" and self.closer_in(a, i, g, r):
            verdict = "unsure"
            r = r._replace(bar=abs(a - r.value))
        if not math.isnan(r.value):
            judged.n[k], judged.bar[k] = r.value, r.bar
        if verdict == "wrong":
            judged.wrong[k] = True
        elif verdict == "kink":
            judged.kinks[k] = r
        elif verdict == "unsure":
            judged.unsure[k] = r

    def closer_in(self, a: float, i: int, g: Array, r: Refined) -> bool:
        """Whether differences with steps much smaller than those of `refine` side with the analytic gradient.

        Then the function bends within those steps (a kink nearby, a wave shorter than they are), and they misled. Such
        small steps lose half of the digits, so they can acquit and not accuse.
        """
        apart = abs(a - r.value)
        if not math.isfinite(apart):
            return False
        agreed = 0
        size = float(np.sum(np.abs(g * self.y)))
        for h in 10.0 ** -np.arange(5, 15):
            above, below = self.x.copy(), self.x.copy()
            above.flat[i] += h
            below.flat[i] -= h
            width = above.flat[i] - below.flat[i]
            if not width > 0:
                break
            n = float(np.sum(g * (np.asarray(self.f(above)) - np.asarray(self.f(below))))) / width
            decides = 20 * EPS * size / width < 0.05 * apart
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
            d = self.rng.standard_normal(self.x.shape)
            d /= np.linalg.norm(d) or 1.0
            if self._slope(d).right():
                continue
            part = np.arange(self.x.size)
            while len(part) > 8:
                part = max(np.array_split(part, 2), key=lambda half: self._slope(_only(d, half)).gap())
            found += part.tolist()
            disagrees = True
        return np.array(found, dtype=int), disagrees

    def _slope(self, d: Array) -> Slope:
        return Slope(Line(self.f, self.x, d, self.g), self.a * d, self.resolution)


class Slope:
    """The analytic slope of <g, f> along a direction, and the numeric one.

    Args:
        phi: t -> <g, f(x + t d) - f(x)>.
        shares: what each element contributes to the analytic slope; of several inputs, one after the other.
        resolution: of phi.
    """

    def __init__(self, phi: Callable[[float], float], shares: Array, resolution: Resolution) -> None:
        self.phi, self.resolution = phi, resolution
        with np.errstate(all="ignore"):
            self.a, self.scale = float(np.sum(shares)), float(np.linalg.norm(shares))
        h = resolution.step
        far, near = ((phi(s) - phi(-s)) / (2 * s) for s in (h, h / 2))
        self.n = (4 * near - far) / 3

    def agrees(self) -> bool:
        """Without a close look."""
        return bool(self.resolution.agree(self.a, self.n, self.scale, self.scale))

    def gap(self) -> float:
        return abs(self.a - self.n) if math.isfinite(self.a) else math.inf

    @property
    def error(self) -> float:
        """Relative to what the elements contribute."""
        return self.gap() / (max(self.scale, abs(self.n)) or 1.0)

    def right(self) -> bool:
        """Whether they agree, also with a close look."""
        if self.agrees():
            return True
        r = refine(self.phi, self.resolution.noise, 4 * self.resolution.step)
        verdict = self.resolution.verdict(self.a, r, self.scale, self.scale)
        return verdict in ("right", "unsure") and math.isfinite(r.value)

    def closer(self) -> tuple[str, Refined, float]:
        """("right", "wrong", "kink" or "unsure"; the slopes; the noise relative to f), with the noise measured."""
        one = np.ones(())
        noise = noise_of(lambda t: np.array(self.phi(float(t))), np.zeros(()), one, one)
        noise = max(noise, self.resolution.noise)
        of = Resolution.of(noise, self.resolution.size, self.resolution.rtol)
        r = refine(self.phi, noise, 4 * of.step)
        return of.verdict(self.a, r, self.scale, self.scale), r, noise / of.size if of.size else 0.0


def slope_through_all(
    problem: Problem, y: Array, g: Array, analytic: list[Array], rng: np.random.Generator, rtol: float
) -> Slope:
    """Along a random direction through all inputs at once; every one of them moves by the same small part of its size."""
    x = problem.inputs
    d = [rng.standard_normal(v.shape) * (np.sqrt(np.mean(v * v)) or 1.0) if v.size else v for v in x]

    def phi(t: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(g * (problem.value(*(v + t * e for v, e in zip(x, d))) - y)))

    size = float(np.sum(np.abs(g * y)))
    size = max(size, float(np.max(np.abs(g), initial=0.0)) * problem.magnitude)
    with np.errstate(all="ignore"):
        shares = np.concatenate([(a * e).reshape(-1) for a, e in zip(analytic, d)])
    return Slope(phi, shares, Resolution.of(problem.precision * size, size, rtol))


def _of_input(problem: Problem, i: int) -> Callable[[Array], Array]:
    def f(x: Array) -> Array:
        return problem.value(*problem.inputs[:i], x, *problem.inputs[i + 1 :])

    return f


def _only(d: Array, elements: Array) -> Array:
    part = np.zeros(d.shape)
    part.flat[elements] = d.flat[elements]
    return part

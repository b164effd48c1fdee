"""Derivatives by differences: what a gradient is compared with, and how far that number can itself be trusted.

The central difference D(h) = (f(x + h) - f(x - h)) / 2h is wrong by h²f‴/6 + ..., and by the noise of f divided by h.
Two steps cancel the first of the two errors (Richardson):

    D = (4 D(h/2) - D(h)) / 3        with the error bar |D(h/2) - D(h)| / 3

The best step balances h⁴ against ε/h: h = ε^(1/5), about 7e-4 in float64, for some twelve right digits. In float32 the
same balance leaves four, which is why everything here runs in float64.

Where analytic and numeric disagree, `refine` looks closer: sixteen halvings of the step tell a wrong gradient from a
kink of f at or near x, from noise, and from a step that was too coarse.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

EPS = float(np.finfo(np.float64).eps)
STEP = EPS**0.2

Array = np.ndarray
Function = Callable[[Array], Array]


class NumericalGradient(NamedTuple):
    """gᵀ ∂f/∂x by differences, known to ± bar."""

    value: Array
    bar: Array


class Differences(NamedTuple):
    """The numeric gradient at some elements; flat arrays with one entry for each.

    Attributes:
        value, bar: as in `NumericalGradient`.
        parts: Σ |gⱼ ∂fⱼ/∂xᵢ| over the outputs j, before what cancels has cancelled.
        size: Σ |gⱼ fⱼ| over those outputs that change with this element: what rounds.
        columns: ∂f/∂xᵢ of every output, (elements, outputs), where it was asked for.
    """

    value: Array
    bar: Array
    parts: Array
    size: Array
    columns: Array | None


def numerical_gradient(f: Function, x: Array, g: Array | None = None) -> NumericalGradient:
    """The gradient of <g, f(x)> by central differences with one Richardson step, element by element.

    Args:
        f: a function of one array, on NumPy arrays; it is called 4 times for each element of x.
        x: where; computed in float64.
        g: the cotangent, of the shape of f(x); may be left out if f returns one number.

    Returns:
        (value, bar): the gradient and its error bar, both of x's shape.
    """
    x = np.array(x, dtype=np.float64)
    y = np.asarray(f(x.copy()), dtype=np.float64)
    if g is None and y.size != 1:
        raise ValueError(f"g: f(x) has shape {y.shape}, so a cotangent of that shape is needed")
    g = np.ones(y.shape) if g is None else np.asarray(g, dtype=np.float64)
    if g.shape != y.shape:
        raise ValueError(f"g: expected the shape of f(x), {y.shape}, got {g.shape}")
    found = differences(f, x, g, range(x.size))
    return NumericalGradient(found.value.reshape(x.shape), found.bar.reshape(x.shape))


def differences(
    f: Function, x: Array, g: Array, elements: Sequence[int], step: float = STEP, keep: bool = False
) -> Differences:
    """`numerical_gradient` at some elements (flat positions) only."""
    value, bar, parts, size = np.empty((4, len(elements)))
    columns = np.empty((len(elements), g.size)) if keep else None
    weights = g.reshape(-1)
    with np.errstate(all="ignore"):
        for k, i in enumerate(elements):
            h = step * max(1.0, abs(x.flat[i]))
            (wide, y), (narrow, _) = (_difference(f, x, i, s) for s in (h, h / 2))
            far, near = float(weights @ wide), float(weights @ narrow)
            value[k], bar[k] = (4 * near - far) / 3, abs(near - far) / 3
            parts[k], size[k] = np.sum(np.abs(weights * narrow)), np.sum(np.abs(weights * y)[wide != 0])
            if columns is not None:
                columns[k] = (4 * narrow - wide) / 3
    return Differences(value, bar, parts, size, columns)


def _difference(f: Function, x: Array, i: int, h: float) -> tuple[Array, Array]:
    """The central difference of every output, and f on one side; both flat."""
    above, below = x.copy(), x.copy()
    above.flat[i] += h
    below.flat[i] -= h
    width = above.flat[i] - below.flat[i]  # not quite 2h, after rounding
    y = np.array(f(above), dtype=np.float64).reshape(-1)
    return (y - np.array(f(below), dtype=np.float64).reshape(-1)) / width, y


class Line:
    """φ(t) = <g, f(x + t d) - f(x)>: a function of many numbers seen along one direction."""

    def __init__(self, f: Function, x: Array, d: Array, g: Array) -> None:
        self.f, self.x, self.d, self.g = f, x, d, g
        self.y = np.array(f(x.copy()), dtype=np.float64)

    def __call__(self, t: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(self.g * (np.array(self.f(self.x + t * self.d), dtype=np.float64) - self.y)))


class Refined(NamedTuple):
    """The derivative along a line, seen closely.

    Attributes:
        value, bar: the derivative and its error bar; NaN where f is not defined on both sides of x.
        left, right: the one-sided derivatives.
        kink: "" if they agree; "kink" if they differ however small the step; "jump" if they grow without bound.
    """

    value: float
    bar: float
    left: float
    right: float
    kink: str


def refine(phi: Callable[[float], float], noise: float, start: float, halvings: int = 16) -> Refined:
    """φ'(0) from a ladder of steps (Ridders 1982): the step whose Richardson value changed least is the one believed.

    Args:
        phi: a function of one number with φ(0) = 0.
        noise: the error of one value of φ.
        start: the largest step.
        halvings: how often it is halved.
    """
    steps = start / 2.0 ** np.arange(halvings + 1)
    above, below = (np.array([phi(sign * h) for h in steps]) for sign in (1.0, -1.0))
    right, left = above / steps, -below / steps
    central = (right + left) / 2
    extrapolated = (4 * central[1:] - central[:-1]) / 3
    change = np.abs(np.diff(extrapolated))
    # two steps may agree by chance; three hardly
    bars = np.maximum(change[1:], change[:-1] / 16) + 2 * noise / steps[3:]
    if not np.isfinite(bars).any():
        return Refined(math.nan, math.nan, float(left[-1]), float(right[-1]), "")
    best = int(np.nanargmin(np.where(np.isfinite(bars), bars, np.nan)))

    # a smooth function's one-sided slopes approach each other in proportion to h, a kink's do not
    gap = np.abs(right - left)[-4:]
    size = max(np.abs(right[-1]), np.abs(left[-1]))
    kink = ""
    if gap.min() > 20 * noise / steps[-1] + 1e-6 * size and (gap[1:] > 0.8 * gap[:-1]).all():
        kink = "kink"
    slopes = np.maximum(np.abs(right), np.abs(left))[-4:]
    if slopes.min() > 20 * noise / steps[-1] and (slopes[1:] > 1.3 * slopes[:-1]).all():
        kink = "jump"
    return Refined(float(extrapolated[2:][best]), float(bars[best]), float(left[-1]), float(right[-1]), kink)


def noise_of(f: Function, x: Array, g: Array, d: Array, precision: float = EPS) -> float:
    """The error of one value of <g, f>: what is left of nine equally spaced values after four differences.

    Differences remove what is smooth and keep what is not (Hamming's table; Moré and Wild 2011, "Estimating
    computational noise"). The values lie on one side of x and a little off, so that a kink at x itself, or a root's
    infinite slope, is not taken for noise. What falls with the spacing was no noise either, but f, which bends so fast.

    `precision` is that of the numbers f returns: the values can lie so close that rounding makes them equal.
    """
    phi = Line(f, x, d * np.maximum(1.0, np.abs(x)), g)
    least = precision * float(np.sum(np.abs(g * phi.y)))
    noise = math.inf
    for halvings in range(12):
        values = np.array([phi(1e-4 + k * 2e-7 / 2**halvings) for k in range(9)])
        table = np.diff(values, 4)
        finer = float(np.sqrt(np.mean(table * table) / 70))  # 70 = Σ binomial(4, k)²
        if not np.isfinite(finer):
            return least
        if finer <= 100 * least or finer > noise / 8:
            return max(least, min(noise, finer))
        noise = finer
    return noise


def reached(f: Function, x: Array, y: Array, d: Array) -> Array:
    """Which outputs change when x moves along d, by half a unit. Of the others not even the rounding is in the way."""
    changed = np.zeros(y.shape, bool)
    for t in (0.5, -0.5):
        try:
            changed |= np.asarray(f(x + t * d * np.maximum(1.0, np.abs(x)))) != y
        except Exception:  # that far off f is not defined, so nothing is known
            return np.ones(y.shape, bool)
    return changed


def complex_step(f: Function, x: Array, d: Array, g: Array) -> float | None:
    """<g, ∂f/∂x d> as Im f(x + i h d) / h with h = 1e-20: no subtraction, so no rounding (Squire and Trapp 1998).

    None if f does not carry complex numbers through: abs, comparisons, casts and real-only functions do not.
    """
    h = 1e-20
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)  # a cast would drop what is looked for
            y = np.asarray(f(x + 1j * h * d))
    except Exception:  # whatever f raises on complex numbers: then there is no such opinion
        return None
    if y.dtype.kind != "c" or y.shape != g.shape or not np.isfinite(y).all():
        return None
    return float(np.sum(g * y.imag) / h)

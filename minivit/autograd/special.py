"""The error function and the normal distribution on arrays, which NumPy does not have.

For x ≥ 0 the scaled complement erfc(x)·exp(x²) is a smooth function of t = 3 / (3 + x): a polynomial of degree 20 in t
gives it to 7e-16, one of degree 7 to 2e-7, enough for float32. (Chebyshev interpolation in u ∈ [-1, 1], the image of t
for x ≤ 27 and x ≤ 10.5, computed with 40 digits and written as powers of u; the tests compare with `math.erf`.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivit.backend import array_module, empty_like

_C = 3.0
# erfc(x) exp(x²) / t as a polynomial in u, from the constant term up, and the largest x that u = -1 stands for
_TAIL_FLOAT64 = (
    0.389523774255242, 0.3033736718142138, 0.18651762097473942, 0.08770500336212393, 0.029010523509211305,
    0.005006502800573907, -0.0006137141412058001, -0.0005358989309720983, -3.682199957731236e-05,
    4.7028310918773594e-05, 7.4612680559339486e-06, -4.89512460639461e-06, -8.752808263790235e-07,
    6.25786879738431e-07, 7.270990366449905e-08, -8.848915083508975e-08, -1.5394739137240617e-10,
    1.1457069540250152e-08, -1.4037348672151309e-09, -9.391551683607756e-10, 2.1424420264835555e-10,
)  # fmt: skip
_TAIL_FLOAT32 = (
    0.43439217687798765, 0.3104059846225172, 0.16847432402584017, 0.06735202033725095, 0.017946500704152605,
    0.00205543202302606, -0.0004562860932108218, -0.00017029855838493734,
)  # fmt: skip
# erf(x) / x as a polynomial in x², for |x| ≤ 1
_CENTER = (
    1.1283791670955126, -0.37612638903183543, 0.11283791670945006, -0.02686617064323777, 0.0052239776071164225,
    -0.0008548325975389692, 0.00012055294904839707, -1.492473690741966e-05, 1.6447424703317362e-06,
    -1.6208483801871705e-07, 1.3720064546777686e-08, -7.795898827002142e-10,
)  # fmt: skip


def erf(x: Any) -> Any:
    """(2/√π) ∫₀ˣ exp(-t²) dt, elementwise, in the dtype of x; relative error about 1e-15 in float64."""
    xp = array_module(x)
    x = xp.asarray(x)
    center = x * _horner(_CENTER, xp.minimum(x * x, 1))
    size = xp.abs(x)
    tail = xp.exp(-x * x) * _scaled_tail(xp.array(size), xp.empty_like(x))
    return xp.where(size < 1, center, xp.copysign(1 - tail, x))


def normal_cdf(x: Any, out: Any, density: Any = None) -> Any:
    """Φ(x) = ½ (1 + erf(x/√2)) into `out`; exp(-x²/2) = √(2π) φ(x) into `density` where that is given.

    In place and without a branch, so that a chain of these passes runs in cache.
    """
    xp = array_module(x)
    if density is None:
        density = empty_like(x, xp)
    xp.multiply(x, x, out=density)
    density *= -0.5
    xp.exp(density, out=density)
    size = xp.abs(x)
    size *= math.sqrt(0.5)
    tail = _scaled_tail(size, out)
    tail *= density
    tail *= -0.5
    tail += 0.5  # ½ - Φ(-|x|)
    xp.copysign(tail, x, out=tail)
    tail += 0.5
    return tail


def _scaled_tail(x: Any, out: Any) -> Any:
    """erfc(x) exp(x²) for x ≥ 0, into `out`; x is overwritten."""
    coefficients, largest = (_TAIL_FLOAT64, 27.0) if x.dtype == np.float64 else (_TAIL_FLOAT32, 10.5)
    t_min = _C / (_C + largest)
    t = x
    t += _C
    array_module(t).divide(_C, t, out=t)
    u = t * (2 / (1 - t_min))
    u -= (1 + t_min) / (1 - t_min)
    out[...] = coefficients[-1]
    for c in coefficients[-2::-1]:
        out *= u
        out += c
    out *= t
    return out


def _horner(coefficients: tuple[float, ...], x: Any) -> Any:
    value = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        value = (value + c) * x
    return value + coefficients[0]

"""The Taylor slope: a check of one gradient of a whole model that needs no tolerance.

The remainder |J(x + h d) - J(x) - h <∇J, d>| falls with h² if the gradient is right, and only with h if it is not. On
a log-log plot that is a slope of 2 or of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minivit.autograd import Tensor, grad, no_grad
from minivit.backend import to_numpy


def taylor_slope(
    f: Callable[[Any], Any],
    x: Any,
    direction: Any = None,
    gradient: Any = None,
    steps: Sequence[float] = (1e-2, 5e-3, 2.5e-3, 1.25e-3),
    seed: int = 0,
) -> float:
    """The slope of log(remainder) against log(h): 2 if the gradient of f at x is right, 1 if it is wrong.

    Along a direction in which f is linear the remainder is zero and the answer is `inf`; at a kink of f it is 1.

    Args:
        f: from an array or Tensor to one number, in float64.
        x: an array; the input, or one parameter.
        direction: of x's shape; by default a random one of length 1.
        gradient: an array of x's shape; by default `mv.grad(f(x), [x])`.
        steps: falling step sizes.
        seed: of the random direction.
    """
    x = np.array(to_numpy(x.data if isinstance(x, Tensor) else x), dtype=np.float64)
    if direction is None:
        direction = np.random.default_rng(seed).standard_normal(x.shape)
        direction /= np.linalg.norm(direction)
    direction = np.asarray(direction, dtype=np.float64)
    if gradient is None:
        leaf = Tensor(x.copy(), requires_grad=True)
        gradient = grad(f(leaf), [leaf])[0].data
    gradient = np.asarray(gradient.data if isinstance(gradient, Tensor) else gradient)
    for name, array in (("direction", direction), ("gradient", gradient)):
        if array.shape != x.shape:
            raise ValueError(f"{name}: expected the shape of x, {x.shape}, got {array.shape}")
    slope = float(np.sum(gradient * direction))

    def value(t: float) -> float:
        with no_grad():
            return float(f(Tensor(x + t * direction)))

    start = value(0.0)
    remainder = np.array([abs(value(h) - start - h * slope) for h in steps])
    if remainder.max() <= 1e-14 * max(abs(start), abs(slope)):
        return float("inf")
    return float(np.polyfit(np.log(steps), np.log(np.maximum(remainder, 1e-300)), 1)[0])

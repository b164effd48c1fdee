"""The geometry of an attack: how far, which way, and back to what is allowed.

An attack may move an image x to any x' with ||x' - x|| <= eps and every pixel within its bounds: a ball cut by a box.
For each of the three norms (linf: the largest change of a pixel; l2: the length; l1: the sum of all changes) this file
has what the lecture's two formulas need:

    distance       ||x' - x||, per image
    steepest       the step of a given size that raises the loss most, to first order; for linf the lecture's
                   alpha * sign(gradient)
    project        Proj(.): the nearest allowed point, exactly, ball and box together
    random_start   a point drawn uniformly from the ball

All work on a batch (n, ...) of images of any shape, each by itself, on the device and in the dtype of the images.

"Project on the ball, then clip to the box" is feasible but not the nearest point, and for l1 the attack it gives is
markedly weaker (Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivit.arguments import choice
from minivit.backend import array_module, device_of, to_device
from minivit.backend.random import normal, uniform

NORMS = ("linf", "l2", "l1")


def distance(x_adv: Any, x: Any, norm: str) -> Any:
    """||x_adv - x|| of each image: (n, ...), (n, ...) -> (n,), summed in float64."""
    choice("norm", norm, NORMS)
    xp = array_module(x)
    delta = xp.abs(_rows(x_adv) - _rows(x))  # (n, d)
    if delta.size == 0:
        return xp.zeros(len(x), "float64")
    if norm == "linf":
        return delta.max(axis=1).astype("float64")
    if norm == "l2":
        return _length(delta)
    return delta.sum(axis=1, dtype="float64")


def box(bounds: Any) -> tuple[float, float]:
    """`bounds` as two floats, the least and the largest value of a pixel."""
    try:
        lo, hi = (float(b) for b in bounds)
    except (TypeError, ValueError):
        raise ValueError(f"bounds: expected two numbers (lo, hi), got {bounds!r}") from None
    if not lo < hi:
        raise ValueError(f"bounds: expected lo < hi, got ({lo}, {hi})")
    return lo, hi


def diameter(d: int, norm: str, bounds: tuple[float, float]) -> float:
    """The distance of two opposite corners of the box [lo, hi]^d: an eps beyond it allows no more than one of it."""
    return (bounds[1] - bounds[0]) * {"linf": 1.0, "l2": math.sqrt(d), "l1": float(d)}[norm]


# ---- which way: steepest ascent ----


def steepest(g: Any, x: Any, size: float, eps: float, norm: str, bounds: tuple[float, float]) -> Any:
    """The step of length `size` that raises the loss most, to first order.

        linf   size * sign(g): every pixel, by the same amount
        l2     size * g / ||g||
        l1     size * sign(g) / k on the k pixels of largest |g|, k = 2 eps / (hi - lo), at least 1

    For linf and l2 this is the s with the largest <g, s>. For l1 that would be one pixel alone: right if the loss were
    linear and the pixel free to go anywhere. But a change of eps in l1 needs eps / (hi - lo) pixels at least, and
    climbing one at a time ends on a worse hill (with PGD-20 at eps 3 on the digits: 15 % of the images survive, against
    none). Hence several pixels per step, as Tramer and Boneh, "Adversarial training and robustness for multiple
    perturbations", NeurIPS 2019, but twice as many as the ball's corners have instead of a fixed share of all; and a
    pixel that the box stops leaves its part to the next, as in proposition 2.2 of Croce and Hein 2021. If there are not
    enough of them, those that have room go on.

    Args:
        g: (n, ...), the gradient of the loss at x. Where it is 0 nothing is done; how small it is does not matter.
        x: (n, ...), the images, within the bounds.
        size: the length of the step, in `norm`.
        eps: the radius of the ball that the whole attack may use; for l1 only.
    """
    choice("norm", norm, NORMS)
    xp = array_module(g)
    if norm == "linf":
        return size * xp.sign(g)
    flat = _rows(g)  # (n, d)
    if norm == "l2":
        # squares of 1e-25 vanish in float32: divide by the largest entry before measuring the length
        largest = xp.abs(flat).max(axis=1, keepdims=True)  # (n, 1)
        flat = flat / xp.where(largest > 0, largest, 1.0).astype(g.dtype)
        length = _length(flat)[:, None]  # in [1, sqrt(d)], or 0
        return (flat * (size / xp.maximum(length, 1.0)).astype(g.dtype)).reshape(g.shape)
    lo, hi = bounds
    rows = _rows(x)
    k = max(1, round(2 * eps / (hi - lo)))
    part = size / k * (1 + 1e-6)  # a little more, so that rounding leaves nothing for one pixel after the k
    room = xp.where(flat > 0, hi - rows, xp.where(flat < 0, rows - lo, 0.0))  # how far the box lets each pixel go
    order = xp.argsort(-xp.abs(flat), axis=1, kind="stable")
    room = xp.take_along_axis(room, order, axis=1)
    take = _in_turn(xp, xp.minimum(room, part), size)
    # where so many are at the border that not everything is spent, the others go on, the largest first
    left = xp.maximum(size - take.sum(axis=1, keepdims=True), 0.0)
    take = (take + _in_turn(xp, xp.maximum(room - take, 0.0), left)).astype(g.dtype)
    step = xp.empty_like(room)
    xp.put_along_axis(step, order, take, axis=1)
    return (step * xp.sign(flat)).reshape(g.shape)


def _in_turn(xp: Any, room: Any, size: Any) -> Any:
    """How much of `size` each gets, (n, d): from left to right its room, as long as there is something left."""
    spent = xp.zeros(room.shape, "float64")  # before its turn
    spent[:, 1:] = xp.cumsum(room[:, :-1], axis=1, dtype="float64")
    return xp.minimum(xp.maximum(size - spent, 0.0), room)


# ---- back to what is allowed: projection ----


def project(z: Any, x: Any, eps: float, norm: str = "linf", bounds: tuple[float, float] = (0.0, 1.0)) -> Any:
    """The point nearest to z (in Euclidean distance) among all x' with ||x' - x|| <= eps and lo <= x' <= hi.

    With v = z - x, and a pixel's change limited to [lo - x, hi - x] by the box, the conditions of Karush, Kuhn and
    Tucker give the change of every pixel up to one number per image, which the radius eps then fixes:

        linf   clip(v, -eps, eps), clipped to the box
        l2     clip(s v), with s in [0, 1]
        l1     clip(sign(v) max(|v| - t, 0)), with t >= 0

    Args:
        z: (n, ...), anywhere.
        x: (n, ...), the centers, within the bounds.

    Returns:
        An array like x; exact but for rounding (in float64 to about 1e-15).

    Raises:
        TypeError: if x or z are not arrays of floats: those of bytes would wrap around.
        ValueError: for another norm, an eps that is no radius, a z of another shape than x, or an x outside the bounds.
    """
    choice("norm", norm, NORMS)
    for name, array in (("z", z), ("x", x)):
        if getattr(getattr(array, "dtype", None), "kind", "") != "f":
            raise TypeError(f"{name}: expected an array of floats, got {getattr(array, 'dtype', type(array).__name__)}")
    if z.shape != x.shape:
        raise ValueError(f"z: got shape {z.shape}, expected that of x, {x.shape}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps: expected a radius, 0 or more, got {eps!r}")
    xp = array_module(z, x)
    lo, hi = box(bounds)
    if xp is np and x.size and not (lo <= x.min() and x.max() <= hi):  # on a GPU that would be a wait, in every step
        raise ValueError(f"x: its values range from {x.min()!r} to {x.max()!r}, outside bounds={bounds!r}")
    if norm == "linf":
        return xp.minimum(xp.maximum(z, xp.maximum(x - eps, lo)), xp.minimum(x + eps, hi)).astype(x.dtype, copy=False)
    rows = _rows(x)
    v = _rows(z) - rows  # (n, d)
    a = xp.abs(v)
    room = xp.where(v > 0, hi - rows, rows - lo)  # >= 0: how far the box lets each pixel go the way v points
    if norm == "l2":
        delta = xp.minimum(a * _l2_scale(a, room, eps).astype(x.dtype), room)
    else:
        delta = xp.minimum(xp.maximum(a - _l1_threshold(a, room, eps).astype(x.dtype), 0.0), room)
    # the last clip is for rounding only: x + (hi - x) may exceed hi by one unit in the last place
    return xp.minimum(xp.maximum(rows + xp.sign(v) * delta, lo), hi).astype(x.dtype, copy=False).reshape(x.shape)


def _l2_scale(a: Any, room: Any, eps: float) -> Any:
    """The s in [0, 1] of each row with ||min(s a, room)|| = eps, or 1 if s = 1 gives less. (n, d) -> (n, 1).

    As s grows, pixel i is stopped by the box at s = room / a, its corner. If it were known which pixels are stopped, s would
    follow from eps^2 = (their room)^2 + s^2 (the others' a)^2. After sorting the corners, two running sums give the length
    at each of them, and the first that reaches eps says who is stopped: those before it. (As in `_l1_threshold`; nothing
    is asked in between, so that a GPU is not waited for.)
    """
    xp = array_module(a)
    a, room = a.astype("float64", copy=False), room.astype("float64", copy=False)
    corners = xp.where(a > room, room / xp.where(a > room, a, 1.0), 1.0)  # 1: not stopped by any s that counts
    order = xp.argsort(corners, axis=1)
    corners, a, most = (xp.take_along_axis(x, order, axis=1) for x in (corners, a, xp.minimum(a, room)))
    stopped = xp.zeros_like(most)
    stopped[:, 1:] = xp.cumsum(most[:, :-1] ** 2, axis=1)  # of the pixels before this one
    free = xp.cumsum(a[:, ::-1] ** 2, axis=1)[:, ::-1]  # of this one and those after it
    reached = stopped + corners**2 * free >= eps**2
    k = xp.argmax(reached, axis=1)[:, None]
    before = xp.zeros_like(corners)
    before[:, 1:] = corners[:, :-1]
    stopped, free, least, most = (xp.take_along_axis(x, k, axis=1) for x in (stopped, free, before, corners))
    scale = xp.sqrt(xp.maximum(eps**2 - stopped, 0.0) / xp.where(free > 0, free, 1.0))
    scale = xp.minimum(xp.maximum(scale, least), most)  # whatever the difference has lost to rounding
    return xp.where(reached.any(axis=1, keepdims=True) & (free > 0), scale, 1.0)


def _l1_threshold(a: Any, room: Any, eps: float) -> Any:
    """The t >= 0 of each row with sum(min(max(a - t, 0), room)) = eps, or 0 if t = 0 gives less. (n, d) -> (n, 1).

    As t falls from infinity, pixel i starts to grow at t = a and is stopped by the box at t = a - room. So the sum is
    made of straight pieces: after sorting these 2 d corners, one running count of the growing pixels and one running
    sum give it at every corner. The piece on which it reaches eps gives t. Without a box this is the method of Duchi et
    al., "Efficient projections onto the l1-ball for learning in high dimensions", ICML 2008.
    """
    xp = array_module(a)
    a = a.astype("float64", copy=False)
    corners = xp.concatenate([a, xp.maximum(a - room, 0.0)], axis=1)  # (n, 2d)
    order = xp.argsort(-corners, axis=1, kind="stable")
    corners = xp.take_along_axis(corners, order, axis=1)
    change = xp.where(order < a.shape[1], 1.0, -1.0)  # one more pixel grows, or one less
    growing = xp.cumsum(change, axis=1)
    total = xp.cumsum(change * corners, axis=1)
    # between corner k and corner k + 1 the sum is total[k] - growing[k] * t; at corner k + 1, the piece's end:
    ends = xp.zeros_like(corners)
    ends[:, :-1] = corners[:, 1:]
    reached = total - growing * ends >= eps
    k = xp.argmax(reached, axis=1)[:, None]  # the first piece that reaches eps
    growing = xp.take_along_axis(growing, k, axis=1)
    t = (xp.take_along_axis(total, k, axis=1) - eps) / xp.maximum(growing, 1.0)
    return xp.where(reached.any(axis=1, keepdims=True), xp.maximum(t, 0.0), 0.0)


# ---- a random beginning ----


def random_start(x: Any, eps: float, norm: str, seed: int, restart: int, index: np.ndarray) -> Any:
    """x plus a change drawn uniformly from the ball of radius eps (not from the box: project it).

        linf   each pixel uniform in [-eps, eps)
        l2     a normal vector has a uniform direction; the length eps u^(1/d), because a ball of radius r holds a share
               r^d of the volume
        l1     the d + 1 gaps between d sorted uniform numbers are distributed as exponential numbers over their sum;
               d of these gaps, with random signs, are uniform in the ball

    Image i's numbers are a function of (seed, restart, index[i]), whatever else is in the batch. Drawn on the host, so
    that a CPU and a GPU begin alike.

    Args:
        index: (n,) integers on the host.
    """
    choice("norm", norm, NORMS)
    d = math.prod(x.shape[1:])
    place = (seed, f"attack start {norm}", restart, index)
    if norm == "linf":
        delta = 2.0 * uniform(*place, shape=(d,), dtype="float64") - 1.0  # (n, d)
    elif norm == "l2":
        delta = normal(*place, shape=(d,), dtype="float64")
        length = np.sqrt((delta**2).sum(axis=1, keepdims=True))
        delta *= uniform(*place, "length", dtype="float64")[:, None] ** (1.0 / d) / length
    else:
        delta = -np.log1p(-uniform(*place, shape=(d + 1,), dtype="float64"))  # exponential
        delta = delta[:, :-1] / delta.sum(axis=1, keepdims=True)
        delta *= np.where(uniform(*place, "sign", shape=(d,)) < 0.5, -1.0, 1.0)
    return x + to_device((eps * delta).astype(x.dtype).reshape(x.shape), device_of(x))


def _rows(x: Any) -> Any:
    """(n, ...) -> (n, d); says d itself, for -1 is ambiguous where n = 0."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _length(rows: Any) -> Any:
    """The Euclidean length of each row, summed in float64: (n, d) -> (n,)."""
    xp = array_module(rows)
    return xp.sqrt((rows.astype("float64", copy=False) ** 2).sum(axis=1))

"""Is the attack asked for a meaningful one? What all attacks are given, checked in one place.

An attack takes almost anything without complaint and then reports a robust model: eps on the 0-255 scale, images
outside the bounds, labels of another order. So each doubt is an error here, which names the argument, says what came,
what was expected and what to do.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minivit.arguments import choice, integer, real
from minivit.attacks.norms import NORMS, box, diameter
from minivit.attacks.victim import home, logits_of
from minivit.autograd.tensor import Tensor
from minivit.backend import array_module, to_device, to_numpy


@dataclass(frozen=True)
class Inputs:
    """The checked arguments that all attacks share: images where they came from; labels and targets on the host."""

    model: Any
    x: Any  # (n, ...) float32 or float64
    y: np.ndarray  # (n,) int64
    targets: np.ndarray | None  # (n,) int64
    eps: float
    norm: str
    bounds: tuple[float, float]
    batch_size: int

    def batches(self) -> Iterator[tuple[slice, Any, Any, Any]]:
        """(rows, x[rows], y[rows], targets[rows]), batch after batch, on the model's device.

        Before the first, one image shows how many classes the model has, and the labels are held against that.
        """
        if len(self.y) == 0:
            return
        device = home(self.model, self.x)
        classes = logits_of(self.model, to_device(self.x[:1], device)).shape[1]
        _in_range("y", self.y, classes)
        _in_range("targets", self.targets, classes)
        for i in range(0, len(self.y), self.batch_size):
            rows = slice(i, min(i + self.batch_size, len(self.y)))
            targets = None if self.targets is None else to_device(self.targets[rows], device)
            yield rows, to_device(self.x[rows], device), to_device(self.y[rows], device), targets


def inputs(model: Any, x: Any, y: Any, eps: Any, norm: Any, targets: Any, bounds: Any, batch_size: Any) -> Inputs:
    """Checks what every attack takes. Raises ValueError or TypeError, with the argument's name first."""
    if not callable(model):
        raise TypeError(f"model: expected a callable from images to logits, got {type(model).__name__}")
    norm = choice("norm", norm, NORMS)
    lo, hi = box(bounds)
    x = _images(x, (lo, hi))
    y = labels("y", y, x.shape)
    if targets is not None:
        targets = labels("targets", targets, x.shape)
        if (same := np.flatnonzero(targets == y)).size:
            raise ValueError(
                f"targets: image {same[0]} has target {y[same[0]]}, which is its label y ({same.size} such images); "
                "a targeted attack needs another class, e.g. (y + 1) % classes"
            )
    eps = _eps(eps, norm, (lo, hi), math.prod(x.shape[1:]))
    return Inputs(model, x, y, targets, eps, norm, (lo, hi), integer("batch_size", batch_size, least=1))


def labels(name: str, y: Any, x_shape: tuple[int, ...]) -> np.ndarray:
    """Labels as int64 (n,) on the host: one integer per image, none negative; too large ones the model will reveal."""
    n = x_shape[0]
    y = to_numpy(y.data if isinstance(y, Tensor) else y)
    if y.ndim == 2 and len(y) == n and y.shape[1] > 1:
        raise ValueError(f"{name}: got shape {y.shape}, which looks one-hot; give class numbers, {name}.argmax(axis=1)")
    if y.shape != (n,):
        hint = f"; if x is one image, give x[None] and [{name}]" if y.size == 1 else ""
        raise ValueError(f"{name}: got shape {y.shape}, expected ({n},), one label per image of x {x_shape}{hint}")
    if n and y.dtype.kind not in "iu":
        raise TypeError(f"{name}: labels must be integers, got {y.dtype}; use {name}.astype('int64')")
    if n and y.min() < 0:
        raise ValueError(f"{name}: labels must be 0, 1, ..., got {y.min()} for image {y.argmin()}")
    if n and y.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: labels must be 0, 1, ..., got {y.max()} for image {y.argmax()}")
    return y.astype(np.int64)


def warn_of_probabilities(logits: np.ndarray) -> None:
    """A softmax inside the model flattens the loss (its gradient fades, and the attack looks weak): say so."""
    if logits.min() >= 0 and logits.max() <= 1 and np.abs(logits.sum(axis=1) - 1).max() < 1e-5:
        warnings.warn("model: it returns probabilities (rows in [0, 1] that sum to 1), expected logits; the attack will "
                      "be weaker than it could be: leave out the model's last softmax", stacklevel=3)


def indices(index: Any, n: int) -> np.ndarray:
    """The numbers by which images draw their random starts: (n,) non-negative integers, by default 0 to n - 1."""
    if index is None:
        return np.arange(n)
    index = to_numpy(index)
    if index.shape != (n,) or (n and (index.dtype.kind not in "iu" or index.min() < 0)):
        raise ValueError(f"index: expected {n} integers >= 0, one per image, got {index.dtype} of shape {index.shape}"
                         + (f" from {index.min()}" if index.size else ""))
    return index.astype(np.int64)


def _in_range(name: str, y: np.ndarray | None, classes: int) -> None:
    """Raises ValueError if a label is beyond the classes that the model has turned out to have."""
    if y is not None and y.max() >= classes:
        raise ValueError(f"{name}: image {y.argmax()} has label {y.max()}, but the model has {classes} classes (0 to "
                         f"{classes - 1})")


def _images(x: Any, bounds: tuple[float, float]) -> Any:
    x = x.data if isinstance(x, Tensor) else x
    x = x if hasattr(x, "dtype") else np.asarray(x)
    if x.dtype.kind in "iub":
        raise TypeError(f"x: images are {x.dtype}, expected floats; for pixels of 0 to 255 use x.astype('float32') / 255")
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"x: images are {x.dtype}, expected float32 or float64; use x.astype('float32')")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise ValueError(f"x: got shape {x.shape}, expected a batch (n, ...); one image needs a batch axis, x[None]")
    if x.size == 0:
        return x
    xp = array_module(x)
    bad = xp.isnan(x).reshape(len(x), -1).any(axis=1)
    if bool(bad.any()):
        raise ValueError(f"x: image {int(bad.argmax())} contains NaN ({int(bad.sum())} such images)")
    lo, hi = (x.dtype.type(b) for b in bounds)
    least, most = x.min(), x.max()
    if not (bool(least >= lo) and bool(most <= hi)):
        if bounds == (0.0, 1.0) and float(most) > 2:
            hint = "pixels of 0 to 255 need x / 255"
        elif max(lo - least, most - hi) < 1e-4 * (hi - lo):
            hint = "that is little, by rounding perhaps: np.clip(x, *bounds)"
        else:
            hint = "give the bounds of your pixels; a normalization belongs in the model, as its first layer"
        raise ValueError(f"x: pixels range from {float(least):.8g} to {float(most):.8g}, outside bounds={bounds}; {hint}")
    return x


def _eps(eps: Any, norm: str, bounds: tuple[float, float], d: int) -> float:
    eps = real("eps", eps)
    if eps < 0:
        raise ValueError(f"eps: expected a radius >= 0, got {eps}")
    most = diameter(d, norm, bounds)
    if eps > most * (1 + 1e-12):
        what = "the range of a pixel" if norm == "linf" else f"the {norm} diameter of the box of {d} pixels"
        hint = ("; eps is on the pixel scale [0, 1]: write 8/255" if bounds == (0.0, 1.0) else "; is it on the scale of the "
                "pixels?")
        raise ValueError(f"eps: got {eps:g}, beyond {what}, {most:g}{hint}")
    return eps

"""The fast gradient sign method, the lecture's first attack: one step along the sign of the gradient.

    x_adv = x + eps * sign(dl/dx)                                 lecture, "FGSM Attack"

(Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, section 4.) Why the sign:
if the loss were linear around x, moving every pixel by eps in the direction in which the loss rises would be the best
that a change of at most eps per pixel can do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minivit.attacks import norms, validate
from minivit.attacks.loss import input_gradient
from minivit.attacks.result import AttackResult, assess
from minivit.attacks.victim import Model
from minivit.backend import array_module, to_numpy
from minivit.nn.module import evaluating


def fgsm(
    model: Model,
    x: Any,
    y: Any,
    eps: float = 8 / 255,
    norm: str = "linf",
    targets: Any = None,
    bounds: tuple[float, float] = (0, 1),
    batch_size: int = 256,
) -> AttackResult:
    """One step of size eps along the gradient of the loss, then clipped to the bounds.

    Args:
        model: a callable from images (n, ...) to logits (n, classes) in minivit operations; it is left as it was.
        x: (n, ...) images, float32 or float64, within the bounds; an array on the CPU or a GPU.
        y: (n,) integer labels.
        eps: how far an image may be moved, in `norm`, on the scale of the pixels: 8/255 means what it says.
        norm: "linf": x + eps sign(g); "l2": x + eps g / ||g||; "l1": eps spent on the few pixels of
            largest |g| (`norms.steepest`).
        targets: (n,) classes to be classified as; the step then descends the cross-entropy of the targets.
        bounds: the least and the largest value of a pixel.
        batch_size: how many images go through the model at a time.

    Returns:
        AttackResult, also where the step has lowered the loss: FGSM keeps what the formula gives.

    Raises:
        ValueError, TypeError: for a bad argument (`validate.py`), or a model whose logits give no gradient.
    """
    given = validate.inputs(model, x, y, eps, norm, targets, bounds, batch_size)
    x_adv = np.empty(given.x.shape, given.x.dtype)
    prediction = np.empty(len(x_adv), np.int64)
    with evaluating(model):
        for rows, images, labels, aims in given.batches():
            _, logits, g = input_gradient(model, images, labels, aims)
            moved = images + norms.steepest(g, images, given.eps, given.eps, given.norm, given.bounds)
            x_adv[rows] = to_numpy(array_module(moved).clip(moved, *given.bounds))
            prediction[rows] = to_numpy(logits.argmax(axis=1))
            if rows.start == 0:
                validate.warn_of_probabilities(to_numpy(logits))
        return assess(given, x_adv, prediction, "FGSM")

"""What an attack returns: the images, and how each fared, judged by asking the model again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from minivit.attacks import norms, validate
from minivit.attacks.loss import objective, success
from minivit.attacks.victim import home, logits_of
from minivit.backend import array_module, to_device, to_numpy


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Adversarial images and their effect; all arrays are NumPy's, one row per image.

    Attributes:
        x_adv: (n, ...) in the dtype of x, within the bounds, at most eps from x.
        success: (n,) bool: the model classifies x_adv as another class than y or, in a targeted attack, as the target.
            An image that is misclassified already counts as a success of an untargeted attack.
        loss: (n,) float64, at x_adv, what the attack raised: the cross-entropy of y, or minus that of the target.
        prediction: (n,) int64, the model's class for x.
        prediction_adv: (n,) int64, the model's class for x_adv.
        distance: "linf", "l2", "l1" -> (n,) float64, how far x_adv is from x in each norm.
        eps, norm: the radius asked for, and the norm it is measured in.
        attack: the name of the attack, with its number of steps.
        targeted: whether targets were given.
        history: (restarts, steps + 1) the mean loss over the images at the start and after each step; None for FGSM.
    """

    x_adv: np.ndarray
    success: np.ndarray
    loss: np.ndarray
    prediction: np.ndarray
    prediction_adv: np.ndarray
    distance: dict[str, np.ndarray]
    eps: float
    norm: str
    attack: str
    targeted: bool = False
    history: np.ndarray | None = field(default=None)

    def __len__(self) -> int:
        return len(self.success)

    def __repr__(self) -> str:
        what = "sent to their targets" if self.targeted else "misclassified"
        return f"{self.attack}, {self.norm} eps {self.eps:g}: {int(self.success.sum())} of {len(self)} {what}"


def assess(
    given: validate.Inputs,
    x_adv: np.ndarray,
    prediction: np.ndarray,
    attack: str,
    history: np.ndarray | None = None,
) -> AttackResult:
    """The result of an attack that ended at x_adv: success and loss come from a fresh forward pass of these images.

    Args:
        prediction: (n,) the model's classes for the images before the attack.
    """
    n = len(given.y)
    x = to_numpy(given.x)
    fooled, loss, prediction_adv = np.zeros(n, bool), np.zeros(n), np.zeros(n, np.int64)
    device = home(given.model, given.x)
    for i in range(0, n, given.batch_size):
        rows = slice(i, i + given.batch_size)
        y, targets = (None if labels is None else to_device(labels[rows], device) for labels in (given.y, given.targets))
        logits = logits_of(given.model, to_device(x_adv[rows], device))
        loss[rows] = to_numpy(objective(logits, y, targets)[0])
        fooled[rows] = to_numpy(success(logits, y, targets))
        prediction_adv[rows] = to_numpy(array_module(logits).argmax(logits, axis=1))
    return AttackResult(
        x_adv=x_adv,
        success=fooled,
        loss=loss,
        prediction=prediction,
        prediction_adv=prediction_adv,
        distance={norm: norms.distance(x_adv, x, norm) for norm in norms.NORMS},
        eps=given.eps,
        norm=given.norm,
        attack=attack,
        targeted=given.targets is not None,
        history=history,
    )

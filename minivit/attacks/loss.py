"""The loss an attack ascends, and its gradient with respect to the images.

The lecture: "Given a pre-trained ML model, we freeze its parameters and update the input image by gradient ascent to
increase the loss". Training asks for the derivative of the loss by the parameters, an attack by the image, through the
same graph.
"""

from __future__ import annotations

from typing import Any

from minivit.attacks.victim import Model, checked_logits, recording
from minivit.autograd import ops
from minivit.autograd.engine import grad
from minivit.autograd.tensor import Tensor
from minivit.backend import array_module


def objective(logits: Any, y: Any, targets: Any = None) -> Any:
    """What the attack raises, per image: the cross-entropy of the label y, or minus that of the target.

    Args:
        logits: (n, classes), a Tensor or an array. y, targets: (n,) integers; targets None for an untargeted attack.

    Returns:
        (n,), a Tensor or an array as the logits are.
    """
    if targets is None:
        return ops.cross_entropy(logits, y, reduction="none")
    return -ops.cross_entropy(logits, targets, reduction="none")


def input_gradient(model: Model, x: Any, y: Any, targets: Any = None) -> tuple[Any, Any, Any]:
    """The loss of each image, the logits, and the gradient of the loss by the image: arrays (n,), (n, K), like x.

    The losses are summed, not averaged, over the images: the gradient of an image is then its own, whatever the size
    of the batch. The gradients of the parameters are not computed.

    Raises:
        ValueError: if the logits do not depend on the images, or a gradient is not finite.
    """
    with recording():
        images = Tensor(x, requires_grad=True)
        logits = checked_logits(model(images), len(x))
        if not logits.requires_grad:
            raise ValueError(
                "model: its logits do not depend on the images by operations that a gradient can follow; is there a "
                ".numpy(), .detach() or no_grad() inside?"
            )
        losses = objective(logits, y, targets)  # (n,)
        (g,) = grad(losses.sum(), [images])
    if not bool(array_module(x).isfinite(g.data).all()):
        raise ValueError("model: the gradient of the loss by the images contains NaN or infinity; mv.anomaly() finds where")
    return losses.data, logits.data, g.data


def success(logits: Any, y: Any, targets: Any = None) -> Any:
    """Whether each image is misclassified, or, given targets, classified as its target: (n,) bools, an array."""
    prediction = logits.argmax(axis=1)
    return prediction != y if targets is None else prediction == targets

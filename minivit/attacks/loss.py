"""The loss an attack ascends, and the direction in which it rises, with respect to the images.

The lecture: "Given a pre-trained ML model, we freeze its parameters and update the input image by gradient ascent to
increase the loss". Training asks for the derivative of the loss by the parameters, an attack by the image, through the
same graph.

The more certain the model is, the smaller this derivative: with p the softmax of the logits z, and w the softmax of the
logits other than that of the label y,

    dl/dz_y = -(1 - p_y),    dl/dz_j = (1 - p_y) w_j     for the other classes j.

In float32 the factor 1 - p_y is rounded to 0 once z_y leads by 17, the gradient is gone, and a model looks robust only
because its logits are large (Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017, found a
defense that rested on this). But a step of FGSM or PGD depends on the gradient's direction, not on its length. So the
factor is left out, and the step is the one that exact arithmetic would make.
"""

from __future__ import annotations

from typing import Any

from minivit.attacks.victim import Model, checked_logits, require_finite
from minivit.autograd.engine import grad
from minivit.autograd.tensor import Tensor, recording
from minivit.backend import array_module


def objective(logits: Any, y: Any, targets: Any = None) -> tuple[Any, Any]:
    """What the attack raises, the cross-entropy of the label y or minus that of the target, and which way it rises.

    Args:
        logits: (n, K), an array. y, targets: (n,) integers on its device; targets None for an untargeted attack.

    Returns:
        The losses (n,), float64, and their gradients by the logits (n, K), each image's divided by the positive number
        1 - p of its label or target.
    """
    xp = array_module(logits)
    aim, towards = (y, 1.0) if targets is None else (targets, -1.0)
    rows = xp.arange(len(logits))
    others = logits.astype("float64")
    z = others[rows, aim]
    others[rows, aim] = -xp.inf
    top = others.max(axis=1)
    direction = xp.exp(others - top[:, None])
    total = direction.sum(axis=1)
    direction /= total[:, None]  # w
    direction[rows, aim] = -1.0
    # -log p_y = log(1 + sum over j of e^(z_j - z_y)), also where that sum is far below 1
    losses = xp.logaddexp(0.0, top + xp.log(total) - z)
    return towards * losses, (towards * direction).astype(logits.dtype)


def input_gradient(model: Model, x: Any, y: Any, targets: Any = None) -> tuple[Any, Any, Any]:
    """The loss of each image, the logits, and the direction of steepest ascent: arrays (n,), (n, K), like x.

    The direction is the gradient of an image's loss by its pixels up to a positive factor of its own (see above). The
    gradients of the parameters are not computed.

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
        losses, direction = objective(logits.data, y, targets)
        (g,) = grad(logits, [images], direction)  # the sum over the images: each gets its own, whatever the batch
    require_finite(g.data, "model: the gradient of the loss by the images contains NaN or infinity; mv.anomaly() finds where")
    return losses, logits.data, g.data


def success(logits: Any, y: Any, targets: Any = None) -> Any:
    """Whether each image is misclassified, or, given targets, classified as its target: (n,) bools, an array."""
    prediction = logits.argmax(axis=1)
    return prediction != y if targets is None else prediction == targets

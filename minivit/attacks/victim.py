"""What an attack needs from the model it attacks, and how it leaves it: exactly as it was.

The model is any callable from images (n, ...) to logits (n, classes) written in minivit's operations. If it is a
`Module`, it answers in evaluation mode while it is attacked (dropout off), and each submodule gets its own mode back
afterwards, also when something raises. Its parameters are read, never written; no gradient is left in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minivit.autograd.tensor import Tensor, no_grad
from minivit.backend import array_module, device_of

Model = Callable[..., Any]


def home(model: Model, x: Any) -> str:
    """The device the model computes on: its parameters', or for a model without any that of the images."""
    for parameter in model.parameters() if hasattr(model, "parameters") else ():
        return parameter.device
    return device_of(x)


def logits_of(model: Model, x: Any) -> Any:
    """The model's logits for images x, as an array (n, classes); nothing is recorded."""
    with no_grad():
        return checked_logits(model(Tensor(x)), len(x)).data


def checked_logits(logits: Any, n: int) -> Tensor:
    """The model's answer to n images, if it is what an attack can work with.

    Raises:
        TypeError: if it is not a Tensor.
        ValueError: if it is not (n, classes) with two classes at least, or not finite.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"model: returned {type(logits).__name__}, expected a Tensor of logits (n, classes); "
            "compute with minivit's operations (mv.ops), which a gradient can follow"
        )
    if logits.ndim != 2 or logits.shape[0] != n or logits.shape[1] < 2:
        raise ValueError(
            f"model: returned shape {logits.shape} for {n} images, expected logits of shape ({n}, classes), "
            "two classes at least"
        )
    xp = array_module(logits.data)
    if not bool(xp.isfinite(logits.data).all()):
        raise ValueError("model: its logits contain NaN or infinity; there is no loss to attack")
    return logits

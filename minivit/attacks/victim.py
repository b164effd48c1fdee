"""What an attack needs from the model it attacks, and how it leaves it: exactly as it was.

The model is any callable from images (n, ...) to logits (n, classes) written in minivit's operations. If it is a
`Module`, it answers in evaluation mode while it is attacked (dropout off), and each submodule gets its own mode back
afterwards, also when something raises. Its parameters are read, never written; no gradient is left in them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minivit.autograd.tensor import Tensor, no_grad
from minivit.backend import array_module, device_of, to_floats

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
    require_finite(logits.data, "model: its logits contain NaN or infinity; there is no loss to attack")
    return logits


class _Pending(threading.local):
    checks: list[tuple[Any, str]] | None = None  # (whether all is well, an array (); what is to be said if not)


_pending = _Pending()


def require_finite(values: Any, message: str) -> None:
    """Raises ValueError(message) if there is a NaN or an infinity in an array; see `checked_together`."""
    xp = array_module(values)
    fine = xp.isfinite(values).all()
    if xp is not np and _pending.checks is not None:
        _pending.checks.append((fine, message))
    elif not bool(fine):
        raise ValueError(message)


@contextmanager
def checked_together() -> Iterator[None]:
    """Within this block a GPU is not asked whether its numbers are finite, but once at the end: to ask is to wait for it."""
    before, _pending.checks = _pending.checks, []
    try:
        yield
        checks = _pending.checks
    finally:
        _pending.checks = before
    for fine, (_, message) in zip(to_floats(*(fine for fine, _ in checks)), checks):
        if not fine:
            raise ValueError(message)

"""Asking a model: its logits for many images, and how often and how surely it is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minivit.arguments import integer
from minivit.autograd import no_grad, ops
from minivit.backend import to_device, to_numpy
from minivit.data.dataset import Dataset, check_classes
from minivit.nn.module import evaluating


def predict(model: Callable[..., Any], images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """The model's logits, (n, H, W, C) -> (n, classes), a NumPy array; in evaluation mode, nothing is recorded.

    Args:
        model: anything from images to logits; a Module computes where its parameters are, and keeps its modes.
        images: as the model takes them; n may be 0.
        batch_size: how many at a time.
    """
    integer("batch_size", batch_size, least=1)
    n = len(images)
    with evaluating(model), no_grad():
        if n == 0:  # one black image says how many classes there are
            one = np.zeros((1, *np.shape(images)[1:]), getattr(images, "dtype", np.float32))
            return to_numpy(model(placed(model, one)).data)[:0]
        parts = [
            to_numpy(model(placed(model, images[start : start + batch_size])).data) for start in range(0, n, batch_size)
        ]
    return np.concatenate(parts)


def evaluate(model: Callable[..., Any], dataset: Dataset, batch_size: int = 256) -> dict[str, float]:
    """{"accuracy": the share of images whose highest logit is their label's, "loss": the mean cross-entropy}.

    Raises:
        TypeError: if `dataset` is not a Dataset.
        ValueError: if it is empty, has labels that the model has no logits for, or other classes than it was trained on.
        FloatingPointError: if logits are NaN or +infinity, of which none is the highest.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset: expected a Dataset, got {type(dataset).__name__}; mv.data.Dataset(images, labels)")
    if len(dataset) == 0:
        raise ValueError("dataset: it has no images, there is nothing to evaluate")
    check_classes("dataset", dataset, model)
    logits = predict(model, dataset.images, batch_size)
    bad = int(np.sum(~(logits < np.inf).all(axis=1)))
    if bad:
        raise FloatingPointError(f"model: its logits are NaN or infinite for {bad} of {len(dataset)} images")
    losses = ops.cross_entropy(logits.astype(np.float64), dataset.labels, reduction="none")
    return {"accuracy": float(np.mean(logits.argmax(axis=1) == dataset.labels)), "loss": float(np.mean(losses))}


def placed(model: Any, images: Any) -> Any:
    """Images on the device of the model's parameters, floats in their dtype, if it has any."""
    for p in model.parameters() if hasattr(model, "parameters") else ():
        images = to_device(images, p.device)
        return images.astype(p.dtype, copy=False) if images.dtype.kind == "f" else images  # a model refuses pixels of 0 to 255
    return images

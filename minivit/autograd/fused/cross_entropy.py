"""Cross-entropy of integer labels under logits: the loss ℓ that training descends and an attack ascends."""

from __future__ import annotations

import numpy as np

from minivit.autograd.fused import by_kernel, fused
from minivit.autograd.fused.softmax import log_softmax
from minivit.autograd.primitives import getitem, mean, sum
from minivit.autograd.tensor import Tensor
from minivit.backend import array_module, device_of, to_device


def cross_entropy_reference(logits, labels, *, reduction="mean", label_smoothing=0.0):
    log_p = log_softmax(logits, axis=-1)  # (B, K)
    labels = to_device(_raw(labels), device_of(_raw(logits)))
    rows = array_module(labels).arange(len(labels))
    losses = -getitem(log_p, index=(rows, labels))  # (B,)
    if label_smoothing:
        losses = losses * (1 - label_smoothing) - mean(log_p, axis=-1) * label_smoothing
    return {"mean": mean, "sum": sum, "none": lambda x: x}[reduction](losses)


@fused(cross_entropy_reference, saves=("probabilities", "checked_labels"))
def cross_entropy(logits, labels, *, reduction="mean", label_smoothing=0.0):
    """-log softmax(logits)[label], averaged, summed or per image.

    Args:
        logits: (B, K), before any softmax.
        labels: (B,) integers in [0, K), on any device.
        reduction: "mean", "sum" or "none".
        label_smoothing: s in [0, 1): the target is (1 - s) of the label and s/K of every class.

    Returns:
        A scalar, or (B,) for reduction "none".

    Raises:
        ValueError, TypeError: for labels that are not integers, one-hot, out of range or of another number.
    """
    xp = array_module(logits)
    labels = _check(logits, labels, reduction, label_smoothing)
    fast = by_kernel.cross_entropy(logits, labels, label_smoothing)
    if fast is not None:
        losses, p = fast
        return _reduced(losses, reduction), (p, labels)
    rows = xp.arange(len(logits))
    log_p = logits - logits.max(axis=-1, keepdims=True)
    p = xp.exp(log_p)
    total = p.sum(axis=-1, keepdims=True)
    p /= total
    log_p -= xp.log(total)
    losses = -log_p[rows, labels]
    if label_smoothing:
        losses = losses * (1 - label_smoothing) - log_p.mean(axis=-1) * label_smoothing
    return _reduced(losses, reduction), (p, labels)


@cross_entropy.vjp
def _(g, probabilities, checked_labels, reduction, label_smoothing):
    xp = array_module(probabilities)
    B, K = probabilities.shape
    gx = probabilities - label_smoothing / K
    # p - target sums to 0 over the classes: so the label's entry, where p - 1 would round to 0 for a sure model
    label = (xp.arange(B), checked_labels)
    gx[label] = 0
    gx[label] = -gx.sum(axis=-1)
    gx *= g / B if reduction == "mean" else g if reduction == "sum" else g[:, None]
    return gx, None


def _reduced(losses, reduction):
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


def _raw(x):
    return x.data if isinstance(x, Tensor) else x


def _check(logits, labels, reduction, label_smoothing):
    """The labels on the logits' device. An index out of range would wrap silently on a GPU, so it is refused here."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1), got {label_smoothing}")
    if logits.ndim != 2:
        raise ValueError(f"cross_entropy: expected logits of shape (batch, classes), got {logits.shape}")
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    B, K = logits.shape
    if labels.ndim == 2 and labels.shape == logits.shape:
        raise ValueError("cross_entropy: labels look one-hot; give integers, labels.argmax(axis=1)")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: labels must be integers, got {labels.dtype}")
    if labels.shape != (B,):
        raise ValueError(f"cross_entropy: expected labels of shape ({B},) for logits {logits.shape}, got {labels.shape}")
    if B and (int(labels.min()) < 0 or int(labels.max()) >= K):
        raise ValueError(
            f"cross_entropy: labels must be in [0, {K}) for {K} classes, got {int(labels.min())} to {int(labels.max())}"
        )
    return to_device(labels.copy(), device_of(logits))  # a batch's array may be filled again before the gradients are asked for

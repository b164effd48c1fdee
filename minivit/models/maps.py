"""Looking inside: attention maps of any model that returns its intermediates."""

from __future__ import annotations

from typing import Any

import numpy as np

from minivit.autograd import no_grad
from minivit.backend import to_numpy
from minivit.nn.module import evaluating


def attention_maps(model: Any, images: Any) -> list[np.ndarray]:
    """The attention matrices of every layer, first to last, as NumPy arrays (B, heads, N, N).

    Row i of a matrix says how much token i takes from each token; rows sum to 1. With a class token, N counts it first.

    Raises:
        TypeError: if the model's forward takes no `intermediates`, or none of them is an attention.
    """
    with evaluating(model), no_grad():
        _, parts = model(images, intermediates=True)
    maps = [to_numpy(part.data) for name, part in parts.items() if name.endswith("attention")]
    if not maps:
        raise TypeError(f"{type(model).__name__} has no attention among its intermediates: {', '.join(parts)}")
    return maps


def attention_rollout(maps: list[np.ndarray]) -> np.ndarray:
    """How much each token of the last layer draws on each token of the input, if attention is all that mixes them.

    Ã_l = ½ (mean over heads of A_l + I), R = Ã_L ⋯ Ã_1 (Abnar and Zuidema 2020; the residual connection is the I).
    A picture, not a proof: the MLPs and values are left out.

    Args:
        maps: from `attention_maps`, each (B, heads, N, N).

    Returns:
        (B, N, N); rows sum to 1.
    """
    rollout = None
    for i, a in enumerate(maps):
        if a.ndim != 4 or a.shape[-1] != a.shape[-2]:
            raise ValueError(f"maps: expected arrays (B, heads, N, N), got {a.shape} for layer {i}")
        mixed = (a.mean(axis=1) + np.eye(a.shape[-1], dtype=a.dtype)) / 2  # (B, N, N)
        rollout = mixed if rollout is None else mixed @ rollout
    if rollout is None:
        raise ValueError("maps: expected the attention maps of at least one layer, got none")
    return rollout

"""The Vision Transformer once more, for libraries that look like NumPy: given their array functions, it is recorded by them.

For the settings that the rows use: class token, learned positions, scores over √(D/h).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def forward(
    config: Any, p: Mapping[str, Any], images: np.ndarray, xp: Any, gelu: Callable[[Any], Any], softmax: Callable[[Any], Any]
) -> Any:
    """Logits of the ViT that `config` describes, for images (B, H, W, C).

    Args:
        p: its parameters by minivit's names, as arrays that the library follows.
        xp: the library's stand-in for NumPy.
        gelu, softmax: the library's, softmax over the last axis.
    """
    B, H, W, C = images.shape
    P, D, h = config.patch_size, config.embed_dim, config.num_heads
    eps, scale = np.float32(config.norm_eps), np.float32(1 / math.sqrt(D // h))  # a bare 0.5 makes MyGrad go on in float64

    def linear(x: Any, name: str) -> Any:
        return xp.matmul(x, p[name + ".weight"]) + p[name + ".bias"]

    def norm(x: Any, name: str) -> Any:
        centered = x - xp.mean(x, axis=-1, keepdims=True)
        variance = xp.mean(centered * centered, axis=-1, keepdims=True)
        return centered / xp.sqrt(variance + eps) * p[name + ".weight"] + p[name + ".bias"]

    x = (images - np.float32(config.mean)) / np.float32(config.std)
    patches = x.reshape(B, H // P, P, W // P, P, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, P * P * C)
    z = xp.concatenate([xp.broadcast_to(p["cls_token"], (B, 1, D)), linear(patches, "patch_embed.proj")], axis=1)
    z = z + p["pos_embed"]
    for i in range(config.depth):
        b = f"blocks.{i}."
        qkv = linear(norm(z, b + "norm1"), b + "attn.qkv")
        q, k, v = xp.transpose(xp.reshape(qkv, (B, -1, 3, h, D // h)), (2, 0, 3, 1, 4))  # (B, h, N, d) each
        scores = xp.matmul(q, xp.transpose(k, (0, 1, 3, 2))) * scale
        heads = xp.transpose(xp.matmul(softmax(scores), v), (0, 2, 1, 3))
        z = z + linear(xp.reshape(heads, (B, -1, D)), b + "attn.proj")
        z = z + linear(gelu(linear(norm(z, b + "norm2"), b + "mlp.fc1")), b + "mlp.fc2")
    return linear(norm(z[:, 0], "norm"), "head")

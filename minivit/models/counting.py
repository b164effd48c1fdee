"""How much a model computes: multiply-accumulates of its matrix products, those of attention included.

(Counters that hook into layers miss Q Kᵀ and A V, which belong to no layer. Here the graph itself is read.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minivit.autograd import Tensor
from minivit.autograd.engine import _ancestors
from minivit.autograd.tensor import recording
from minivit.backend import to_device
from minivit.models.encoder import all_tokens
from minivit.nn.module import evaluating


def count_macs(model: Callable[[Any], Tensor], image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one forward pass on one image (H, W, C). "FLOPs" in papers usually means these.

    As papers count them: with all tokens of a ViT's last block, though its forward pass leaves out those that nobody reads.
    """
    dtype, device = getattr(model, "dtype", np.float32), getattr(model, "device", "cpu")
    images = Tensor(to_device(np.zeros((1, *image_shape), dtype), device), requires_grad=True)
    with evaluating(model), recording(), all_tokens():
        logits = model(images)
    return macs_of(logits)


def macs_of(result: Tensor) -> int:
    """Multiply-accumulates of all products that this Tensor was computed from, as recorded."""
    return sum(_macs(node) for node in _ancestors(result.node))


def _macs(node: Any) -> int:
    name, shapes = node.op.name, node.shapes
    if name == "linear":
        return math.prod(shapes[0]) * shapes[1][1]  # (n, d_in) @ (d_in, d_out)
    if name == "matmul":
        *_, n, d = shapes[0]
        return math.prod(max(shapes, key=len)[:-2]) * n * d * shapes[1][-1]  # (..., n, d) @ (..., d, e), "..." perhaps once
    if name == "multi_head_attention":
        B, N, D3 = shapes[0]
        return 2 * B * (node.options["queries"] or N) * N * D3 // 3  # Q Kᵀ and A V
    if name == "scaled_dot_product_attention":
        (B, h, N, d), (_, _, M, _), (_, _, _, e) = shapes[:3]
        return B * h * N * M * (d + e)
    if name == "encoder":
        (B, N, D), H, blocks = shapes[0], shapes[9][1], len(shapes) // 12
        last = node.options["queries"] or N  # tokens that ask, in the last block
        whole = [N] * (blocks - 1) + [last]
        return B * sum(3 * N * D * D + 2 * asking * N * D + asking * D * (D + 2 * H) for asking in whole)
    if name == "checkpoint":
        raise ValueError("count_macs: what is computed within mv.checkpoint leaves no products to count; count without it")
    return 0

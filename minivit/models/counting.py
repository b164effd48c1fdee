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


def count_macs(model: Callable[[Any], Tensor], image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one forward pass on one image (H, W, C). "FLOPs" in papers usually means these."""
    dtype = getattr(model, "dtype", np.float32)
    images = Tensor(np.zeros((1, *image_shape), dtype), requires_grad=True)
    return sum(_macs(node) for node in _ancestors(model(images).node))


def _macs(node: Any) -> int:
    name, shapes = node.op.name, node.shapes
    if name == "linear":
        return math.prod(shapes[0]) * shapes[1][1]  # (n, d_in) @ (d_in, d_out)
    if name == "matmul":
        return math.prod(shapes[0]) * shapes[1][-1]
    if name == "multi_head_attention":
        B, N, D3 = shapes[0]
        return 2 * B * N * N * D3 // 3  # Q Kᵀ and A V
    if name == "scaled_dot_product_attention":
        (B, h, N, d), (_, _, M, _), (_, _, _, e) = shapes[:3]
        return B * h * N * M * (d + e)
    return 0

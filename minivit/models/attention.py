"""Multi-head self-attention (lecture, "Multi-head attention"; Vaswani et al. 2017, section 3.2.2).

    MultiHead(z) = Concat(head_1, ..., head_h) W^O,   head_i = softmax(Q_i K_iᵀ / √d_i) V_i,   d_i = D / h

with Q_i = z W_i^Q and so on: tokens are rows, so the weights stand on the right and have shape D × d_i. (The slide that
writes Q = W^Q z with W^Q of size (N+1)×(N+1) would mix tokens rather than features; that shape belongs to the attention
matrix softmax(QKᵀ/√d).) The three projections of all heads are one matrix here, W_qkv of shape D × 3D.
"""

from __future__ import annotations

import math
from typing import Any

from minivit.autograd import ops
from minivit.nn import Linear, Module


class MultiHeadSelfAttention(Module):
    """(B, N, D) -> (B, N, D)

    Args:
        dim: D.
        num_heads: h; must divide D.
        scale: "head" divides the scores by √(D/h), as the ViT paper does; "width" by √D, as the lecture writes
            it, for comparison.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        scale: str = "head",
        seed: int | None = 0,
        name: str = "attn",
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide the width {dim}; choose one that does")
        if scale not in ("head", "width"):
            raise ValueError(f"scale: expected 'head' (1/√(D/h)) or 'width' (1/√D), got {scale!r}")
        self.num_heads = num_heads
        self.scale = 1 / math.sqrt(dim // num_heads if scale == "head" else dim)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias, seed=seed, name=f"{name}.qkv", parts=3)
        self.proj = Linear(dim, dim, seed=seed, name=f"{name}.proj")

    def forward(
        self,
        z: Any,
        bias: Any = None,
        parts: dict[str, Any] | None = None,
        name: str = "attention",
        queries: int | None = None,
    ) -> Any:
        """bias: (h, N, N), added to the scores. parts: takes the attention matrices (B, h, N, N) under `name`.
        queries: only the first so many tokens ask, and the result has their rows; None: all."""
        qkv = self.qkv(z)  # (B, N, D) @ (D, 3D) -> (B, N, 3D)
        bias = bias if bias is None or queries is None else bias[..., :queries, :]
        if parts is None:
            heads = ops.multi_head_attention(qkv, bias, num_heads=self.num_heads, scale=self.scale, queries=queries)
        else:  # the reference, which forms the attention matrix as a value of its own
            q, k, v = ops.split_heads(qkv, self.num_heads)
            parts[name] = ops.attention_probabilities(q[:, :, :queries], k, bias, self.scale)
            heads = ops.merge_heads(parts[name] @ v)  # (B, h, N, N) @ (B, h, N, d) -> (B, h, N, d) -> (B, N, D)
        return self.proj(heads)

    def describe(self) -> str:
        return f"{self.num_heads} heads, scale {self.scale:.4g}"

"""One block of the transformer encoder, pre-norm (lecture, "Transformer Encoder"; Dosovitskiy et al. 2021, eq. 2-3).

    z' = z  + MSA(LN(z))
    z  = z' + MLP(LN(z'))
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minivit.models.attention import MultiHeadSelfAttention
from minivit.nn import MLP, Dropout, DropPath, LayerNorm, Linear, Module


class EncoderBlock(Module):
    """(B, N, D) -> (B, N, D)"""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        qkv_bias: bool = True,
        scale: str = "head",
        norm_eps: float = 1e-6,
        approximate_gelu: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        seed: int | None = 0,
        name: str = "block",
        layer: int = 0,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attn = MultiHeadSelfAttention(dim, num_heads, qkv_bias, scale, seed, f"{name}.attn")
        self.norm2 = LayerNorm(dim, norm_eps)
        self.mlp = MLP(dim, mlp_dim, approximate_gelu, dropout, seed, f"{name}.mlp", layer=3 * layer)
        self.dropout = Dropout(dropout, seed or 0, layer=3 * layer + 1)
        self.drop_path1 = DropPath(drop_path, seed or 0, layer=3 * layer + 1)
        self.drop_path2 = DropPath(drop_path, seed or 0, layer=3 * layer + 2)

    def forward(
        self,
        z: Any,
        bias: Any = None,
        parts: dict[str, Any] | None = None,
        name: str = "block",
        queries: int | None = None,
    ) -> Any:
        """bias, parts: see `MultiHeadSelfAttention`; parts also takes the result, under `name`.
        queries: only the rows of the first so many tokens are computed, (B, queries, D); None: all. The others still give
        their keys and values, and are done: what follows attention treats each token by itself."""
        asked = {} if queries is None else {"queries": queries}
        attended = self.attn(self.norm1(z), bias, parts, f"{name}.attention", **asked)
        z = z if queries is None else z[:, :queries]
        z = z + self.drop_path1(self.dropout(attended))
        z = z + self.drop_path2(self.mlp(self.norm2(z)))
        if parts is not None:
            parts[name] = z
        return z

    def can_leave_out_tokens(self) -> bool:
        """Whether `queries` gives the rows of the whole result: not if a part has been replaced, by one that may mix tokens or
        look at all of them, nor while dropout draws its masks, which would be others, nor within `all_tokens()`."""
        attn, mlp = self.attn, self.mlp
        return not getattr(_ambient, "all_tokens", False) and (
            _is(self, EncoderBlock) and _is(attn, MultiHeadSelfAttention) and _is(self.norm2, LayerNorm) and _is(mlp, MLP)
            and _is(attn.proj, Linear) and _is(mlp.fc1, Linear) and _is(mlp.fc2, Linear)
            and all(_is(d, DropPath) for d in (self.drop_path1, self.drop_path2))
            and all(_is(d, Dropout) and not (d.training and d.p) for d in (self.dropout, mlp.dropout))
        )


def _is(part: Any, kind: type) -> bool:
    return type(part) is kind and "forward" not in vars(part)


_ambient = threading.local()


@contextmanager
def all_tokens() -> Iterator[None]:
    """Within this block, and in this thread, a ViT computes all tokens of its last block: to count, and to compare."""
    before, _ambient.all_tokens = getattr(_ambient, "all_tokens", False), True
    try:
        yield
    finally:
        _ambient.all_tokens = before

"""One block of the transformer encoder, pre-norm (lecture, "Transformer Encoder"; Dosovitskiy et al. 2021, eq. 2-3).

    z' = z  + MSA(LN(z))
    z  = z' + MLP(LN(z'))
"""

from __future__ import annotations

from typing import Any

from minivit.models.attention import MultiHeadSelfAttention
from minivit.nn import MLP, Dropout, DropPath, LayerNorm, Module


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
        queries: of how many tokens, from the first, the result is wanted; None: of all. The others then still give their
        keys and values, which is a quarter of a block's work, but no more: what follows treats each token by itself."""
        attended = self.attn(self.norm1(z), bias, parts, f"{name}.attention", queries)
        z = z if queries is None else z[:, :queries]
        z = z + self.drop_path1(self.dropout(attended))
        z = z + self.drop_path2(self.mlp(self.norm2(z)))
        if parts is not None:
            parts[name] = z
        return z

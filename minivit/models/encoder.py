"""One block of the transformer encoder, pre-norm (lecture, "Transformer Encoder"; Dosovitskiy et al. 2021, eq. 2-3).

    z' = z  + MSA(LN(z))
    z  = z' + MLP(LN(z'))
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from minivit.autograd import ops
from minivit.autograd.fused.residual_by_kernel import pays
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
        their keys and values, and are done: what follows attention treats each token by itself.

        Each half stands here twice: as one operation, which is quicker in small models, and as the lecture writes it, which
        is computed in all other cases. Both give the same numbers."""
        norm1, attn, norm2, mlp = self.norm1, self.attn, self.norm2, self.mlp
        if bias is None and parts is None and self._attends_as_written() and _in_one(z, True, attn.qkv, attn.proj):
            z = ops.residual_attention(
                z, norm1.weight, norm1.bias, attn.qkv.weight, attn.qkv.bias, attn.proj.weight, attn.proj.bias,
                num_heads=attn.num_heads, scale=attn.scale, queries=queries, eps=norm1.eps,
            )  # fmt: skip
        else:
            asked = {} if queries is None else {"queries": queries}
            attended = attn(norm1(z), bias, parts, f"{name}.attention", **asked)
            z = z if queries is None else z[:, :queries]
            z = z + self.drop_path1(self.dropout(attended))
        if self._transforms_as_written() and _in_one(z, False, mlp.fc1, mlp.fc2):
            z = ops.residual_mlp(
                z, norm2.weight, norm2.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias,
                approximate=mlp.approximate_gelu, eps=norm2.eps,
            )  # fmt: skip
        else:
            z = z + self.drop_path2(mlp(norm2(z)))
        if parts is not None:
            parts[name] = z
        return z

    def can_leave_out_tokens(self) -> bool:
        """Whether `queries` gives the rows of the whole result: not if a part has been replaced, by one that may mix tokens or
        look at all of them, nor while dropout draws its masks, which would be others, nor within `all_tokens()`."""
        return not _ambient.all_tokens and (
            _is(self, EncoderBlock) and _is(self.attn, MultiHeadSelfAttention) and _is(self.attn.proj, Linear)
            and _is_silent(self.dropout) and _is(self.drop_path1, DropPath) and _is(self.drop_path2, DropPath)
            and self._transforms_as_written(drop_path=True)
        )

    def _attends_as_written(self) -> bool:
        """Whether the first half is z + MSA(LN(z)), each part of it this package's own."""
        attn = self.attn
        return (
            _is(self.norm1, LayerNorm) and _is(attn, MultiHeadSelfAttention)
            and _is(attn.qkv, Linear) and _is(attn.proj, Linear) and attn.qkv.weight.shape[1] == 3 * attn.proj.weight.shape[1]
            and _is_silent(self.dropout) and _is_silent(self.drop_path1)
        )

    def _transforms_as_written(self, drop_path: bool = False) -> bool:
        """Whether the second half is z + MLP(LN(z)); drop_path: or, of whole images, z."""
        mlp = self.mlp
        return (
            _is(self.norm2, LayerNorm) and _is(mlp, MLP) and _is(mlp.fc1, Linear) and _is(mlp.fc2, Linear)
            and _is_silent(mlp.dropout) and (drop_path or _is_silent(self.drop_path2))
        )


_AS_WRITTEN = {kind: kind.forward for kind in (EncoderBlock, MultiHeadSelfAttention, MLP, LayerNorm, Linear, Dropout, DropPath)}


def _is(part: Any, kind: type) -> bool:
    """Whether a part is of this kind, and its forward nobody's but this package's."""
    return type(part) is kind and "forward" not in vars(part) and kind.forward is _AS_WRITTEN[kind]


def _is_silent(part: Any) -> bool:
    return (_is(part, Dropout) or _is(part, DropPath)) and not (part.training and part.p)


def _in_one(z: Any, by_images: bool, *layers: Linear) -> bool:
    return not _ambient.by_operation and pays(z, sum(layer.weight.size for layer in layers), by_images)


class _Ambient(threading.local):
    all_tokens = False
    by_operation = False


_ambient = _Ambient()


@contextmanager
def _ambiently(name: str) -> Iterator[None]:
    before = getattr(_ambient, name)
    setattr(_ambient, name, True)
    try:
        yield
    finally:
        setattr(_ambient, name, before)


def all_tokens() -> AbstractContextManager[None]:
    """Within this block, and in this thread, a ViT computes all tokens of its last block: to count, and to compare."""
    return _ambiently("all_tokens")


def by_operation() -> AbstractContextManager[None]:
    """Within this block, and in this thread, an encoder block computes one operation after the other, as its text says, where
    it would otherwise compute each half in one: to see them in a graph, and to compare."""
    return _ambiently("by_operation")

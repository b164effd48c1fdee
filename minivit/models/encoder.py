"""One block of the transformer encoder, pre-norm (lecture, "Transformer Encoder"; Dosovitskiy et al. 2021, eq. 2-3).

    z' = z  + MSA(LN(z))
    z  = z' + MLP(LN(z'))
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from minivit.autograd import Tensor, ops
from minivit.autograd.fused.encoder_by_kernel import blocks_at_once
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
        layer: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, norm_eps)
        self.attn = MultiHeadSelfAttention(dim, num_heads, qkv_bias, scale, seed, f"{name}.attn")
        self.norm2 = LayerNorm(dim, norm_eps)
        first, second, third = (None, None, None) if layer is None else (3 * layer, 3 * layer + 1, 3 * layer + 2)
        self.mlp = MLP(dim, mlp_dim, approximate_gelu, dropout, seed, f"{name}.mlp", first)
        self.dropout = Dropout(dropout, seed or 0, second)
        self.drop_path1 = DropPath(drop_path, seed or 0, second)
        self.drop_path2 = DropPath(drop_path, seed or 0, third)

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

        In small models all of it is one operation (`encode`), which gives the same numbers."""
        if bias is None and parts is None and _number_in_one([self], z):
            return _in_one([self], z, queries)
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
        if _ambient.all_tokens or not self._has_own_parts():
            return False
        return not any(d.training and d.p for d in (self.dropout, self.mlp.dropout))

    def _has_own_parts(self) -> bool:
        """Whether its parts are of the kinds that it was made with."""
        attn, mlp = self.attn, self.mlp
        return (
            _is(self, EncoderBlock) and _is(attn, MultiHeadSelfAttention) and _is(mlp, MLP)
            and _is(attn.qkv, Linear) and _is(attn.proj, Linear) and _is(mlp.fc1, Linear) and _is(mlp.fc2, Linear)
            and _is(self.norm1, LayerNorm) and _is(self.norm2, LayerNorm) and _is(self.dropout, Dropout)
            and _is(mlp.dropout, Dropout) and _is(self.drop_path1, DropPath) and _is(self.drop_path2, DropPath)
        )  # fmt: skip

    def _parameters_in_order(self) -> tuple[Any, ...]:
        """That of `ops.encoder`."""
        norm1, attn, norm2, mlp = self.norm1, self.attn, self.norm2, self.mlp
        return (norm1.weight, norm1.bias, attn.qkv.weight, attn.qkv.bias, attn.proj.weight, attn.proj.bias,
                norm2.weight, norm2.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)  # fmt: skip

    def _options(self) -> dict[str, Any] | None:
        """What `ops.encoder` has to know beside the parameters; None where that computes something else."""
        attn, mlp, eps = self.attn, self.mlp, self.norm1.eps
        dropping = self.dropout, mlp.dropout, self.drop_path1, self.drop_path2
        pruned = attn.qkv.weight.shape[1] != 3 * attn.proj.weight.shape[1]  # heads
        if pruned or self.norm2.eps != eps or isinstance(attn.scale, Tensor) or any(d.training and d.p for d in dropping):
            return None
        return {"num_heads": attn.num_heads, "scale": attn.scale, "approximate": mlp.approximate_gelu, "eps": eps}


def encode(
    blocks: Sequence[Any], z: Any, biases: Sequence[Any] = (), parts: dict[str, Any] | None = None, queries: int | None = None
) -> Any:
    """z through all blocks, (B, N, D); or (B, queries, D), where the last one computes these tokens only. In a small model
    consecutive blocks are one operation, as long as nobody has changed what they compute.

    biases: for each block what its attention adds to the scores, or nothing. parts: see `EncoderBlock`."""
    i = 0
    while i < len(blocks):
        n = 0 if biases or parts is not None else _number_in_one(blocks[i:], z)
        last = i + max(n, 1) == len(blocks)
        if n > 1:
            z = _in_one(blocks[i : i + n], z, queries if last else None)
        else:
            asked = {"queries": queries} if last and queries is not None else {}
            z = blocks[i](z, biases[i]() if biases else None, parts, f"block{i}", **asked)
        i += max(n, 1)
    return z


def _number_in_one(blocks: Sequence[Any], z: Any) -> int:
    """How many of the blocks, from the first on, are to be computed in one operation; 0: as their text says."""
    first, most = None, 0
    for n, block in enumerate(blocks):
        own = not _ambient.by_operation and isinstance(block, EncoderBlock) and block._has_own_parts()
        options = block._options() if own else None
        if options is None or n and (options, block.mlp.fc1.weight.shape) != first:
            return n
        if not n:
            first, most = (options, block.mlp.fc1.weight.shape), blocks_at_once(z, block._parameters_in_order())
        if n == most:
            return n
    return len(blocks)


def _in_one(blocks: Sequence[Any], z: Any, queries: int | None) -> Any:
    parameters = [p for block in blocks for p in block._parameters_in_order()]
    return ops.encoder(z, *parameters, queries=queries, **blocks[0]._options())


_FORWARD = {kind: kind.forward for kind in (EncoderBlock, MultiHeadSelfAttention, MLP, LayerNorm, Linear, Dropout, DropPath)}


def _is(part: Any, kind: type) -> bool:
    """Whether a part is of this kind, and its forward nobody's but this package's."""
    return type(part) is kind and "forward" not in vars(part) and kind.forward is _FORWARD[kind]


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
    it would otherwise compute all of them in one: to see them in a graph, and to compare."""
    return _ambiently("by_operation")

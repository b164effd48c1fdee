"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1; lecture, "Transformer Encoder").

    Attention(Q, K, V) = softmax(Q Kᵀ / √d) V

The lecture divides by √D. That is right for one head; with h heads the components per head are d = D/h, and it is √d
that keeps q·k at unit variance. `scale` lets a notebook compare both.
"""

from __future__ import annotations

import math

from minivit.autograd.fused import fused
from minivit.autograd.fused.softmax import softmax
from minivit.autograd.primitives import getitem, matmul, reshape, swapaxes, transpose
from minivit.backend import array_module, empty, for_blocks


def attention_probabilities(q, k, bias=None, scale=None):
    """A = softmax(Q Kᵀ · scale + bias): row i says how much query i takes from each key. (B, h, N, d) -> (B, h, N, N)"""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = matmul(q, swapaxes(k, -1, -2)) * scale  # (B, h, N, d) @ (B, h, d, N) -> (B, h, N, N)
    return softmax(scores if bias is None else scores + bias, axis=-1)


def scaled_dot_product_attention_reference(q, k, v, bias=None, *, scale=None):
    return matmul(attention_probabilities(q, k, bias, scale), v)  # (B, h, N, N) @ (B, h, N, d) -> (B, h, N, d)


@fused(scaled_dot_product_attention_reference, saves=("probabilities",))
def scaled_dot_product_attention(q, k, v, bias=None, *, scale=None, keep=False):
    """softmax(q kᵀ · scale + bias) v, for every head of every image.

    Args:
        q, k, v: (B, h, N, d); k and v may have another N.
        bias: added to the scores, (h, N, N) or (N, N): relative positions, or -inf where attention is not allowed.
        scale: by default 1/√d.

    Returns:
        (B, h, N, d)
    """
    xp = array_module(q, k, v, bias)
    if q.ndim != 4 or k.shape[:2] != q.shape[:2] or k.shape[3] != q.shape[3] or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"expected q, k, v of shape (batch, heads, tokens, head_dim), got {q.shape}, {k.shape}, {v.shape}"
        )
    _check_bias(bias, (q.shape[1], q.shape[2], k.shape[2]))
    out = empty((*q.shape[:3], v.shape[3]), q.dtype, xp)
    return out, (_attend(q, k, v, bias, scale, out, keep),)


@scaled_dot_product_attention.vjp
def _(g, q, k, v, bias, scale, probabilities, needs):
    xp = array_module(g)
    gq, gk, gv = (empty(x.shape, x.dtype, xp) for x in (q, k, v))
    gbias = xp.zeros_like(bias) if needs[3] else None
    _attend_vjp(g, q, k, v, probabilities, scale, gq, gk, gv, gbias)
    return gq, gk, gv, gbias


def multi_head_attention_reference(qkv, bias=None, *, num_heads, scale=None):
    q, k, v = split_heads(qkv, num_heads)
    return merge_heads(scaled_dot_product_attention_reference(q, k, v, bias, scale=scale))


@fused(multi_head_attention_reference, saves=("probabilities",))
def multi_head_attention(qkv, bias=None, *, num_heads, scale=None, keep=False):
    """Self-attention in every head, from packed projections: splits the heads, attends, concatenates the heads.

    Args:
        qkv: (B, N, 3D): queries, keys and values of all heads, [q | k | v], each [head 1 | head 2 | ...].
        bias: (h, N, N) or (N, N), added to the scores.
        num_heads: h; must divide D.
        scale: by default 1/√(D/h).

    Returns:
        (B, N, D): Concat(head_1, ..., head_h), before the output projection.
    """
    xp = array_module(qkv, bias)
    if qkv.ndim != 3 or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(f"expected qkv of shape (batch, tokens, 3·width) with {num_heads} heads dividing the width, "
                         f"got {qkv.shape}")
    B, N, D3 = qkv.shape
    _check_bias(bias, (num_heads, N, N))
    out = empty((B, N, D3 // 3), qkv.dtype, xp)
    q, k, v = _head_views(qkv, 3, num_heads)
    (merged,) = _head_views(out, 1, num_heads)
    return out, (_attend(q, k, v, bias, scale, merged, keep),)


@multi_head_attention.vjp
def _(g, qkv, bias, num_heads, scale, probabilities, needs):
    xp = array_module(g)
    g_qkv = empty(qkv.shape, qkv.dtype, xp)
    gbias = xp.zeros_like(bias) if needs[1] else None
    (g_heads,) = _head_views(g, 1, num_heads)
    q, k, v = _head_views(qkv, 3, num_heads)
    gq, gk, gv = _head_views(g_qkv, 3, num_heads)
    _attend_vjp(g_heads, q, k, v, probabilities, scale, gq, gk, gv, gbias)
    return g_qkv, gbias


def split_heads(qkv, num_heads):
    """(B, N, 3D) -> q, k, v, each (B, h, N, D/h)."""
    B, N, D3 = qkv.shape
    x = transpose(reshape(qkv, shape=(B, N, 3, num_heads, D3 // (3 * num_heads))), axes=(2, 0, 3, 1, 4))
    return tuple(getitem(x, index=i) for i in range(3))


def merge_heads(x):
    """(B, h, N, d) -> (B, N, h·d): Concat(head_1, ..., head_h)."""
    B, h, N, d = x.shape
    return reshape(transpose(x, axes=(0, 2, 1, 3)), shape=(B, N, h * d))


def _head_views(x, parts, num_heads):
    """Views (B, h, N, d) into x of shape (B, N, parts·h·d): products read and write them without copies."""
    B, N, width = x.shape
    return tuple(x.reshape(B, N, parts, num_heads, width // (parts * num_heads)).transpose(2, 0, 3, 1, 4))


def _check_bias(bias, scores):
    if bias is not None and bias.shape not in (scores, scores[1:]):
        raise ValueError(f"expected a bias of shape {scores} or {scores[1:]}, got {bias.shape}")


def _attend(q, k, v, bias, scale, out, keep):
    """Writes the result into `out`, a few images at a time so that their scores stay in cache. Returns A if `keep`."""
    xp = array_module(q)
    B, h, N, d = q.shape
    M = k.shape[2]
    scale = 1 / math.sqrt(d) if scale is None else scale
    kept = empty((B, h, N, M), q.dtype, xp) if keep else None

    def work(block):
        n = block.stop - block.start
        a = empty((n, h, N, M), q.dtype, xp) if kept is None else kept[block]
        xp.matmul(q[block], k[block].swapaxes(-1, -2), out=a)  # (n, h, N, d) @ (n, h, d, M) -> (n, h, N, M)
        a *= scale
        if bias is not None:
            a += bias
        a -= a.max(axis=-1, keepdims=True)
        xp.exp(a, out=a)
        a /= a.sum(axis=-1, keepdims=True)
        xp.matmul(a, v[block], out=out[block])  # (n, h, N, M) @ (n, h, M, d) -> (n, h, N, d)

    for_blocks(work, B, h * N * M * q.itemsize, xp)
    return kept


def _attend_vjp(g, q, k, v, probabilities, scale, gq, gk, gv, gbias):
    """Writes the gradients into gq, gk, gv; adds that of the bias to gbias. The steps of `_attend`, backwards."""
    xp = array_module(q)
    B, h, N, d = q.shape
    M = k.shape[2]
    scale = 1 / math.sqrt(d) if scale is None else scale

    def work(block):
        a, gb = probabilities[block], g[block]
        xp.matmul(a.swapaxes(-1, -2), gb, out=gv[block])  # out = A V
        ga = empty(a.shape, a.dtype, xp)
        xp.matmul(gb, v[block].swapaxes(-1, -2), out=ga)
        ga *= a  # A = softmax(S): ∂S = A (∂A - Σ ∂A A)
        ga -= a * ga.sum(axis=-1, keepdims=True)
        part = None if gbias is None else _sum_to(ga, gbias.shape)
        ga *= scale  # S = scale · Q Kᵀ + bias
        xp.matmul(ga, k[block], out=gq[block])
        xp.matmul(ga.swapaxes(-1, -2), q[block], out=gk[block])
        return part

    for part in for_blocks(work, B, h * N * M * q.itemsize, xp):
        if gbias is not None:
            gbias += part


def _sum_to(ga, shape):
    return ga.sum(axis=tuple(range(ga.ndim - len(shape))))

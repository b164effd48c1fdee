"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1; lecture, "Transformer Encoder").

    Attention(Q, K, V) = softmax(Q Kᵀ / √d) V

The lecture divides by √D. That is right for one head; with h heads the components per head are d = D/h, and it is √d
that keeps q·k at unit variance. `scale` lets a notebook compare both.
"""

from __future__ import annotations

import math

import numpy as np

from minivit.autograd.fused import attention_by_kernel, fused
from minivit.autograd.fused.softmax import softmax
from minivit.autograd.primitives import getitem, matmul, reshape, swapaxes, transpose
from minivit.backend import array_module, empty, for_pieces, kernel, products, zeros


def attention_probabilities(q, k, bias=None, scale=None):
    """A = softmax(Q Kᵀ · scale + bias): row i says how much query i takes from each key. (B, h, N, d) -> (B, h, N, N)"""
    _check_bias(bias)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale.item() if isinstance(scale, np.generic) else scale
    scores = matmul(q, swapaxes(k, -1, -2)) * scale  # (B, h, N, d) @ (B, h, d, N) -> (B, h, N, N)
    return softmax(scores if bias is None else scores + bias, axis=-1)


def scaled_dot_product_attention_reference(q, k, v, bias=None, *, scale=None):
    return matmul(attention_probabilities(q, k, bias, scale), v)  # (B, h, N, N) @ (B, h, N, d) -> (B, h, N, d)


@fused(scaled_dot_product_attention_reference, saves=("log_total",))
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
    fits = q.ndim == k.ndim == v.ndim == 4 and k.shape[:2] == q.shape[:2]
    if not fits or k.shape[3] != q.shape[3] or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"expected q, k, v of shape (batch, heads, tokens, head_dim), got {q.shape}, {k.shape}, {v.shape}"
        )
    _check_bias(bias, q.shape[1], q.shape[2], k.shape[2])
    out = empty((*q.shape[:3], v.shape[3]), q.dtype, xp)
    return out, (_attend(q, k, v, bias, scale, out, keep),)


@scaled_dot_product_attention.vjp
def _(g, q, k, v, bias, out, scale, log_total, needs):
    xp = array_module(g)
    make = empty if out.size else zeros  # where nobody asks, nothing is written
    gq, gk, gv = (make(x.shape, x.dtype, xp) for x in (q, k, v))
    gbias = xp.zeros_like(bias) if needs[3] else None
    _attend_vjp(g, q, k, v, bias, out, scale, log_total, gq, gk, gv, gbias)
    return gq, gk, gv, gbias


def multi_head_attention_reference(qkv, bias=None, *, num_heads, scale=None, queries=None):
    q, k, v = split_heads(qkv, num_heads)
    return merge_heads(scaled_dot_product_attention_reference(q[:, :, :queries], k, v, bias, scale=scale))


@fused(multi_head_attention_reference, saves=("log_total",))
def multi_head_attention(qkv, bias=None, *, num_heads, scale=None, queries=None, keep=False):
    """Self-attention in every head, from packed projections: splits the heads, attends, concatenates the heads.

    Args:
        qkv: (B, N, 3D): queries, keys and values of all heads, [q | k | v], each [head 1 | head 2 | ...].
        bias: (h, N, N) or (N, N), added to the scores; (h, queries, N) or (queries, N) with `queries`.
        num_heads: h; must divide D.
        scale: by default 1/√(D/h).
        queries: only the first so many tokens ask, 1 to N; None: all.

    Returns:
        (B, N, D) or (B, queries, D): Concat(head_1, ..., head_h), before the output projection.
    """
    xp = array_module(qkv, bias)
    if qkv.ndim != 3 or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(f"expected qkv of shape (batch, tokens, 3·width) with {num_heads} heads dividing the width, "
                         f"got {qkv.shape}")
    if queries is not None and not 1 <= queries <= qkv.shape[1]:
        raise ValueError(f"queries: expected 1 to {qkv.shape[1]}, the number of tokens, or None, got {queries}")
    q, k, v = _head_views(qkv, 3, num_heads)
    q = q[:, :, :queries]
    B, h, N, d = q.shape
    _check_bias(bias, h, N, k.shape[2])
    out = empty((B, N, h * d), qkv.dtype, xp)
    (merged,) = _head_views(out, 1, num_heads)
    return out, (_attend(q, k, v, bias, scale, merged, keep),)


@multi_head_attention.vjp
def _(g, qkv, bias, out, num_heads, scale, queries, log_total, needs):
    xp = array_module(g)
    g_qkv = empty(qkv.shape, qkv.dtype, xp)
    gbias = xp.zeros_like(bias) if needs[1] else None
    (g_heads,), (out_heads,) = _head_views(g, 1, num_heads), _head_views(out, 1, num_heads)
    q, k, v = _head_views(qkv, 3, num_heads)
    gq, gk, gv = _head_views(g_qkv, 3, num_heads)
    gq[:, :, out.shape[1] :] = 0  # of tokens that did not ask
    q, gq = q[:, :, :queries], gq[:, :, :queries]
    _attend_vjp(g_heads, q, k, v, bias, out_heads, scale, log_total, gq, gk, gv, gbias)
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


def _check_bias(bias, *scores):
    if bias is not None and bias.dtype == bool:
        raise TypeError("bias: expected numbers to be added to the scores, got booleans; where a mask says what is allowed, "
                        "give np.where(mask, 0, -np.inf).astype('float32')")
    if bias is not None and scores and bias.shape not in (scores, scores[1:]):
        raise ValueError(f"expected a bias of shape {scores} or {scores[1:]}, got {bias.shape}")


# The N² scores of a head are never all in memory. Both directions walk over the queries in pieces whose scores fit into
# the cache, and the second direction computes them again: exp(s - log Σ exp s) is the probability, so that of each row it
# needs one number, which the first one keeps. Memory grows with N, not with N² (Rabe and Staats 2021; Dao et al. 2022).


def _attend(q, k, v, bias, scale, out, keep):
    """Writes softmax(q kᵀ · scale + bias) v into `out`. Returns log Σ exp of every row of scores, (B, h, N, 1)."""
    xp = array_module(q)
    (B, h, N, d), M = q.shape, k.shape[2]
    scale = 1 / math.sqrt(d) if scale is None else scale
    wide = products.wide(q.dtype)
    log_total = xp.empty((B, h, N, 1), wide) if keep else None
    if bias is None and attention_by_kernel.attend(q, k, v, scale, out, log_total):
        return log_total
    ones = xp.ones((M, 1), wide)

    def work(piece):
        for at in piece.parts:
            e, z, log_z = _exponentials(q, k, bias, scale, at, ones)
            e = e.astype(q.dtype, copy=False)
            products.matmul(e, v[at[:2]], out=out[at])  # (n, h, r, M) @ (n, h, M, d) -> (n, h, r, d)
            if z is not None:
                out[at] /= z  # here on d numbers, rather than on the M of a row of A
            if log_total is not None:
                log_total[at] = log_z

    for_pieces(work, (B, h, N, M), wide.itemsize, xp)
    return log_total


def _exponentials(q, k, bias, scale, at, ones):
    """(e, z, log Σ exp) of some scores: their softmax is e / z, or e where z is None."""
    xp = array_module(q)
    e = _scores(q, k, bias, scale, at)  # (n, h, r, M)
    fast = kernel("softmax", e)
    if fast:
        log_z = xp.empty((*e.shape[:-1], 1), np.float32)
        fast(log_z.size, e.shape[-1], e, e, log_z)
        return e, None, log_z
    # One number for a whole head is the quickest to find and to subtract. Should a row lie so far below it that its total
    # vanishes, every row gets its own. (On a GPU, where asking would mean waiting, and in float16, where more would vanish,
    # at once.)
    for axes in ((-2, -1), -1) if xp is np and q.dtype == e.dtype else (-1,):
        m = e.max(axis=axes, keepdims=True)
        e -= m
        xp.exp(e, out=e)
        z = products.matmul(e, ones)  # (n, h, r, M) @ (M, 1) -> (n, h, r, 1): a sum, quicker than np.sum
        if axes == -1 or z.min(initial=1) > _VANISHING[e.dtype.itemsize]:
            break
        e = _scores(q, k, bias, scale, at)
    return e, z, xp.log(z) + m


def _attend_vjp(g, q, k, v, bias, out, scale, log_total, gq, gk, gv, gbias):
    """Writes the gradients into gq, gk, gv; adds that of the bias to gbias. The steps of `_attend`, backwards."""
    xp = array_module(q)
    (B, h, N, d), M = q.shape, k.shape[2]
    scale = 1 / math.sqrt(d) if scale is None else scale
    if bias is None and attention_by_kernel.attend_vjp(g, q, k, v, out, scale, log_total, gq, gk, gv):
        return
    wide = products.wide(q.dtype)

    def work(piece):
        keys = piece.images, piece.heads
        gk_, gv_ = (x[keys] if piece.whole else empty(x[keys].shape, x.dtype, xp) for x in (gk, gv))
        gbias_ = []
        for add, at in enumerate(piece.parts):
            a = _scores(q, k, bias, scale, at, log_total[at])
            xp.exp(a, out=a)
            _add_product(gv_, a.astype(q.dtype, copy=False).swapaxes(-1, -2), g[at], add)  # out = A V
            along = products.dot_rows(g[at], out[at])[..., None]  # = Σ A ∂A over a row, since out = A V
            gs = _rows_by_rows(g[at], v[keys], along)
            gs *= a  # A = softmax(S): ∂S = A (∂A - Σ A ∂A)
            if gbias is not None:
                gbias_.append((at, gs.sum(axis=0) if gbias.ndim == 3 else gs.sum(axis=(0, 1))))
            gs = gs.astype(q.dtype, copy=False)
            products.matmul(gs, k[keys], out=gq[at])  # S = scale · Q Kᵀ + bias
            gq[at] *= scale
            _add_product(gk_, gs.swapaxes(-1, -2), q[at], add)
        gk_ *= scale
        return piece, gk_, gv_, gbias_

    for piece, gk_, gv_, gbias_ in for_pieces(work, (B, h, N, M), wide.itemsize, xp):
        keys = piece.images, piece.heads
        for x, share in () if piece.whole else ((gk, gk_), (gv, gv_)):  # of some queries only: all are added up
            x[keys] = x[keys] + share if piece.rows.start else share
        for (_, heads, queries), part in gbias_:
            gbias[(heads, queries)[3 - gbias.ndim :]] += part


_VANISHING = {4: 1e-20, 8: 1e-150}  # by itemsize: a total below which its terms may have lost digits


def _scores(q, k, bias, scale, at, subtracted=None):
    """scale · Q Kᵀ + bias of some images, heads and queries, less a number for each row."""
    images, heads, queries = at
    s = _rows_by_rows(q[at] * scale, k[images, heads], subtracted)
    if bias is not None:
        s += bias[(heads, queries)[3 - bias.ndim :]]
    return s


def _rows_by_rows(a, b, subtracted=None):
    """a bᵀ, less a number for each row: (n, h, r, d), (n, h, M, d) -> (n, h, r, M). Of float16, in float32: for exp.

    On a CPU both are copied out, and the number rides along as one more column: the products of such small matrices take
    much less time if they lie in one piece.
    """
    xp, wide = array_module(a), products.wide(a.dtype)
    out = empty((*a.shape[:-1], b.shape[2]), wide, xp)
    if xp is not np or a.dtype != wide:
        products.matmul(a, b.swapaxes(-1, -2), out=out)
        if subtracted is not None:
            out -= subtracted
        return out
    d, columns = a.shape[-1], a.shape[-1] + (subtracted is not None)
    left, right = (empty((*x.shape[:-1], columns), a.dtype, xp) for x in (a, b))
    left[..., :d], right[..., :d] = a, b
    if subtracted is not None:
        left[..., d:], right[..., d:] = -subtracted, 1
    return np.matmul(left, right.swapaxes(-1, -2), out=out)


def _add_product(total, a, b, add):
    """total += a b; or, the first time, total = a b."""
    if add:
        total += products.matmul(a, b)
    else:
        products.matmul(a, b, out=total)

"""The fused operations once more, each pass by a compiled kernel (`backend/kernels.c`) where there is one.

Every function stands for the array code of the operation of its name, and returns what that would, or None: then there is
no kernel for these arrays (float64, no compiler, a layout with gaps), and the array code does it. The tests hold both to
each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minivit.backend import array_module, empty_like, for_blocks, kernel

_CHUNKS = 256  # of rows, on a GPU: each adds up its part of a parameter's gradient


def gelu(x: Any, approximate: bool) -> Any:
    flat = x.reshape(-1)
    fast = kernel("gelu_tanh" if approximate else "gelu", flat)
    if fast is None:
        return None
    out = empty_like(x, array_module(x))
    flat_out = out.reshape(-1)
    for_blocks(lambda block: fast(flat[block].size, flat[block], flat_out[block]), flat.size, x.itemsize, array_module(x))
    return out


def gelu_vjp(g: Any, x: Any, approximate: bool) -> Any:
    flat_g, flat_x = g.reshape(-1), x.reshape(-1)
    fast = kernel("gelu_tanh_vjp" if approximate else "gelu_vjp", flat_g, flat_x)
    if fast is None:
        return None
    gx = empty_like(x, array_module(x))
    flat_gx = gx.reshape(-1)

    def work(block: slice) -> None:
        fast(flat_x[block].size, flat_g[block], flat_x[block], flat_gx[block])

    for_blocks(work, x.size, x.itemsize, array_module(x))
    return gx


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """(out, mean, 1 / standard deviation), the last two as columns."""
    D = x.shape[-1]
    rows = x.reshape(-1, D)
    fast = kernel("layer_norm", rows, weight, bias)
    if fast is None:
        return None
    xp = array_module(x)
    out, mu, rstd = empty_like(rows, xp), xp.empty((len(rows), 1), np.float32), xp.empty((len(rows), 1), np.float32)

    def work(block: slice) -> None:
        fast(len(mu[block]), D, eps, rows[block], weight, bias, out[block], mu[block], rstd[block])

    for_blocks(work, len(rows), D * x.itemsize, xp)
    return out.reshape(x.shape), mu, rstd


def layer_norm_vjp(g: Any, x: Any, mu: Any, rstd: Any, weight: Any, needs: tuple[bool, ...]) -> Any:
    D = x.shape[-1]
    rows, g_rows = x.reshape(-1, D), g.reshape(-1, D)
    fast, fast_parameters = kernel("layer_norm_vjp", g_rows, rows, weight), kernel("layer_norm_vjp_parameters", g_rows, rows)
    if fast is None or fast_parameters is None:
        return None
    xp = array_module(x)
    gx = empty_like(rows, xp)

    def work(block: slice) -> Any:
        n, g_, x_, mu_, rstd_ = len(mu[block]), g_rows[block], rows[block], mu[block], rstd[block]
        fast(n, D, g_, x_, mu_, rstd_, weight, gx[block])
        if not (needs[1] or needs[2]):
            return None
        chunks = 1 if xp is np else max(1, min(n, _CHUNKS))
        gw, gb = xp.empty((chunks, D), np.float32), xp.empty((chunks, D), np.float32)
        fast_parameters(chunks, n, D, g_, x_, mu_, rstd_, gw, gb)
        return gw.sum(axis=0), gb.sum(axis=0)

    parts = for_blocks(work, len(rows), D * x.itemsize, xp)
    if not (needs[1] or needs[2]):
        return gx.reshape(x.shape), None, None
    gw, gb = xp.zeros_like(weight), xp.zeros_like(weight)
    for gw_, gb_ in parts:
        gw += gw_
        gb += gb_
    return gx.reshape(x.shape), gw, gb


def softmax(x: Any, axis: int) -> Any:
    fast = kernel("softmax", x) if x.size and axis in (-1, x.ndim - 1) else None
    if fast is None:
        return None
    out = empty_like(x, array_module(x))
    fast(x.size // x.shape[-1], x.shape[-1], x, out, None)
    return out


def softmax_vjp(g: Any, out: Any, axis: int) -> Any:
    fast = kernel("softmax_vjp", g, out) if out.size and axis in (-1, out.ndim - 1) else None
    if fast is None:
        return None
    gx = empty_like(out, array_module(out))
    fast(out.size // out.shape[-1], out.shape[-1], g, out, gx)
    return gx


def cross_entropy(logits: Any, labels: Any, label_smoothing: float) -> Any:
    """(losses, probabilities) of integer labels that have been checked."""
    fast = kernel("cross_entropy", logits)
    if fast is None:
        return None
    xp = array_module(logits)
    p, losses = xp.empty_like(logits), xp.empty(len(logits), logits.dtype)
    fast(*logits.shape, label_smoothing, logits, xp.ascontiguousarray(labels, dtype=np.int64), p, losses)
    return losses, p

"""The fused operations once more, each pass by a compiled kernel (`backend/kernels/`) where there is one.

Every function stands for the array code of the operation of its name, and returns what that would, or None: then there is
no kernel for these arrays (float64, no compiler, a layout with gaps), and the array code does it. The tests hold both to
each other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivit.backend import array_module, empty, empty_like, kernel, num_threads

_MOST_PARTS = 1 << 17  # numbers in all threads' parts of a weight's gradient; adding up more takes longer than it gains
_GPU_CHUNKS = 2048  # of rows at most: each adds up its part of a parameter's gradient


def as_rows(x: Any) -> Any:
    """(..., D) -> (n, D), also where D is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def linear(x: Any, weight: Any, bias: Any) -> Any:
    rows = as_rows(x)
    fast = kernel("linear", rows, weight) if bias is None else kernel("linear", rows, weight, bias)
    if fast is None or not x.size or not weight.size:
        return None
    out = empty((len(rows), weight.shape[1]), np.float32)
    fast(len(rows), *weight.shape, rows, weight, bias, out)
    return out.reshape(*x.shape[:-1], weight.shape[1])


def linear_vjp(g: Any, x: Any, weight: Any, bias: Any, needs: tuple[bool, ...]) -> Any:
    rows, g_rows = as_rows(x), as_rows(g)
    fast = kernel("linear_vjp", g_rows, rows, weight)
    if fast is None or not x.size or not weight.size:
        return None
    chunks = min(num_threads(), len(rows)) if needs[1] or needs[2] else 1
    chunks = chunks if chunks * weight.size <= _MOST_PARTS else 1
    more = empty((chunks - 1, len(weight) + 1, weight.shape[1]), np.float32) if chunks > 1 else None
    gx, gw, gb = (empty(a.shape, np.float32) if need else None for a, need in zip((x, weight, bias), needs))
    fast(chunks, len(rows), *weight.shape, g_rows, rows, weight, gx, gw, gb, more)
    return gx, gw, gb


def gelu(x: Any, approximate: bool) -> Any:
    fast = kernel("gelu_tanh" if approximate else "gelu", x)
    if fast is None:
        return None
    out = empty_like(x, array_module(x))
    fast(x.size, x, out)
    return out


def gelu_vjp(g: Any, x: Any, approximate: bool) -> Any:
    fast = kernel("gelu_tanh_vjp" if approximate else "gelu_vjp", g, x)
    if fast is None:
        return None
    gx = empty_like(x, array_module(x))
    fast(x.size, g, x, gx)
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
    fast(len(rows), D, eps, rows, weight, bias, out, mu, rstd)
    return out.reshape(x.shape), mu, rstd


def layer_norm_vjp(g: Any, x: Any, mu: Any, rstd: Any, weight: Any, needs: tuple[bool, ...]) -> Any:
    D = x.shape[-1]
    rows, g_rows = x.reshape(-1, D), g.reshape(-1, D)
    fast = kernel("layer_norm_vjp", g_rows, rows, weight)
    if fast is None:
        return None
    xp = array_module(x)
    gx = empty(x.shape, x.dtype, xp)
    gw: Any = None
    gb: Any = None
    parameters = needs[1] or needs[2]
    chunks = num_threads() if xp is np else min(len(rows), _GPU_CHUNKS) if parameters else len(rows)
    if parameters:
        gw, gb = xp.empty((chunks, D), np.float32), xp.empty((chunks, D), np.float32)
    fast(chunks, len(rows), D, g_rows, rows, mu, rstd, weight, gx, gw, gb)
    if parameters:
        gw, gb = (gw[0], gb[0]) if xp is np else (part.sum(axis=0).astype(weight.dtype, copy=False) for part in (gw, gb))
    return gx, gw, gb


def softmax(x: Any, axis: int) -> Any:
    fast = kernel("softmax", x) if x.size and x.ndim and axis in (-1, x.ndim - 1) else None
    if fast is None:
        return None
    out = empty_like(x, array_module(x))
    fast(x.size // x.shape[-1], x.shape[-1], x, out, None)
    return out


def softmax_vjp(g: Any, out: Any, axis: int) -> Any:
    fast = kernel("softmax_vjp", g, out) if out.size and out.ndim and axis in (-1, out.ndim - 1) else None
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

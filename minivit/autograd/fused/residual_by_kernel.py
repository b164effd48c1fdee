"""The halves of an encoder block by the processor's kernels (`backend/kernels/residual.c`), a few images at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivit.autograd.tensor import Tensor, mode
from minivit.backend import empty, kernel, num_threads

_MOST_WEIGHTS = 1 << 19  # of a half: they stay in a core's second cache while the images pass by
_FEW_WEIGHTS, _FEW_ROWS = 1 << 16, 128  # each thread copies all weights: with fewer rows than these, only so many
_MOST_TOKENS = 1 << 10  # of an image, which is not divided
_MOST_PARTS = 1 << 22  # numbers in all threads' parts of the parameters' gradients


def pays(z: Any, weights: int, by_images: bool) -> bool:
    """Whether a half is to be computed in one call, rather than operation by operation.

    That is quicker in small models, where there are kernels, and where all threads have something to do. It is not done
    where somebody watches the operations, or changes their inputs.

    Args:
        z: the input, a Tensor (B, N, D).
        weights: how many the half has.
        by_images: whether only whole images can be divided among threads, or any rows.
    """
    watched = mode.intercept is not None or mode.anomaly or mode.autocast is not None
    if weights > _MOST_WEIGHTS or watched or not isinstance(z, Tensor) or z.ndim != 3:
        return False
    threads, (images, tokens, _) = num_threads(), z.shape
    if by_images and (images % threads and images < 4 * threads or tokens > _MOST_TOKENS):
        return False
    if weights > _FEW_WEIGHTS and images * tokens < _FEW_ROWS * threads:
        return False
    return not (mode.recording and weights * threads > _MOST_PARTS) and kernel("residual_mlp", z.data) is not None


def attention(
    z: Any, parameters: tuple[Any, ...], heads: int, scale: float | None, queries: int | None, eps: float, keep: bool
) -> Any:
    """(out, (mu, rstd, qkv, merged, log_total)), or None where no kernel takes these arrays."""
    fast = kernel("residual_attention", z, *[p for p in parameters if p is not None])
    if fast is None or not z.size:
        return None
    (B, N, D), Q = z.shape, queries or z.shape[1]
    saved: tuple[Any, ...] = (None,) * 5
    if keep:
        mu, rstd, log_total = (np.empty(shape, np.float32) for shape in ((B * N, 1), (B * N, 1), (B, heads, Q, 1)))
        saved = mu, rstd, empty((B, N, 3 * D), np.float32), empty((B, Q, D), np.float32), log_total
    out = empty((B, Q, D), np.float32)
    fast(B, N, Q, D, heads, _scale(scale, D // heads), eps, z, *parameters, out, *saved)
    return out, saved


def attention_vjp(
    g: Any, z: Any, parameters: tuple[Any, ...], heads: int, scale: float | None,
    mu: Any, rstd: Any, qkv: Any, merged: Any, log_total: Any, needs: tuple[bool, ...],
) -> Any:  # fmt: skip
    g = _in_one_piece(g)
    fast = kernel("residual_attention_vjp", g, z, qkv, merged, *[p for p in parameters if p is not None])
    if fast is None or not z.size:
        return None
    (B, N, D), Q = z.shape, g.shape[1]
    gz, gradients, chunks, more = _gradients(z, parameters, B, needs)
    norm_weight, norm_bias, qkv_weight, _, proj_weight, _ = parameters
    fast(chunks, B, N, Q, D, heads, _scale(scale, D // heads), g, z, mu, rstd, qkv, merged, log_total,
         norm_weight, norm_bias, qkv_weight, proj_weight, gz, *gradients, more)  # fmt: skip
    return gz, *gradients


def mlp(z: Any, parameters: tuple[Any, ...], approximate: bool, eps: float, keep: bool) -> Any:
    """(out, (mu, rstd, hidden)), or None."""
    fast = kernel("residual_mlp", z, *[p for p in parameters if p is not None])
    D, H = parameters[2].shape
    if fast is None or not z.size or not H:
        return None
    rows = z.size // D
    saved: tuple[Any, ...] = (None,) * 3
    if keep:
        saved = np.empty((rows, 1), np.float32), np.empty((rows, 1), np.float32), empty((*z.shape[:-1], H), np.float32)
    out = empty(z.shape, np.float32)
    fast(rows, D, H, bool(approximate), eps, z, *parameters, out, *saved)
    return out, saved


def mlp_vjp(
    g: Any, z: Any, parameters: tuple[Any, ...], approximate: bool, mu: Any, rstd: Any, hidden: Any, needs: tuple[bool, ...]
) -> Any:
    g = _in_one_piece(g)
    fast = kernel("residual_mlp_vjp", g, z, hidden, *[p for p in parameters if p is not None])
    norm_weight, norm_bias, weight1, _, weight2, _ = parameters
    D, H = weight1.shape
    if fast is None or not z.size or not H:
        return None
    rows = z.size // D
    gz, gradients, chunks, more = _gradients(z, parameters, rows, needs)
    fast(chunks, rows, D, H, bool(approximate), g, z, mu, rstd, hidden, norm_weight, norm_bias, weight1, weight2,
         gz, *gradients, more)  # fmt: skip
    return gz, *gradients


def _scale(scale: float | None, d: int) -> float:
    return 1 / math.sqrt(d) if scale is None else scale


def _in_one_piece(g: Any) -> Any:
    """A cotangent may be one number for many elements: that of a sum, or of a mean over the tokens."""
    return np.ascontiguousarray(g) if type(g) is np.ndarray else g


def _gradients(z: Any, parameters: tuple[Any, ...], parts: int, needs: tuple[bool, ...]) -> Any:
    """Room for ∂z and the gradients of the parameters, the number of chunks of rows, and room for the others' gradients."""
    gz, size = empty(z.shape, np.float32), sum(p.size for p in parameters if p is not None)
    if True not in needs[1:]:
        return gz, (None,) * len(parameters), min(num_threads(), parts), None
    chunks = max(1, min(num_threads(), parts, _MOST_PARTS // size))
    gradients = [None if p is None else empty(p.shape, np.float32) for p in parameters]
    return gz, gradients, chunks, empty((chunks - 1, size), np.float32) if chunks > 1 else None

"""Blocks of the encoder by the processor's kernel (`backend/kernels/encoder.c`), each thread with some of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minivit.autograd.tensor import Tensor, mode
from minivit.backend import empty, kernel, num_threads
from minivit.backend.kernels import WORTH_THREADS

_MOST_WEIGHTS = 1 << 20  # of a block: each half's stay in a core's second cache while the images pass by
_FEW_WEIGHTS, _FEW_ROWS = 1 << 16, 128  # each thread copies all weights: with fewer rows than these, only so many
_MOST_TOKENS = 1 << 10  # of an image, which is not divided
_MOST_PARTS = 1 << 22  # numbers in all threads' parts of the parameters' gradients
_MOST_WORK = 1 << 34  # multiply-accumulates of a call, which Ctrl-C has to wait for


def blocks_at_once(z: Any, parameters: Sequence[Any]) -> int:
    """How many blocks like this one, the first, are to be computed in one call; 0: operation by operation.

    One call is quicker in small models, where there are kernels, and where all threads have something to do. It is not made
    where somebody watches the operations, or changes their inputs.

    Args:
        z: the input, a Tensor (B, N, D).
        parameters: the block's twelve, Tensors, arrays or None.
    """
    arrays = [p.data if isinstance(p, Tensor) else p for p in parameters if p is not None]
    weights = sum([a.size for a in arrays])
    watched = mode.intercept is not None or mode.anomaly or mode.autocast is not None
    if weights > _MOST_WEIGHTS or watched or not isinstance(z, Tensor) or z.ndim != 3 or not z.size:
        return 0
    images, tokens, _ = z.shape
    threads = num_threads() if z.size >= WORTH_THREADS else 1
    if images % threads and images < 4 * threads or tokens > _MOST_TOKENS:
        return 0
    if weights > _FEW_WEIGHTS and images * tokens < _FEW_ROWS * threads or kernel("encoder", z.data, *arrays) is None:
        return 0
    by_work = max(1, _MOST_WORK // (images * tokens * weights))
    return min(by_work, _MOST_PARTS // (threads * weights)) if mode.recording else by_work


def encoder(
    z: Any, parameters: Sequence[Any], heads: int, scale: float | None, queries: int | None, approximate: bool, eps: float,
    keep: bool,
) -> Any:  # fmt: skip
    """(out, (kept, stats)), or None where no kernel takes these arrays."""
    fast = kernel("encoder", z, *[p for p in parameters if p is not None])
    if fast is None or not z.size:
        return None
    L, (B, N, D), H, Q = len(parameters) // 12, z.shape, parameters[8].shape[1], queries or z.shape[1]
    asking = (L - 1) * N + Q  # rows of all blocks that go on: of each image's tokens, Q in the last one
    kept = empty((B * (3 * L * N * D + asking * (2 * D + H) + (L - 1) * N * D),), np.float32) if keep else None
    stats = empty((B * (2 * L * N + asking * (heads + 2)),), np.float32) if keep else None
    out = empty((B, Q, D), np.float32)
    fast(B, L, N, Q, D, H, heads, bool(approximate), _scale(scale, D // heads), eps, z, _addresses(parameters), out,
         kept, stats)  # fmt: skip
    return out, (kept, stats)


def encoder_vjp(
    g: Any, z: Any, parameters: Sequence[Any], heads: int, scale: float | None, approximate: bool, kept: Any, stats: Any,
    needs: tuple[bool, ...],
) -> Any:  # fmt: skip
    if type(g) is np.ndarray:
        g = np.ascontiguousarray(g)  # it may be one number for many elements: that of a sum, or of a mean over the tokens
    fast = kernel("encoder_vjp", g, z, *[p for p in parameters if p is not None])
    if fast is None or kept is None:
        return None
    L, (B, N, D), H, Q = len(parameters) // 12, z.shape, parameters[8].shape[1], g.shape[1]
    gz, between = empty(z.shape, np.float32), empty(z.shape, np.float32)
    gradients: Any = (None,) * len(parameters)
    chunks, addresses, more = min(num_threads(), B), None, None
    if True in needs[1:]:  # every chunk of the images has its own gradients, and all are added up at the end
        gradients = [None if p is None else empty(p.shape, np.float32) for p in parameters]
        size = sum([p.size for p in parameters if p is not None])
        chunks = max(1, min(chunks, _MOST_PARTS // size))
        addresses, more = _addresses(gradients), empty((chunks - 1, size), np.float32) if chunks > 1 else None
    fast(chunks, B, L, N, Q, D, H, heads, bool(approximate), _scale(scale, D // heads), g, z, _addresses(parameters),
         kept, stats, between, gz, addresses, more)  # fmt: skip
    return gz, *gradients


def _scale(scale: float | None, d: int) -> float:
    return 1 / math.sqrt(d) if scale is None else scale


def _addresses(arrays: Any) -> Any:
    return np.array([0 if a is None else id(a) for a in arrays], np.int64)

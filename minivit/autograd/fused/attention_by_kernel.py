"""Attention by the processor's kernels (`backend/kernels/attention.c`), which take it piece by piece.

A piece is a head of an image with all of its queries; or with some of them, where there are so few heads that cores
would go without. Heads are independent of each other, and so are queries, but for ∂K and ∂V, to which every query adds
its part.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minivit.backend import empty, kernel, num_threads


def attend(q: Any, k: Any, v: Any, scale: float, out: Any, log_total: Any) -> bool:
    """Writes softmax(scale · q kᵀ) v into `out`, and log Σ exp of every row of scores into `log_total` unless it is None.

    q, k, v and out: (B, h, N, d), views for all that matters. Returns whether it was done: False where there is no kernel.
    """
    fast = kernel("attention", q, k, v, out, strided=True)
    if fast is None or not out.size or not k.size:
        return False
    pieces = _pieces(*q.shape[:3], num_threads())
    fast(len(pieces), scale, pieces, _layout(q, k, v, out), q, k, v, out, log_total)
    return True


def attend_vjp(
    g: Any, q: Any, k: Any, v: Any, out: Any, scale: float, log_total: Any, gq: Any, gk: Any, gv: Any
) -> bool:
    """Writes the gradients into gq, gk, gv. Returns whether it was done."""
    fast = kernel("attention_vjp", g, q, k, v, out, gq, gk, gv, strided=True)
    if fast is None or not out.size or not k.size:
        return False
    pieces = _pieces(*q.shape[:3], num_threads())
    later = np.flatnonzero(pieces[:, 1]).tolist()  # those that do not begin a head
    more_gk, more_gv = (empty((len(pieces) if later else 0, *x.shape[2:]), x.dtype) for x in (gk, gv))
    layout = _layout(q, k, v, out, g, gq, gk, gv)
    fast(len(pieces), scale, pieces, layout, q, k, v, out, g, log_total, gq, gk, gv, more_gk, more_gv)
    for i in later:
        at = divmod(int(pieces[i, 0]), q.shape[1])
        gk[at] += more_gk[i]
        gv[at] += more_gv[i]
    return True


@lru_cache(64)  # every block of a model asks for the same
def _pieces(B: int, h: int, N: int, threads: int) -> np.ndarray:
    """(head, first query, last + 1) of each, heads of all images counted through: so many that each core has its share."""
    cuts = 1 if B * h % threads == 0 or B * h >= 4 * threads else min(threads, N)
    ends = np.arange(cuts + 1) * N // cuts
    pieces = np.empty((B * h, cuts, 3), np.int64)
    pieces[..., 0], pieces[..., 1], pieces[..., 2] = np.arange(B * h)[:, None], ends[:-1], ends[1:]
    pieces.flags.writeable = False
    return pieces.reshape(-1, 3)


def _layout(q: Any, k: Any, v: Any, out: Any, *gradients: Any) -> np.ndarray:
    """The struct `shape` of `attention.c`: sizes, and for each array how far apart its images, heads and rows lie."""
    steps = [stride // 4 for x in (q, k, v, out, *gradients) for stride in x.strides[:3]]
    return np.array([*q.shape[1:3], k.shape[2], q.shape[3], v.shape[3], *steps], np.int64)

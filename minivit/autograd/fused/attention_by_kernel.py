"""Attention by the processor's kernels (`backend/attention.c`): which thread computes which heads and queries.

Heads are independent of each other, and so are queries, but for ∂K and ∂V, to which every query adds its part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minivit.backend import empty, for_threads, kernel, num_threads

_WORTH_THREADS = 1 << 16  # scores


class _Part(NamedTuple):
    """The heads first ≤ head < last of all images, and of them the queries start ≤ i < stop."""

    first: int
    last: int
    start: int
    stop: int


def attend(q: Any, k: Any, v: Any, scale: float, out: Any, log_total: Any) -> bool:
    """Writes softmax(scale · q kᵀ) v into `out`, and log Σ exp of every row of scores into `log_total` unless it is None.

    q, k, v and out: (B, h, N, d), views for all that matters. Returns whether it was done: False where there is no kernel.
    """
    fast = kernel("attention", q, k, v, out, strided=True)
    if fast is None or not out.size or not k.size:
        return False
    layout = _layout(q, k, v, out)

    def work(part: _Part) -> None:
        fast(*part, scale, layout, q, k, v, out, log_total, _scratch(q, k, v))

    for_threads(work, list(_parts(q, k)))
    return True


def attend_vjp(
    g: Any, q: Any, k: Any, v: Any, out: Any, scale: float, log_total: Any, gq: Any, gk: Any, gv: Any
) -> bool:
    """Writes the gradients into gq, gk, gv. Returns whether it was done."""
    fast = kernel("attention_vjp", g, q, k, v, out, gq, gk, gv, strided=True)
    if fast is None or not out.size or not k.size:
        return False
    layout = _layout(q, k, v, out, g, gq, gk, gv)

    def work(part: _Part) -> tuple[_Part, Any, Any]:
        if part.start == 0:
            fast(*part, scale, layout, q, k, v, out, g, log_total, gq, gk, gv, _scratch(q, k, v))
            return part, None, None
        # a later part of one head's queries: its share of ∂K and ∂V goes to matrices of its own
        gk_, gv_ = (empty((1, 1, *x.shape[2:]), x.dtype) for x in (gk, gv))
        fast(*part, scale, _layout(q, k, v, out, g, gq, gk_, gv_), q, k, v, out, g, log_total, gq, gk_, gv_, _scratch(q, k, v))
        return part, gk_[0, 0], gv_[0, 0]

    for part, gk_, gv_ in for_threads(work, list(_parts(q, k))):
        if gk_ is not None:
            at = divmod(part.first, q.shape[1])
            gk[at] += gk_
            gv[at] += gv_
    return True


def _parts(q: Any, k: Any) -> Iterator[_Part]:
    """All heads and queries in parts of equal work, some for each thread."""
    (B, h, N, _), M, threads = q.shape, k.shape[2], num_threads()
    if threads == 1 or B * h * N * M < _WORTH_THREADS:
        yield _Part(0, B * h, 0, N)
    elif B * h % threads == 0 or B * h >= 4 * threads:
        step = max(1, -(-B * h // (2 * threads)))  # two for each thread, should one be held up
        for first in range(0, B * h, step):
            yield _Part(first, min(first + step, B * h), 0, N)
    else:
        step = -(-N // threads)
        for head in range(B * h):
            for start in range(0, N, step):
                yield _Part(head, head + 1, start, min(start + step, N))


def _layout(q: Any, k: Any, v: Any, out: Any, *gradients: Any) -> Any:
    """The struct `shape` of `attention.c`: sizes, and for each array how far apart its images, heads and rows lie."""
    numbers = [q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3]]
    for x in (q, k, v, out, *gradients):
        one = x.shape[:2] == (1, 1)  # a single matrix, whichever head it is of
        numbers += [0 if one else x.strides[0] // 4, 0 if one else x.strides[1] // 4, x.strides[2] // 4]
    return np.array(numbers, np.int64)


def _scratch(q: Any, k: Any, v: Any) -> Any:
    """Memory for one tile of scores and what belongs to it, as `attention.c` takes it."""
    keys, queries, wide = min(k.shape[2], 512), 64, q.shape[3] + v.shape[3] + 32  # two rows, padded
    return empty((wide * (2 * keys + 3 * queries) + 2 * queries * keys + 2 * (q.shape[2] + queries),), q.dtype)

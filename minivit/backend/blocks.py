"""Walking over a large array in pieces that stay in the processor's cache, on all cores.

A chain of elementwise passes over a large array reads and writes main memory at every pass. Done block by block, all
passes but the first find their data in the cache. The blocks are independent, and NumPy lets other threads run while
it computes, so each core takes the next one. On a GPU there is one block: the whole.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from minivit.backend.blas import single_threaded_blas

BLOCK_BYTES = 1 << 20  # per array: about a second-level cache, and long enough that threads seldom meet at the lock
_GPU_BLOCK_BYTES = 1 << 28  # enough to keep a GPU busy
_WORTH_BYTES = 1 << 20  # below this, waking a thread costs more than it brings
_WORTH_OPERATIONS = 8e6  # multiply-accumulates of a product that is cut



class _Within(threading.local):
    share = False  # whether this thread is at work for `_run`


class _Helper:
    """A thread that waits for work: waking it takes less than starting one, or than asking a `ThreadPoolExecutor`."""

    def __init__(self) -> None:
        self.free = threading.Lock()  # held while it is at work
        self._work = threading.Lock()  # held while there is none
        self._work.acquire()
        self._job: tuple[Callable[[], None], threading.Lock] | None = None
        threading.Thread(target=self._wait, name="minivit", daemon=True).start()

    def start(self, job: Callable[[], None]) -> threading.Lock:
        """Hands over `job`; the lock that comes back can be acquired when it is done. Only for who holds `free`."""
        done = threading.Lock()
        done.acquire()
        self._job = job, done
        self._work.release()
        return done

    def _wait(self) -> None:
        while True:
            self._work.acquire()
            assert self._job is not None
            job, done = self._job
            self._job = None
            job()
            del job  # what it holds may die while this thread waits
            self.free.release()
            done.release()


_within = _Within()
_helpers: list[_Helper] = []
_threads: int | None = None


def blocks(rows: int, row_bytes: int, xp: Any = np) -> Iterator[slice]:
    """Slices that cover `range(rows)`, of equal length, each of `BLOCK_BYTES` bytes at most if a row has `row_bytes`."""
    most = rows if xp is not np else max(1, BLOCK_BYTES // max(row_bytes, 1))
    step = -(-rows // max(1, -(-rows // max(most, 1))))
    for start in range(0, rows, max(step, 1)):
        yield slice(start, min(start + step, rows))


def for_blocks(work: Callable[[slice], Any], rows: int, row_bytes: int, xp: Any = np) -> list[Any]:
    """`[work(block) for block in blocks(...)]`, on several threads where that pays. An exception in one is raised here.

    Matrix products within `work` run on one thread each, so that the BLAS does not compete with these threads.
    """
    if xp is not np:
        return [work(block) for block in blocks(rows, row_bytes, xp)]
    return _run(work, list(blocks(rows, row_bytes)), rows * row_bytes >= _WORTH_BYTES)


class Piece(NamedTuple):
    """Part of an array (B, h, N, M): some `whole` matrices, or some rows of one.

    `parts` index what stays in cache at a time.
    """

    images: slice
    heads: slice
    rows: slice
    whole: bool
    parts: list[tuple[slice, slice, slice]]


def pieces(shape: tuple[int, int, int, int], itemsize: int, xp: Any = np) -> list[Piece]:
    """Cuts an array of shape (B, h, N, M): as many images or heads at a time as stay in cache, or part of one head.

    On a GPU, where everything at once is quickest, what is cut is only what would take too much memory.
    """
    B, h, N, M = shape
    # twice a block: between few passes there are products, which want many rows
    cached = max(1, (2 * BLOCK_BYTES if xp is np else _GPU_BLOCK_BYTES) // max(M * itemsize, 1))  # rows
    images, heads, rows = max(1, cached // max(h * N, 1)), min(h, max(1, cached // max(N, 1))), min(N, 8 * cached)
    found = []
    for b, i, r in product(range(0, B, images), range(0, h, heads), range(0, N, max(rows, 1))):
        which, stop = (slice(b, b + images), slice(i, i + heads)), min(r + rows, N)
        parts = [(*which, slice(s, min(s + cached, stop))) for s in range(r, stop, cached)]
        found.append(Piece(*which, slice(r, stop), rows == N, parts))
    return found


def for_pieces(work: Callable[[Piece], Any], shape: tuple[int, int, int, int], itemsize: int, xp: Any = np) -> list[Any]:
    """`[work(piece) for piece in pieces(...)]`, like `for_blocks`."""
    todo = pieces(shape, itemsize, xp)
    return _run(work, todo, math.prod(shape) * itemsize >= _WORTH_BYTES) if xp is np else [work(piece) for piece in todo]


def for_shares(work: Callable[[slice], Any], rows: int, operations: float, xp: Any = np) -> list[Any]:
    """`work(share)` for one share of `range(rows)` per thread: for one large matrix product, cut along one axis.

    Two products of half the size, on one thread each, take less time than one product on the BLAS's own two threads,
    which wait for each other actively and slow everything down when another program wants a core.
    """
    if xp is not np:
        return [work(slice(0, rows))]
    worth_it = operations >= _WORTH_OPERATIONS and rows >= 2 * num_threads() and not _within.share
    shares = num_threads() if worth_it else 1
    step = -(-rows // shares) if rows else 1
    return _run(work, [slice(i, min(i + step, rows)) for i in range(0, rows, step)] or [slice(0, 0)], shares > 1)


def for_threads(work: Callable[[Any], Any], todo: list[Any]) -> list[Any]:
    """`[work(item) for item in todo]`, each on a thread; what calls of this room do within `work` stays on that thread."""
    return _run(work, todo, True)


def _run(work: Callable[[Any], Any], todo: list[Any], worth_it: bool) -> list[Any]:
    if _within.share:  # this thread has its share of something larger, and the other cores have theirs
        return [work(block) for block in todo]
    if len(todo) < 2 or not worth_it or num_threads() < 2:
        with single_threaded_blas:
            return [work(block) for block in todo]
    results: list[Any] = [None] * len(todo)
    errors: list[BaseException] = []
    take = iter(range(len(todo)))  # next() on it is atomic

    def run() -> None:
        _within.share = True
        try:
            for i in take:
                results[i] = work(todo[i])
        finally:
            _within.share = False

    def help() -> None:
        try:
            run()
        except BaseException as error:  # is raised where it will be seen
            errors.append(error)

    with single_threaded_blas:
        # a helper at work for another thread is not waited for: it may be at the very work that called this
        helping = [helper.start(help) for helper in _crew(len(todo) - 1) if helper.free.acquire(blocking=False)]
        try:
            run()
        finally:
            for _ in take:  # after an exception here, leave the helpers nothing more to do
                pass
            for done in helping:
                done.acquire()
    if errors:
        raise errors[0]
    return results


def _crew(most: int) -> list[_Helper]:
    """The helpers, one for each further thread, `most` at most."""
    while len(_helpers) < num_threads() - 1:
        _helpers.append(_Helper())
    return _helpers[: min(num_threads() - 1, most)]


def num_threads() -> int:
    """How many threads share elementwise work: the cores this process may use, unless `set_num_threads` said else."""
    global _threads
    if _threads is None:
        if sys.platform == "emscripten":
            _threads = 1
        else:
            _threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _threads


def set_num_threads(n: int | None) -> None:
    """Sets the number of threads for elementwise work; None goes back to the number of cores."""
    global _threads
    if n is not None and n < 1:
        raise ValueError(f"n: expected at least 1 thread, got {n}")
    _threads = n


if hasattr(os, "register_at_fork"):  # threads do not survive a fork, and their locks stay locked
    os.register_at_fork(after_in_child=_helpers.clear)

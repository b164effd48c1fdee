"""Large work arrays that are used again instead of being asked from the system each time.

A fresh large array costs more than the arithmetic on it: the system maps its pages, clears each one at the first touch
and takes them back when the array dies. `empty` hands out memory that an earlier array has left. Nothing has to be
returned by hand: the memory comes back when the last view of the array is gone.

How: the array handed out is a view of a root array whose base is not an array, so NumPy keeps the root alive as long as
any view of it lives, and a weak reference to the root puts its memory back on the shelf.
"""

from __future__ import annotations

import weakref
from collections import deque
from itertools import count
from math import prod
from typing import Any

import numpy as np

from minivit.backend.arrays import array_module
from minivit.backend.kernels import kernel

_SMALLEST = 1 << 16  # bytes; below this the allocator is quick enough
_SHELF_LIMIT = 1 << 30  # bytes kept on the shelf at most; beyond that, what was not asked for longest goes to the system

_shelf: dict[int, deque[memoryview]] = {}  # size in bytes -> memory of that size that nobody uses
_lent: dict[int, tuple[weakref.ref, memoryview]] = {}  # id of the weak reference -> (it, the memory its root covers)
_asked: dict[int, int] = {}  # size in bytes -> when it was asked for last, by the clock
_clock = count()
_on_shelf = 0

# Threads share these without a lock, since a reference may die anywhere, also while its own thread holds one: each
# step is a single operation on a dict or deque, or an addition, which no other thread can interrupt.


def empty(shape: tuple[int, ...], dtype: Any, xp: Any = np) -> Any:
    """An array of `shape` and `dtype` with arbitrary content, like `xp.empty`. CuPy pools its memory itself."""
    global _on_shelf
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if xp is not np or size < _SMALLEST:
        return xp.empty(shape, dtype)
    size = -(-size // _SMALLEST) * _SMALLEST  # rounded up, so that nearly equal shapes share
    _asked[size] = next(_clock)
    memory = _from_shelf(size)
    if memory is None:
        memory = memoryview(np.empty(size, np.uint8))  # type: ignore[arg-type]
    else:
        _on_shelf -= memory.nbytes
    root = np.frombuffer(memory, np.uint8)
    reference = weakref.ref(root, _take_back)
    _lent[id(reference)] = (reference, memory)
    return root[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def _from_shelf(size: int) -> memoryview | None:
    """Memory of this size that nobody uses, or a little more: gradients of weights go where activations were."""
    near = sorted(s for s in list(_shelf) if size < s <= size + size // 8) if size not in _shelf or not _shelf[size] else ()
    for s in (size, *near):
        try:
            memory = _shelf[s].pop()
        except (KeyError, IndexError):  # none, or another thread was quicker
            continue
        _asked[s] = next(_clock)
        return memory
    return None


def empty_like(x: Any, xp: Any = np) -> Any:
    """An array of the shape and dtype of `x`, in C order, with arbitrary content."""
    return empty(x.shape, x.dtype, xp)


def add(x: Any, y: Any, out: Any = None) -> Any:
    """x + y, or into `out`: of large arrays on all cores, and into memory that is used again."""
    if type(x) is np.ndarray and type(y) is np.ndarray and x.shape == y.shape and x.nbytes >= _SMALLEST:
        fast = kernel("add", x, y)
        if fast is not None:
            out = empty(x.shape, x.dtype) if out is None else out
            fast(x.size, x, y, out)
            return out
    return x + y if out is None else array_module(out).add(x, y, out=out)


def _take_back(reference: weakref.ref) -> None:
    global _on_shelf
    _, memory = _lent.pop(id(reference))
    size = memory.nbytes
    _shelf.setdefault(size, deque()).append(memory)
    _on_shelf += size
    while _on_shelf > _SHELF_LIMIT:
        try:
            oldest = min((size for size in list(_shelf) if _shelf[size]), key=_asked.__getitem__)
            _shelf[oldest].popleft()
        except (ValueError, IndexError):  # another thread was quicker
            break
        _on_shelf -= oldest

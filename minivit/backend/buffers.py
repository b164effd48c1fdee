"""Large work arrays that are used again instead of being asked from the system each time.

A fresh large array costs more than the arithmetic on it: the system maps its pages, clears each one at the first touch
and takes them back when the array dies. `empty` hands out memory that an earlier array has left. Nothing has to be
returned by hand: the memory comes back when the last view of the array is gone.

How: the base of a view is the last array in the chain of bases. The base of the array handed out is no array, so all its views
keep that array alive, and a weak reference to it says when the last one is gone. The next request puts the memory on the shelf.
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
_ALIGNED = 64  # bytes: no vector of 64 then lies across two lines of a cache

_shelf: dict[int, deque[Any]] = {}  # size in bytes -> memory of that size that nobody uses
_lent: dict[int, tuple[weakref.ref, Any]] = {}  # id of the weak reference -> (it, the memory its array covers)
_gone: deque[weakref.ref] = deque()  # references whose arrays are gone; append is no Python code, where a Ctrl-C would be lost
_asked: dict[int, int] = {}  # size in bytes -> when it was asked for last, by the clock
_clock = count()
_on_shelf = 0

# Threads share these without a lock, since a reference may die anywhere, also while its own thread holds one: each
# step is a single operation on a dict or deque, or an addition, which no other thread can interrupt.


def empty(shape: tuple[int, ...], dtype: Any, xp: Any = np) -> Any:
    """An array of `shape` and `dtype` with arbitrary content, like `xp.empty`. CuPy pools its memory itself."""
    global _on_shelf
    size = prod(shape) * np.dtype(dtype).itemsize
    if xp is not np or size < _SMALLEST:
        return xp.empty(shape, dtype)
    _take_back()
    size = -(-size // _SMALLEST) * _SMALLEST  # rounded up, so that nearly equal shapes share
    _asked[size] = next(_clock)
    memory = _from_shelf(size)
    if memory is None:
        memory = _fresh(size)
    else:
        taken = len(memory)
        _on_shelf -= taken
    array = np.ndarray(shape, dtype, memory)
    reference = weakref.ref(array, _gone.append)
    _lent[id(reference)] = (reference, memory)
    return array


def _fresh(size: int) -> Any:
    """Aligned memory, as NumPy's own is not, and no array; nor a memoryview, behind which NumPy would find the array."""
    from ctypes import c_char

    raw = np.empty(size + _ALIGNED, np.uint8)
    return (c_char * size).from_buffer(raw, -raw.ctypes.data % _ALIGNED)  # type: ignore[arg-type]


def _from_shelf(size: int) -> Any:
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
    if type(x) is np.ndarray and type(y) is np.ndarray and x.nbytes >= _SMALLEST:
        into = x if out is None else out
        fast = kernel("add", x, y, into) if x.shape == y.shape == into.shape else None
        if out is None:
            out = empty(np.broadcast(x, y).shape, np.result_type(x, y))
        if fast is not None:
            fast(x.size, x, y, out)
            return out
    return x + y if out is None else array_module(out).add(x, y, out=out)


def zeros(shape: tuple[int, ...], dtype: Any, xp: Any = np) -> Any:
    """An array of zeros, like `xp.zeros`."""
    if xp is not np or not isinstance(shape, tuple):
        return xp.zeros(shape, dtype)
    out = empty(shape, dtype)
    out.fill(0)
    return out


def concatenate(arrays: tuple[Any, ...], axis: int) -> Any:
    """The arrays one after the other along an axis, like `xp.concatenate`."""
    alike = all(type(a) is np.ndarray and a.ndim == arrays[0].ndim for a in arrays)
    if not alike or sum(a.nbytes for a in arrays) < _SMALLEST or axis not in range(-arrays[0].ndim, arrays[0].ndim):
        return array_module(*arrays).concatenate(arrays, axis=axis)  # small, of a GPU, or wrong, and then it says so
    shape = list(arrays[0].shape)
    shape[axis] = sum(a.shape[axis] for a in arrays)
    return np.concatenate(arrays, axis=axis, out=empty(tuple(shape), np.result_type(*arrays)))


def _take_back() -> None:
    """Puts the memory of all arrays that are gone on the shelf, and gives what is too much to the system."""
    global _on_shelf
    while _gone:
        try:
            reference = _gone.popleft()
        except IndexError:  # another thread was quicker
            break
        _, memory = _lent.pop(id(reference))
        size = len(memory)
        _shelf.setdefault(size, deque()).append(memory)
        _on_shelf += size
    while _on_shelf > _SHELF_LIMIT:
        try:
            oldest = min((size for size in list(_shelf) if _shelf[size]), key=_asked.__getitem__)
            _shelf[oldest].popleft()
        except (ValueError, IndexError):  # another thread was quicker
            break
        _on_shelf -= oldest

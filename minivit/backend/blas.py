"""The library that multiplies NumPy's matrices, and how many threads it uses.

A product of the sizes of a small model is done before the library's threads have met, and once woken they go on waiting
for the next one, actively, on a core that others could use. So minivit divides products itself, and asks the library for
one thread meanwhile.
"""

from __future__ import annotations

import os
import threading
from typing import Any


class _SingleThreadedBlas:
    """`with single_threaded_blas:` matrix products run on the thread that asks for them. May be nested."""

    def __init__(self) -> None:
        self._libraries: list[tuple[Any, Any]] | None = None  # how to read and to set the number of threads of each
        self._before: list[int] = []
        self._depth = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                if self._libraries is None:
                    self._libraries = [_threads_of(library) for library in _libraries()]
                self._before = [get() for get, _ in self._libraries]
                for _, put in self._libraries:
                    put(1)

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            if self._depth == 0:  # the block was begun before a fork
                return
            self._depth -= 1
            if self._depth == 0:
                self._give_back()

    def _give_back(self) -> None:
        for (_, put), n in zip(self._libraries or (), self._before):
            put(n)

    def forget(self) -> None:
        """In the child after a fork: it has none of the threads that are within a block, nor the lock they may hold."""
        if self._depth:
            self._give_back()
        self._depth, self._lock = 0, threading.Lock()


single_threaded_blas = _SingleThreadedBlas()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=single_threaded_blas.forget)


def _libraries() -> list[Any]:
    """NumPy's own library as threadpoolctl describes it, or whichever there are."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library for library in found if "numpy" in library.filepath] or found


def _threads_of(library: Any) -> tuple[Any, Any]:
    """(get, set), by the shortest way: they are called around every product."""
    if library.internal_api == "openblas":
        import ctypes

        functions = ctypes.CDLL(library.filepath)  # loaded already: this finds it again
        for name in ("scipy_openblas_%s_num_threads64_", "openblas_%s_num_threads64_", "scipy_openblas_%s_num_threads",
                     "openblas_%s_num_threads"):  # what they are called depends on how it was built
            if hasattr(functions, name % "get"):
                return functions[name % "get"], functions[name % "set"]
    return library.get_num_threads, library.set_num_threads

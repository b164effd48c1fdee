"""The table of GPU kernels, keyed by operation, so that files of operations never name CuPy.

A fused operation asks `kernel(name, xp)` for a compiled twin of one of its passes and falls back to its array code:

    fast = kernel("gelu", xp)
    out = fast(x) if fast else <array code>

The table is empty so far: on a GPU every operation runs its array code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_KERNELS: dict[str, Callable[[Any], Callable[..., Any]]] = {}  # name -> what builds the kernel, given the module cupy
_BUILT: dict[tuple[str, Any], Callable[..., Any]] = {}  # (name, module) -> kernel


def gpu_kernel(name: str) -> Callable[[Callable[[Any], Callable[..., Any]]], Callable[[Any], Callable[..., Any]]]:
    """Decorates `build(cupy) -> kernel`; the kernel is built when it is first asked for."""

    def register(build: Callable[[Any], Callable[..., Any]]) -> Callable[[Any], Callable[..., Any]]:
        _KERNELS[name] = build
        return build

    return register


def kernel(name: str, xp: Any) -> Callable[..., Any] | None:
    """The compiled kernel of that name for arrays of `xp`, or None: then use the array code."""
    if xp is np or name not in _KERNELS:
        return None
    if (name, xp) not in _BUILT:
        _BUILT[name, xp] = _KERNELS[name](xp)
    return _BUILT[name, xp]

"""Fused operations: fast array code, and beside it the reference that says what is computed.

Each is one node of the graph instead of five or ten, works in place and in pieces that stay in cache. Its `reference`
is the composition of primitives that a textbook would print; the tests hold the fast code to it, and the engine
replays it for derivatives of derivatives. Where there is a compiler, `by_kernel.py` and `attention_by_kernel.py` do what the
array code does with the compiled kernels of `backend/kernels/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minivit.autograd.operation import Op
from minivit.autograd.registry import register


def fused(reference: Callable[..., Any], *, saves: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Op]:
    """Decorates the array code of an operation whose meaning is `reference`; `saves` names what it keeps for its rule."""
    return lambda forward: register(Op(forward, saves=saves, reference=reference))

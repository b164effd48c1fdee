"""Checkpointing: memory for time, by computing a part of the forward pass again during backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minivit.autograd.autocast import as_now
from minivit.autograd.engine import Node, _leaves, _serial, _walk
from minivit.autograd.primitives import identity
from minivit.autograd.tensor import DRAWS_DIFFER, Tensor, mode
from minivit.backend import is_array


def checkpoint(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """f, but keeping only its inputs: what it computes inside is computed again during backward.

    Trades time for memory (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). f takes Tensors, arrays
    and numbers, returns one Tensor, and must compute the same when called again. It may use parameters and Tensors from
    outside, as a module does; they get their gradients too.
    """

    def checkpointed(*args: Any, **options: Any) -> Tensor:
        before = next(_serial)
        aliases = [Tensor(a.data, a.requires_grad) if isinstance(a, Tensor) else a for a in args]
        outer, mode.drawn = mode.drawn, []
        try:
            y = f(*aliases, **options)
        finally:
            drawn, mode.drawn = mode.drawn, outer
            if outer is not None:
                outer += drawn
        if is_array(y) or isinstance(y, np.generic):  # nothing but arrays came in
            return y
        if not isinstance(y, Tensor):
            raise TypeError(f"checkpoint: the function must return one Tensor, got {type(y).__name__}")
        if not y.requires_grad or not mode.recording:
            return y.detach()
        # Tensors from outside that f used: the leaves, and the nodes made before f began
        own = {id(a) for a in aliases}
        outside = [t for t in _leaves(y, before) if id(t) not in own]
        node = Node(_Checkpoint(as_now(f), args, outside, drawn), (), (), options, None, ())
        node.args = args
        node.parents = tuple(
            (a if a.node is None else a.node) if isinstance(a, Tensor) and a.requires_grad else None for a in args
        ) + tuple(outside)
        node.shapes = node.dtypes = (None,) * len(node.parents)
        node.versions = tuple(a.version if isinstance(a, Tensor) else 0 for a in args)
        return Tensor(y.data, True, node=node)

    return checkpointed


class _Checkpoint:
    """The operation of a checkpointed function's node."""

    name = "checkpoint"
    broadcasts = False
    _kept = [True]

    def __init__(self, f: Callable[..., Tensor], args: Sequence[Any], outside: Sequence[Any], drawn: list[Any]) -> None:
        self.f = f
        self.parameters = [(t, t.version) for t in outside if isinstance(t, Tensor)]
        self.drawn = drawn  # so that dropout drops the same again, however many steps were taken in between
        self.inputs = [f"argument {i}" for i in range(max(len(args), 1))]

    def backward(self, node: Node, g: Any, needs: tuple[bool, ...], create_graph: bool) -> tuple[Any, ...]:
        assert node.args is not None
        for t, version in self.parameters:
            if t.version != version:
                raise RuntimeError(f"backward through checkpoint: a parameter of shape {t.shape} that it used was assigned to "
                                   f"after the forward pass; call backward before the optimizer's step")
        args, outside = node.args, node.parents[len(node.args):]
        if create_graph:
            aliases = [identity(a) if need else a for a, need in zip(args, needs)]
        else:
            aliases = [Tensor(a.data, need) if isinstance(a, Tensor) else a for a, need in zip(args, needs)]
        before = next(_serial)  # the walk ends at the aliases and at what f takes from outside
        replaying, mode.replaying = mode.replaying, iter(self.drawn)
        try:
            y = self.f(*aliases, **node.options)
            if next(mode.replaying, None) is not None:
                raise RuntimeError(DRAWS_DIFFER)
        finally:
            mode.replaying = replaying
        targets = [(a if a.node is None else a.node) if need else None for a, need in zip(aliases, needs)]
        targets += [t if need else None for t, need in zip(outside, needs[len(args):])]
        found = _walk(y, [t for t in targets if t is not None], g, create_graph, create_graph, since=before)
        return tuple(None if t is None else found.get(id(t)) for t in targets)

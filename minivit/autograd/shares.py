"""One function of a batch on all cores: each thread takes a share of the images, and a tape of its own.

In a small model an operation takes a tenth of a millisecond, and handing half of it to another thread as long again.
Here the whole function is handed over once: every thread computes its images from end to end, and later walks its own
part of the graph back. To the graph outside it is one operation. The gradients of what all shares use, the parameters,
are added up at the end, always in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minivit.autograd.autocast import as_now
from minivit.autograd.engine import Node, _ancestors, _leaves, _serial, _walk
from minivit.autograd.primitives import identity
from minivit.autograd.tensor import Tensor, mode
from minivit.backend import array_module, for_threads, num_threads


def in_shares(f: Callable[[Any], Tensor], x: Any) -> Tensor:
    """f(x), with x cut along its first axis into one share per thread.

    Args:
        f: takes a Tensor and returns one of as many rows, each of which depends on that row of x only, as a model in
            evaluation mode does. It may use parameters and Tensors from outside.
        x: a Tensor. On a GPU, with one thread or under `mv.anomaly()`, this is f(x).
    """
    if not isinstance(x, Tensor) or array_module(x.data) is not np or mode.anomaly or min(num_threads(), len(x)) < 2:
        return f(x)
    before, ambient = next(_serial), dict(vars(mode))

    def work(share: slice) -> tuple[slice, Tensor, Tensor]:
        alias = Tensor(x.data[share], x.requires_grad)
        with _ambient(ambient):
            return share, alias, f(alias)

    step = -(-len(x) // num_threads())
    shares = for_threads(work, [slice(i, i + step) for i in range(0, len(x), step)])
    out = np.concatenate([y.data for _, _, y in shares])
    if not any(y.requires_grad for _, _, y in shares):
        return Tensor(out)
    own = {id(alias) for _, alias, _ in shares}
    outside = list({id(t): t for _, _, y in shares for t in _leaves(y, before) if id(t) not in own}.values())
    node = Node(_Shares(as_now(f), outside, before), (x,), (x.data,), {}, None, (shares,))
    node.parents += tuple(outside)
    node.shapes = node.dtypes = (None,) * len(node.parents)
    return Tensor(out, True, node=node)


class _Shares:
    """The operation of such a function's node."""

    name = "in_shares"
    broadcasts = False
    inputs = ["x"]
    _kept = [True]

    def __init__(self, f: Callable[[Any], Tensor], outside: Sequence[Any], before: int) -> None:
        self.f, self.outside, self.before = f, outside, before

    def backward(self, node: Node, g: Any, needs: tuple[bool, ...], create_graph: bool) -> tuple[Any, ...]:
        assert node.args is not None
        (shares,) = node.saved
        if create_graph:  # once more, in one piece, if what it is computed from is still what it was
            for _, _, y in shares:
                for inner in _ancestors(y.node, self.before):
                    inner.check_usable()
            before, alias = next(_serial), identity(node.args[0])
            targets = [t if need else None for t, need in zip((alias.node, *self.outside), needs)]
            gradients = _walk(self.f(alias), [t for t in targets if t is not None], g, True, True, since=before)
            return tuple(None if t is None else gradients.get(id(t)) for t in targets)
        ambient = dict(vars(mode))
        wanted = [t for t, need in zip(self.outside, needs[1:]) if need]

        def work(one: tuple[slice, Tensor, Tensor]) -> dict[int, Any]:
            share, alias, y = one
            targets = [*([alias] if needs[0] else []), *wanted]
            with _ambient(ambient):
                return _walk(y, targets, g[share], False, mode.retaining, since=self.before)

        found = for_threads(work, shares)
        gx = None
        if needs[0]:
            parts = [f.get(id(alias)) for f, (_, alias, _) in zip(found, shares)]
            zeros = (np.zeros_like(alias.data) for _, alias, _ in shares)
            gx = np.concatenate([z if part is None else part for z, part in zip(zeros, parts)])
        return gx, *(_total([f.get(id(t)) for f in found]) if need else None for t, need in zip(self.outside, needs[1:]))


def _total(parts: list[Any]) -> Any:
    given = [part for part in parts if part is not None]
    total = given[0] if given else None
    for part in given[1:]:
        total = total + part
    return total


@contextmanager
def _ambient(values: dict[str, Any]) -> Iterator[None]:
    """Within this block what is ambient in this thread is what it was in the one that asked."""
    before = dict(vars(mode))
    vars(mode).update(values)
    try:
        yield
    finally:
        vars(mode).clear()
        vars(mode).update(before)

"""Causes that lose contributions: where several outputs use one element, its gradient is the sum of what each sends back.

A loop that writes `gx[...] = ` where it should add keeps the last contribution; indexing with repeated indices keeps
one; `g[0]` for `g.sum(0)` keeps the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minivit.checking.point import Array, Hint, Point, axes_text, spreads


def assigned_not_added(p: Point, i: int) -> Iterator[Hint]:
    columns = p.columns[i]
    if columns is None or not p.full[i] or p.a[i].shape != p.n[i].shape or p.derivative > 1:
        return
    n, name = p.n[i], p.names[i]
    for axes, parts, uses in _by_slice(p, columns):
        for which in ("last", "first"):
            used = uses if which == "first" else uses[:, ::-1]
            chosen = np.argmax(used, axis=1) if which == "first" else uses.shape[1] - 1 - np.argmax(used, axis=1)
            one = np.where(uses.any(axis=1), parts[np.arange(len(parts)), chosen], 0.0).reshape(n.shape)
            if not p.explains(i, one, p.a[i]):
                continue
            if uses.all():
                broadcast = spreads(n.shape, p.y.shape) and all(
                    k < p.y.ndim - n.ndim or n.shape[k - p.y.ndim + n.ndim] == 1 for k in axes
                )
                code = "missing_broadcast_sum" if broadcast or which == "first" else "assigned_not_added"
                yield Hint(code, (axes, which), f"the gradient of {name} is what the {which} of {uses.shape[1]} slices along "
                           f"{axes_text(axes)} of the result sends back, and not the sum over all of them",
                           {"axes": axes, "which": which})  # fmt: skip
            else:
                yield Hint("assigned_not_added", (axes, which), f"the gradient of {name} has, where several slices along "
                           f"{axes_text(axes)} of the result use one element, what the {which} of them sends back, and not the "
                           "sum: `=` where `+=` is needed?", {"axes": axes, "which": which})  # fmt: skip
            return
    yield from _any_one(p, i, columns)


def _by_slice(p: Point, columns: Array) -> Iterator[tuple[tuple[int, ...], Array, Array]]:
    """(axes, parts, uses): what each slice of the result along these axes sends back to each element, and whether any."""
    shape = p.y.shape
    sent = (columns * p.g.reshape(1, -1)).reshape(-1, *shape)
    used = (np.abs(columns) > 1e-9).reshape(-1, *shape)
    for length in range(1, len(shape) + 1):
        for start in range(len(shape) - length + 1):
            axes = tuple(range(start, start + length))
            others = tuple(1 + k for k in range(len(shape)) if k not in axes)
            parts, uses = sent.sum(axis=others).reshape(len(sent), -1), used.any(axis=others).reshape(len(sent), -1)
            if (uses.sum(axis=1) > 1).any():
                yield axes, parts, uses


def _any_one(p: Point, i: int, columns: Array) -> Iterator[Hint]:
    """One of the contributions, not the same one everywhere."""
    if ((np.abs(columns) > 1e-9).sum(axis=0) > 1).any():  # an output made of several elements: nothing was just looked up
        return
    parts = columns * p.g.reshape(1, -1)
    a, n = p.a[i].reshape(-1), p.n[i].reshape(-1)
    tolerance = 1e-6 * np.max(np.abs(n)) + 10 * np.max(p.bar[i])
    several = np.sum(np.abs(parts) > tolerance, axis=1) > 1
    wrong = np.abs(a - n) > tolerance
    if not wrong.any() or (wrong & ~several).any():
        return
    one_of_them = np.min(np.abs(parts - a[:, None]), axis=1) <= tolerance
    if one_of_them[wrong].all() and np.all(np.abs(a[wrong]) > tolerance):
        yield Hint("assigned_not_added", None, f"the gradient of {p.names[i]} is wrong only where several outputs use one "
                   f"element ({int(wrong.sum())} of {a.size}): there it has one contribution instead of their sum. `=` where "
                   "`+=` (np.add.at) is needed?", {"count": int(wrong.sum())})  # fmt: skip

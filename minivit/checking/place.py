"""Causes that put right numbers in the wrong place, or not all of them in the right one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from minivit.autograd import unbroadcast
from minivit.checking.point import Array, Hint, Point, and_factor, axes_text, spreads


def missing_broadcast_sum(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or p.derivative > 1:
        return
    if a.shape != n.shape:
        if spreads(n.shape, a.shape) and a.size > n.size:
            c = p.proportion(i, unbroadcast(a, n.shape))
            if c is not None:
                lead = a.ndim - n.ndim
                axes = (*range(lead), *(lead + k for k, m in enumerate(n.shape) if m == 1 and a.shape[lead + k] > 1))
                yield Hint("missing_broadcast_sum", axes, f"the gradient of {p.names[i]} has shape {a.shape}; summed over "
                           f"{axes_text(axes)}, along which the input was broadcast, it is the numeric one{and_factor(c)}",
                           {"axes": axes, "factor": c})  # fmt: skip
                return
        for k in range(1, a.ndim + 1):
            for axes in itertools.combinations(range(a.ndim), k):
                for keep in (False, True):
                    total = a.sum(axis=axes, keepdims=keep)
                    if total.shape != n.shape or total.size == a.size:  # the form alone is wrong, not the numbers
                        continue
                    c = p.proportion(i, total)
                    if c is not None:
                        yield Hint("missing_broadcast_sum", axes, f"the gradient of {p.names[i]} has shape {a.shape}; "
                                   f"summed over {axes_text(axes)}, along which the input was broadcast, it is the numeric "
                                   f"one{and_factor(c)}", {"axes": axes, "factor": c})  # fmt: skip
                        return
        return
    spread = p.full_sum(i) if p.full_sum is not None else None
    if spread is None:
        return
    whole = spread.reshape(p.y.shape)
    extra = whole.ndim - n.ndim
    right = tuple(range(extra)) + tuple(extra + k for k, m in enumerate(n.shape) if m == 1 and whole.shape[extra + k] != 1)
    for axis in right:
        for position in (0, -1):
            piece = unbroadcast(whole.take([position], axis=axis), n.shape)
            if p.explains(i, piece, a):
                yield Hint("missing_broadcast_sum", (axis, position), f"the gradient of {p.names[i]} has only the "
                           f"{'first' if position == 0 else 'last'} of {whole.shape[axis]} entries along axis {axis} of the "
                           "result; the input was broadcast there, so all must be summed", {"axes": (axis,)})  # fmt: skip
                return
    for axes in itertools.combinations(range(whole.ndim), len(right)):
        total = whole.sum(axis=axes)
        if axes != right and total.size == n.size and p.explains(i, total.reshape(n.shape), a):
            yield Hint("missing_broadcast_sum", axes, f"the gradient of {p.names[i]} was summed over {axes_text(axes)} of "
                       f"the result; the input was broadcast along {axes_text(right)}",
                       {"axes": right, "summed": axes})  # fmt: skip
            return


def swapped_inputs(p: Point, i: int) -> Iterator[Hint]:
    for j in range(len(p.n)):
        if j == i or p.a[j] is None or not (p.full[i] and p.full[j]) or not p.explains(i, p.a[j]):
            continue
        elsewhere = [k for k in range(len(p.n)) if k != i and p.full[k] and p.a[i] is not None
                     and p.a[i].shape == p.n[k].shape and _same(p.a[i], p.n[k])]  # fmt: skip
        if not elsewhere:
            continue
        if elsewhere[0] == j:
            text = f"the gradients of {p.names[i]} and {p.names[j]} are right, but in each other's place"
        else:
            text = (f"the gradient of {p.names[i]} stands in the place of {p.names[j]}, and in its own that of "
                    f"{p.names[elsewhere[0]]}")  # fmt: skip
        yield Hint("swapped_inputs", frozenset((i, j)), text, {"inputs": (i, j)})
        return


def _same(a: Array, b: Array) -> bool:
    return bool(np.max(np.abs(a - b), initial=0.0) <= 1e-6 * np.max(np.abs(b), initial=0.0))


def transposed(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.ndim != n.ndim:
        return
    for order in itertools.permutations(range(a.ndim)) if 2 <= a.ndim <= 5 else ():
        c = None if order == tuple(range(a.ndim)) else p.proportion(i, a.transpose(order))
        if c is not None:
            moved = [k for k, m in enumerate(order) if k != m]
            code = "transposed" if len(moved) == 2 else "permuted"
            yield Hint(code, order, f"the gradient of {p.names[i]} has the right numbers with {axes_text(moved)} "
                       f"exchanged{and_factor(c)}", {"axes": order, "factor": c})  # fmt: skip
            return
    columns = p.columns[i]
    if columns is None or a.shape != n.shape or columns.shape[0] != columns.shape[1] or p.derivative > 1:
        return
    jacobian = columns.T  # (outputs, inputs)
    if p.explains(i, (jacobian @ p.g.reshape(-1)).reshape(n.shape), a):
        code = "permuted" if ((np.abs(jacobian) > 1e-9).sum(axis=1) <= 1).all() else "transposed"
        how = "the rearrangement is applied once more instead of undone" if code == "permuted" else "J g instead of Jᵀ g"
        yield Hint(code, "jacobian", f"the gradient of {p.names[i]} is the Jacobian times g, not its transpose times g: {how}",
                   {"equals": "J g"})  # fmt: skip


def permuted(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.shape != n.shape:
        return
    for axis in range(a.ndim):
        c = p.proportion(i, np.flip(a, axis)) if a.shape[axis] > 1 else None
        if c is not None:
            yield Hint("permuted", ("flip", axis), f"the gradient of {p.names[i]} is right but reversed along axis "
                       f"{axis}{and_factor(c)}", {"axis": axis, "how": "reversed", "factor": c})  # fmt: skip
            return
        for shift in range(1, min(a.shape[axis], 16)):
            if p.explains(i, np.roll(a, shift, axis)):
                yield Hint("permuted", ("roll", axis, shift), f"the gradient of {p.names[i]} is right but rolled along axis "
                           f"{axis} by {shift}", {"axis": axis, "how": "rolled", "by": shift})  # fmt: skip
                return


def assigned_not_added(p: Point, i: int) -> Iterator[Hint]:
    columns = p.columns[i]
    if columns is None or not p.full[i] or p.a[i].shape != p.n[i].shape or p.derivative > 1:
        return
    for axis in range(p.y.ndim):
        for which, position in (("first", 0), ("last", -1)):
            only = np.zeros(p.g.shape)
            here = tuple(position if k == axis else slice(None) for k in range(p.y.ndim))
            only[here] = p.g[here]
            share = (columns @ only.reshape(-1)).reshape(p.n[i].shape)
            if p.y.shape[axis] > 1 and share.all() and p.explains(i, share, p.a[i]):
                yield Hint("assigned_not_added", (axis, position), f"the gradient of {p.names[i]} is what the {which} of "
                           f"{p.y.shape[axis]} slices along axis {axis} of the result contributes, not the sum over all: `=` "
                           "where `+=` is needed?", {"axis": axis, "which": which})  # fmt: skip
                return
    if ((np.abs(columns) > 1e-9).sum(axis=0) > 1).any():  # an output made of several elements: nothing was just looked up
        return
    parts = columns * p.g.reshape(1, -1)  # what each output contributes to each element
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


def misplaced(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.size != n.size or n.size < 3:
        return
    if a.shape != n.shape and p.explains(i, a.reshape(n.shape)):
        return  # the shape alone is wrong, and said to be
    ordered = np.sort(n, axis=None)
    if np.max(np.abs(n)) * 1e-5 > np.min(np.diff(ordered), initial=np.inf) and len(np.unique(np.round(ordered, 8))) < 3:
        return
    guess = np.empty(n.size)
    guess[np.argsort(n, axis=None)] = np.sort(a, axis=None)
    if p.explains(i, guess.reshape(n.shape)):
        yield Hint("misplaced", None, f"the gradient of {p.names[i]} has the right {n.size} numbers in other places; is an "
                   "axis order, a reshape or an index inverted the wrong way?", {})  # fmt: skip

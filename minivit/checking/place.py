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


def one_triangle(p: Point, i: int) -> Iterator[Hint]:
    """Of a symmetric matrix f reads one half, as LAPACK does, and the backward speaks for both."""
    a, n, x = p.a[i], p.n[i], p.inputs[i]
    if not p.full[i] or a.shape != n.shape or x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        return
    if np.array_equal(x, np.swapaxes(x, -1, -2)) and p.explains(i, a + np.swapaxes(a, -1, -2), n + np.swapaxes(n, -1, -2)):
        yield Hint("unexplained", "triangle", f"the gradient of {p.names[i]} is right for symmetric changes of this symmetric "
                   "matrix, of which the function reads one triangle only; check it as a function of A by (A + Aᵀ) / 2",
                   {"step": "A"})  # fmt: skip


def permuted(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.shape != n.shape:
        return
    for axis in range(a.ndim):
        c = p.proportion(i, np.flip(a, axis)) if not np.array_equal(np.flip(a, axis), a) else None
        if c is not None:
            yield Hint("permuted", ("flip", axis), f"the gradient of {p.names[i]} is right but reversed along axis "
                       f"{axis}{and_factor(c)}", {"axis": axis, "how": "reversed", "factor": c})  # fmt: skip
            return
        for shift in range(1, min(a.shape[axis], 16)):
            if p.explains(i, np.roll(a, shift, axis)):
                yield Hint("permuted", ("roll", axis, shift), f"the gradient of {p.names[i]} is right but rolled along axis "
                           f"{axis} by {shift}", {"axis": axis, "how": "rolled", "by": shift})  # fmt: skip
                return


def misplaced(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.size != n.size or n.size < 2:
        return
    if a.shape != n.shape and p.explains(i, a.reshape(n.shape)):
        return  # the shape alone is wrong, and said to be
    ordered = np.sort(n, axis=None)
    if np.max(np.abs(n)) * 1e-5 > np.min(np.diff(ordered), initial=np.inf) and len(np.unique(np.round(ordered, 8))) < 3:
        return
    columns = p.columns[i]
    if columns is not None and p.derivative == 1 and n.size > 1 and p.g.size > n.size:
        picked = np.abs(columns) > 0.5  # (elements, outputs)
        if (np.abs(np.abs(columns) - picked) < 1e-9).all() and (picked.sum(axis=1) == 1).all():
            nearest = np.min(np.abs(np.abs(a.reshape(-1, 1)) - np.abs(p.g.reshape(1, -1))), axis=1)
            if a.any() and nearest.max() <= 1e-9 * np.abs(p.g).max():
                yield Hint("misplaced", "picked", f"the gradient of {p.names[i]} is made of entries of g, as it should be, but "
                           "of other ones than it went to in the result", {})  # fmt: skip
                return
    if n.size < 3:
        return
    guess = np.empty(n.size)
    guess[np.argsort(n, axis=None)] = np.sort(a, axis=None)
    if p.explains(i, guess.reshape(n.shape)):
        yield Hint("misplaced", None, f"the gradient of {p.names[i]} has the right {n.size} numbers in other places; is an "
                   "axis order, a reshape or an index inverted the wrong way?", {})  # fmt: skip

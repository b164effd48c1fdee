"""Causes inside the function: which single mistake, in walking back through its steps, gives exactly these numbers?

The gradient of input x is a sum over paths: of every way from x to the result through the steps in between

    gradient = Σ over paths of (the product of the local derivatives along it) · g

and a mistake in one step changes the share of the paths through it, and nothing else. With the steps known
(`tracing.py`) that share can be computed for each way of going wrong: cut, minus itself, several times itself, passed
on without the local derivative, the transposed derivative, ... The one that reproduces the analytic gradient is what
happened. With dozens of numbers to explain and at most one fitted, a coincidence is out of the question.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minivit.checking.point import Array, Hint, Point, handed_on, known_factor, reduced_lengths, spreads
from minivit.checking.tracing import Step


class Edge(NamedTuple):
    """One use of a step's value: by `step`, in its place `slot`. `share` is what comes back this way to the input."""

    step: Step
    slot: int
    share: Array

    @property
    def parent(self) -> Step:
        return self.step.parents[self.slot]


class Walk:
    """The right way back: the cotangent of every step, and how every step depends on input i."""

    def __init__(self, steps: list[Step], g: Array, i: int) -> None:
        x = steps[i]
        size = x.value.size
        self.cotangents = {s.index: np.zeros(s.value.size) for s in steps}
        self.cotangents[steps[-1].index] = g.reshape(-1)
        for s in reversed(steps):
            for slot, p in enumerate(s.parents):
                self.cotangents[p.index] = self.cotangents[p.index] + s.jacobian(slot).T @ self.cotangents[s.index]
        self.derivatives = {s.index: np.zeros((s.value.size, size)) for s in steps}
        self.derivatives[x.index] = np.eye(size)
        for s in steps:
            # what the result does not change with, such as the maximum that a softmax is shifted by, counts as a constant
            if np.max(np.abs(self.cotangents[s.index]), initial=0.0) <= 1e-9 * np.max(np.abs(g), initial=0.0):
                continue
            for slot, p in enumerate(s.parents):
                if self.derivatives[p.index].any():
                    self.derivatives[s.index] = self.derivatives[s.index] + s.jacobian(slot) @ self.derivatives[p.index]
        self.shape = x.value.shape
        self.edges = [
            Edge(s, slot, self.to_input(p, s.jacobian(slot).T @ self.cotangents[s.index]))
            for s in reversed(steps) if self.derivatives[s.index].any()
            for slot, p in enumerate(s.parents) if self.derivatives[p.index].any()
        ]  # fmt: skip

    def cotangent(self, s: Step) -> Array:
        return self.cotangents[s.index].reshape(s.value.shape)

    def to_input(self, s: Step, cotangent: Array) -> Array:
        """What a cotangent of step s contributes to the gradient of the input."""
        return (self.derivatives[s.index].T @ cotangent.reshape(-1)).reshape(self.shape)


def paths(p: Point, i: int) -> Iterator[Hint]:
    """One hint at most: the mistake in one step that explains input i."""
    if not p.full[i] or p.a[i].shape != p.n[i].shape or p.derivative > 1:
        return
    steps = p.steps()
    if steps is None:
        return
    walk = Walk(steps, p.g, i)
    edges = [e for e in walk.edges if e.share.any() and np.isfinite(e.share).all()]
    for find in FINDERS:
        for hint in find(p, i, walk, edges):
            yield hint
            return


def _explains(p: Point, i: int, change: Array, free: int = 0) -> bool:
    return p.explains(i, change, p.a[i] - p.n[i], free)


def _cut(p: Point, i: int, walk: Walk, edges: list[Edge]) -> Iterator[Hint]:
    for e in edges:
        if _explains(p, i, -e.share):
            code, what = _kind(walk, e)
            yield Hint(code, ("cut", e.step.index, e.slot), f"the gradient of {p.names[i]} lacks exactly the part that comes "
                       f"back through {_way(e)}{what}", {"path": _way(e)})  # fmt: skip


def _several_times(p: Point, i: int, walk: Walk, edges: list[Edge]) -> Iterator[Hint]:
    """The share of one path is c times what it should be."""
    rest = p.a[i] - p.n[i]
    for e in edges:
        c = 1 + float(np.sum(rest * e.share) / np.sum(e.share * e.share))
        minus = math.isclose(c, -1, rel_tol=1e-6)
        if abs(c) < 1e-6 or not _explains(p, i, (c - 1) * e.share, free=0 if minus else 2):
            continue
        start = f"in the gradient of {p.names[i]} the part that comes back through {_way(e)}"
        if minus:
            yield Hint("wrong_sign", ("sign", e.step.index, e.slot), f"{start} has the wrong sign",
                       {"path": _way(e), "factor": -1.0})  # fmt: skip
            return
        for name, length in {**_lengths(e), **reduced_lengths(p)}.items():
            if any(math.isclose(abs(c), v, rel_tol=1e-6) for v in (length, 1 / length)):
                yield Hint("mean_vs_sum", ("length", e.step.index, length), f"{start} is {c:.6g} times what it should be; "
                           f"{length} is the length of {name}: a mean where a sum is meant, or the other way round?",
                           {"path": _way(e), "factor": c, "length": length})  # fmt: skip
                return
        known = known_factor(p, abs(c))
        yield Hint("constant_factor", ("times", e.step.index, known or f"{c:.5g}"), f"{start} is {c:.6g} times what it should "
                   f"be{': ' * bool(known)}{known}", {"path": _way(e), "factor": c})  # fmt: skip


def _local_derivative(p: Point, i: int, walk: Walk, edges: list[Edge]) -> Iterator[Hint]:
    """The local derivative of one step is another than it should be."""
    start = f"the gradient of {p.names[i]} is what comes out if"
    for e in edges:
        g, jacobian, where = walk.cotangent(e.step), e.step.jacobian(e.slot), _way(e)
        key, evidence = (e.step.index, e.slot), {"path": where}
        rows, columns = jacobian.shape

        def gives(q: Array, e: Edge = e) -> bool:
            return _explains(p, i, walk.to_input(e.parent, q) - e.share)

        zeros, ones = np.abs(jacobian) < 1e-9, np.abs(jacobian - 1) < 1e-9
        only_picks = bool((zeros | ones).all() and (ones.sum(axis=1) <= 1).all())
        rearranges = only_picks and rows == columns and (ones.sum(axis=0) == 1).all() and not np.diagonal(ones).all()
        for sign, through in itertools.product((1, -1), handed_on(g, e.parent.value.shape)):
            if gives(sign * through):
                if rearranges:  # then there is no factor to forget
                    yield Hint("permuted", ("passed", *key), f"{start} {where} is not undone: the elements keep the places of "
                               "its result", evidence)  # fmt: skip
                else:
                    yield Hint("missing_factor", ("passed", *key), f"{start} {where} passes its cotangent on "
                               f"{'with a minus sign ' * (sign < 0)}without the local derivative of {e.step.name}",
                               evidence)  # fmt: skip
                return
        if rows == columns and gives(jacobian @ g.reshape(-1)):
            code, how = ("permuted", "the rearrangement itself instead of its inverse") if rearranges else (
                "transposed", "the matrix instead of its transpose")  # fmt: skip
            yield Hint(code, ("transposed", *key), f"{start} {where} applies {how}", evidence)
            return
        if g.ndim >= 2 and g.shape[-1] == g.shape[-2] and gives(jacobian.T @ np.swapaxes(g, -1, -2).reshape(-1)):
            yield Hint("transposed", ("cotangent", *key), f"{start} {where} is walked back with the cotangent of the result "
                       "transposed", evidence)  # fmt: skip
            return
        for sign in (1, -1):
            if gives(jacobian.T @ np.full(rows, float(sign))):
                yield Hint("cotangent_ignored", ("ones", *key), f"{start} the cotangent of {e.step} is taken for {sign}",
                           evidence)  # fmt: skip
                return
        if only_picks and (ones.sum(axis=0) > 1).any():
            used = ones.any(axis=0)
            for which, row in (("last", rows - 1 - np.argmax(ones[::-1], axis=0)), ("first", np.argmax(ones, axis=0))):
                if gives(np.where(used, g.reshape(-1)[row], 0.0)):
                    yield Hint("assigned_not_added", ("assigned", *key), f"{start}, going back through {e.step}, an element "
                               f"that was used several times gets the {which} contribution instead of their sum: `=` where "
                               "`+=` (np.add.at) is needed?", evidence)  # fmt: skip
                    return


def _skipped(p: Point, i: int, walk: Walk, edges: list[Edge]) -> Iterator[Hint]:
    """The derivative of several steps in a row is missing, or a factor that is a value from on the way."""
    steps = {s.index: s for e in edges for s in (e.parent, e.step)}
    for k, j in itertools.permutations(sorted(steps, reverse=True), 2):
        later, earlier = steps[k], steps[j]
        if j < k and later.value.shape == earlier.value.shape and later.value.ndim:
            g = walk.cotangent(later)
            if _explains(p, i, walk.to_input(earlier, g) - walk.to_input(later, g)):
                yield Hint("missing_factor", ("skipped", k, j), f"the gradient of {p.names[i]} is what comes out if the "
                           f"cotangent of {later} is handed on to {earlier} as it is, without the derivatives between",
                           {"path": str(later)})  # fmt: skip
                return
    for k in sorted(steps, reverse=True):
        for value, text in ((steps[k].value, f"{steps[k]}"), (1 - steps[k].value, f"1 - {steps[k]}")):
            if value.shape == p.a[i].shape or value.size == 1:
                with np.errstate(all="ignore"):
                    for how, guess in (("times", p.a[i] * value), ("divided by", p.a[i] / value)):
                        if p.explains(i, guess):
                            yield Hint("missing_factor", ("value", k, text, how), f"the gradient of {p.names[i]}, {how} "
                                       f"{text}, is the numeric one: a factor is missing", {"factor": text})  # fmt: skip
                            return


def _all_but_a_constant(p: Point, i: int, walk: Walk, edges: list[Edge]) -> Iterator[Hint]:
    """Of the local derivative of one step only a constant is left: of ½ x the ½, say."""
    rest = p.a[i] - p.n[i]
    for e in edges:
        for through in handed_on(walk.cotangent(e.step), e.parent.value.shape):
            share = walk.to_input(e.parent, through)
            if share.any():
                c = float(np.sum((rest + e.share) * share) / np.sum(share * share))
                if abs(c) > 1e-6 and _explains(p, i, c * share - e.share, free=3):
                    key = "constant", e.step.index, e.slot, f"{c:.5g}"
                    yield Hint("missing_factor", key, f"the gradient of {p.names[i]} is what comes out if the local derivative "
                               f"of {_at(e.step)} is taken for the constant {c:.6g}",
                               {"path": _way(e), "constant": c})  # fmt: skip
                    return


def _another_value(p: Point, i: int, walk: Walk, edges: list[Edge]) -> Iterator[Hint]:
    """A step is differentiated at the value of another one."""
    steps = p.steps() or []
    tried = 0
    for e in edges:
        values = [s.value for s in e.step.parents]
        for slot, s in itertools.product(range(len(values)), steps):
            if s is e.step.parents[slot] or s.value.shape != values[slot].shape or e.parent.value.size > 64 or tried > 80:
                continue
            tried += 1
            others = [Step(v, [], lambda: None, "") for v in values]
            others[slot] = Step(s.value, [], lambda: None, "")
            wrong = Step(e.step.value, others, e.step.call, e.step.name, e.step.elementwise).jacobian(e.slot)
            if _explains(p, i, walk.to_input(e.parent, wrong.T @ walk.cotangents[e.step.index]) - e.share):
                belongs = e.step.parents[slot]
                yield Hint("unexplained", ("value", e.step.index, slot, s.index), f"the gradient of {p.names[i]} is what "
                           f"comes out if, back through {e.step}, the value of {_at(s)} is used for that of {_at(belongs)}",
                           {"used": str(s), "belongs": str(belongs)})  # fmt: skip
                return


def _two_cut(p: Point, i: int, walk: Walk, edges: list[Edge]) -> Iterator[Hint]:
    """Two parts are missing at once."""
    distinct: list[Edge] = []
    for e in edges:
        if not any(np.allclose(e.share, d.share, rtol=1e-6, atol=1e-12) for d in distinct):
            distinct.append(e)
    for one, two in itertools.combinations(distinct[:16], 2):
        if _explains(p, i, -one.share - two.share):
            code, what = _kind(walk, one)
            other, _ = _kind(walk, two)
            yield Hint(code if code == other else "missing_term", ("cut two", one.step.index, two.step.index),
                       f"the gradient of {p.names[i]} lacks exactly the parts that come back through {_way(one)} and through "
                       f"{_way(two)}{what if code == other else ''}", {"paths": (_way(one), _way(two))})  # fmt: skip
            return


# ---- the two classics: a softmax or a normalization somewhere among the steps ----


def softmax_axis(y: Array) -> int | None:
    """The axis along which y is a softmax: nowhere negative, sums of 1."""
    if y.ndim and (y >= 0).all():
        for axis in reversed(range(y.ndim)):
            if y.shape[axis] > 1 and np.allclose(y.sum(axis=axis), 1, rtol=1e-9):
                return axis
    return None


def normalized_axis(y: Array) -> int | None:
    """The axis along which y has mean 0 and variance 1 (less a little, for the ε in the root)."""
    for axis in reversed(range(y.ndim)):
        if y.shape[axis] > 2 and np.allclose(y.mean(axis=axis), 0, atol=1e-9):
            variance = np.mean(y * y, axis=axis)
            if ((variance > 0.9) & (variance < 1 + 1e-9)).all():
                return axis
    return None


def _normalizers(p: Point, i: int, walk: Walk, edges: list[Edge]) -> Iterator[Hint]:
    """A step that is a softmax, or a normalization, of an earlier step: differentiated as if it were something simpler."""
    steps = {e.parent.index: e.parent for e in edges} | {e.step.index: e.step for e in edges}
    weights = [(s, s.value) for s in p.steps() or () if not s.parents and s.value.all()]
    for y in (steps[k] for k in sorted(steps, reverse=True)):
        g, by_weight = walk.cotangent(y), [(w, v) for w, v in weights if v.ndim == 1 and spreads(v.shape, y.value.shape)]
        for kind, of, weight, factor in (("softmax", "", None, 1.0), ("normalization", "", None, 1.0),
                                         *(("normalization", f" / {w}", w, v) for w, v in by_weight)):  # fmt: skip
            n = y.value / factor
            axis = softmax_axis(n) if kind == "softmax" else normalized_axis(n)
            if axis is None:
                continue
            x = next((s for k, s in sorted(steps.items()) if k < y.index and s.value.shape == n.shape
                      and _is(kind, s.value, n, axis)), None)  # fmt: skip
            if x is None:
                continue
            guesses = _softmax_guesses(g, n, axis) if kind == "softmax" else _norm_guesses(g * factor, x.value, n, axis)
            right = next(guesses)[1]
            if weight is not None:
                unweighted = list(_norm_guesses(g, x.value, n, axis))[0][1]
                guesses = itertools.chain([("missing_factor", unweighted, f"without the factor {weight}")], guesses)
            for code, q, text in guesses:
                if _explains(p, i, walk.to_input(x, q - right)):
                    yield Hint(code, (kind, y.index, text), f"the gradient of {p.names[i]} is what comes out if the {kind} "
                               f"{y}{of} is differentiated so: {text}", {"step": str(y), "axis": axis})  # fmt: skip
                    return


def _is(kind: str, x: Array, y: Array, axis: int) -> bool:
    if kind == "softmax":
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return np.allclose(e / e.sum(axis=axis, keepdims=True), y, rtol=1e-9)
    c = x - x.mean(axis=axis, keepdims=True)
    n = c / np.sqrt(np.mean(c * c, axis=axis, keepdims=True))
    scale = np.mean(n * y, axis=axis, keepdims=True)  # a little under 1
    return np.allclose(n * scale, y, rtol=1e-7, atol=1e-9) and not np.allclose(x, y)


def _softmax_guesses(g: Array, y: Array, axis: int) -> Iterator[tuple[str, Array, str]]:
    total = np.sum(g * y, axis=axis, keepdims=True)
    yield "", y * (g - total), "right"
    yield "softmax_off_diagonal", g * y * (1 - y), "g p (1 - p), the diagonal of diag(p) - p pᵀ alone"
    yield "softmax_off_diagonal", g * y, "g p, without the part - p pᵀ"
    yield "missing_factor", g, "g itself, without a derivative"
    yield "missing_factor", g - total, "g - Σ g p, without the factor p in front"
    yield "mean_vs_sum", y * (g - total / y.shape[axis]), "p (g - mean of g p), with a mean where the sum belongs"
    for other in range(y.ndim):
        if other != axis:
            yield ("unexplained", y * (g - np.sum(g * y, axis=other, keepdims=True)),
                   f"p (g - Σ g p) with the sum over axis {other} instead of axis {axis}")  # fmt: skip
    if y.ndim > 1:
        yield "unexplained", y * (g - np.sum(g * y)), "p (g - Σ g p) with the sum over all axes"
    yield "missing_factor", y * (g - np.sum(g, axis=axis, keepdims=True)), "p (g - Σ g), without p under the sum"


def _norm_guesses(g: Array, x: Array, y: Array, axis: int) -> Iterator[tuple[str, Array, str]]:
    c = x - x.mean(axis=axis, keepdims=True)
    r = np.sum(y * c, axis=axis, keepdims=True) / np.sum(c * c, axis=axis, keepdims=True)  # 1 / √(variance + ε)
    mean, variance = g.mean(axis=axis, keepdims=True), y * np.mean(g * y, axis=axis, keepdims=True)
    n = x.shape[axis]
    yield "", r * (g - mean - variance), "right"
    yield "layer_norm_term", r * g, "neither the mean nor the variance is differentiated, though both depend on x"
    yield "layer_norm_term", r * (g - mean), "the variance is not differentiated, though it depends on x"
    yield "layer_norm_term", r * (g - variance), "the mean is not differentiated, though it depends on x"
    yield "missing_factor", g, "g itself, without a derivative"
    yield "missing_factor", g - mean - variance, "without the factor 1/σ in front"
    yield "mean_vs_sum", r * (g - n * mean - n * variance), "with sums where means belong"
    yield "mean_vs_sum", r * (g - n * mean - variance), "with the sum of g where its mean belongs"
    yield "mean_vs_sum", r * (g - mean - n * variance), "with the sum of g x̂ where its mean belongs"


# ---- words ----


def _way(e: Edge) -> str:
    parent = e.parent
    if not parent.parents:
        return f"{parent.name} in {e.step}"
    if (parent.line, parent.text) == (e.step.line, e.step.text):
        return f"{parent.name} in {e.step}"
    return f"{parent} in {e.step}"


def _at(s: Step) -> str:
    return f"{s.name} in {s}" if s.text else s.name


def _lengths(e: Edge) -> dict[str, int]:
    """The lengths over which this step sums or spreads."""
    ours, theirs = e.parent.value, e.step.value
    ratio = max(ours.size, theirs.size) // max(1, min(ours.size, theirs.size))
    return {f"what {e.step} sums or spreads over": ratio} if ratio > 1 else {}


def _kind(walk: Walk, e: Edge) -> tuple[str, str]:
    """The code of a missing part, and what to add: the two classics have names."""
    y = e.step.value
    exponentials = (edge.step.value for edge in walk.edges if edge.step.name == "exp" and edge.step.value.shape == y.shape)
    axis = softmax_axis(y)
    summed = e.parent.value.shape != y.shape  # the path through the sum below the line, not the direct one
    if axis is not None and summed and any(np.allclose(v / v.sum(axis=axis, keepdims=True), y) for v in exponentials):
        return "softmax_off_diagonal", ": the sum under a softmax depends on every input"
    for edge in walk.edges:
        later = edge.step
        if later.index >= e.step.index and later.value.ndim and normalized_axis(later.value) is not None:
            ratio = later.value.size // max(1, min(e.parent.value.size, e.step.value.size))
            if ratio == later.value.shape[normalized_axis(later.value) or -1]:
                return "layer_norm_term", ": the mean and the variance of a normalization depend on every input"
    return "missing_term", ": that term of the derivative is missing"


FINDERS = (_cut, _normalizers, _several_times, _local_derivative, _two_cut, _skipped, _all_but_a_constant, _another_value)

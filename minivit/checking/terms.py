"""Causes that leave out a term, told from the inputs, the result and the Jacobian alone.

Where the steps of the function are known, `paths.py` says the same of any of them, and more surely.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from minivit.checking.point import Array, Hint, Point, fit, known_values, spreads


def softmax_off_diagonal(p: Point, i: int) -> Iterator[Hint]:
    y, a = p.y, p.a[i]
    if not p.full[i] or y.shape != a.shape or y.ndim == 0 or (y < 0).any():
        return
    for axis in range(y.ndim):
        if y.shape[axis] > 1 and np.allclose(y.sum(axis=axis), 1) and p.explains(
            i, p.g * y - y * np.sum(p.g * y, axis=axis, keepdims=True)
        ):
            for guess, text in ((p.g * y * (1 - y), "g p (1 - p), the diagonal of diag(p) - p pᵀ alone"),
                                (p.g * y, "g p: the part - p pᵀ is missing")):  # fmt: skip
                if p.explains(i, guess, a):
                    yield Hint("softmax_off_diagonal", text, f"the gradient of {p.names[i]} is {text}; every output of a "
                               "softmax depends on every input", {"axis": axis})  # fmt: skip
                    return


def layer_norm_term(p: Point, i: int) -> Iterator[Hint]:
    x, a = p.inputs[i], p.a[i]
    if not p.full[i] or p.y.shape != x.shape or a.shape != x.shape or x.ndim == 0 or x.shape[-1] < 3:
        return
    c = x - x.mean(axis=-1, keepdims=True)
    weights: list[Array | float] = [1.0, *(w for j, w in enumerate(p.inputs) if j != i and w.shape == x.shape[-1:])]
    for eps, w in itertools.product((0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-3), weights):
        with np.errstate(all="ignore"):
            r = 1 / np.sqrt(np.mean(c * c, axis=-1, keepdims=True) + eps)
        h, normed = p.g * w, c * r
        mean, variance = h.mean(axis=-1, keepdims=True), normed * np.mean(h * normed, axis=-1, keepdims=True)
        if not p.explains(i, r * (h - mean - variance)):
            continue
        for guess, text in (
            (r * h, "neither the mean nor the variance is differentiated, though both depend on x"),
            (r * (h - mean), "the variance is not differentiated, though it depends on x"),
            (r * (h - variance), "the mean is not differentiated, though it depends on x"),
        ):
            if p.explains(i, guess, a):
                yield Hint("layer_norm_term", text, f"the gradient of {p.names[i]} of a normalization: {text}",
                           {"eps": eps})  # fmt: skip
                return


def own_output_only(p: Point, i: int) -> Iterator[Hint]:
    """The diagonal of the Jacobian, where the rest is not zero."""
    columns, a = p.columns[i], p.a[i]
    if columns is None or not p.full[i] or p.y.shape != a.shape or a.shape != p.n[i].shape or p.derivative > 1:
        return
    if not ((np.abs(columns) > 1e-9).sum(axis=0) > 1).any():  # each output has its one element: looked up, say
        return
    if p.explains(i, (np.diagonal(columns) * p.g.reshape(-1)).reshape(a.shape), a):
        axes = [k for k, length in enumerate(p.y.shape) if length > 1]
        softmax = any(np.allclose(f(p.y).sum(axis=k), 1) for f in (np.exp, np.abs) for k in axes)  # itself, or its logarithm
        yield Hint("softmax_off_diagonal" if softmax else "missing_term", "diagonal", f"the gradient of {p.names[i]} has only "
                   "the diagonal of the Jacobian in it: what each element does to its own output. It changes other outputs too",
                   {"equals": "diag(J) g"})  # fmt: skip


def partly_zero(p: Point, i: int) -> Iterator[Hint]:
    """Right where it is not zero, and zero at elements where the derivative is not."""
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.shape != n.shape:
        return
    wrong = np.abs(a - n) > 1e-6 * np.max(np.abs(n)) + 10 * p.bar[i]
    if wrong.any() and not a[wrong].any() and a[~wrong].any():
        yield Hint("missing_term", "zeros", f"the gradient of {p.names[i]} is right at {int((~wrong).sum())} of {a.size} "
                   "elements and zero at the others, where the derivative is not: what they do to the result is left out",
                   {"zeros": int(wrong.sum())})  # fmt: skip


def missing_term(p: Point, i: int) -> Iterator[Hint]:
    a, n = p.a[i], p.n[i]
    if not p.full[i] or a.shape != n.shape or not a.any() or p.derivative > 1:
        return
    if p.y.shape == n.shape:
        with np.errstate(all="ignore"):
            half = p.g * p.y / p.inputs[i]
        for guess, text in ((half, "x is differentiated, what it is multiplied by is not"),
                            (n - half, "what x is multiplied by is differentiated, x itself is not")):  # fmt: skip
            if np.isfinite(half).all() and np.ptp(p.y / p.inputs[i]) > 1e-6 and p.explains(i, guess, a):
                yield Hint("missing_term", text, f"the gradient of {p.names[i]} is one half of the product rule: with "
                           f"result = x · (result / x), {text}", {"term": text})  # fmt: skip
                return
    rest = n - a
    known = known_values(p, i)
    with np.errstate(all="ignore"):
        factors = [("", np.ones(()))] + [(f" × {k}", v) for k, v in known] + [(f" / ({k})", 1 / v) for k, v in known]
        for chosen in itertools.combinations_with_replacement(factors[:9], 3):
            term = p.g
            for _, value in chosen:
                term = term * value if spreads(value.shape, p.g.shape) else term * np.nan
            fitted = fit(term, n.shape)
            if fitted is None or not np.isfinite(fitted).all() or not fitted.any():
                continue
            c = float(np.sum(rest * fitted) / np.sum(fitted * fitted))
            nice = next((k for k in (1, -1, 2, -2, 0.5, -0.5, 3, -3) if math.isclose(c, k, rel_tol=1e-5)), None)
            if nice is not None and p.explains(i, nice * fitted, rest):
                text = f"{nice:+g} × g" + "".join(name for name, _ in chosen)
                yield Hint("missing_term", text, f"numeric - analytic for {p.names[i]} is {text}: that term is missing (a part "
                           "of a product or quotient rule, or a second path to the result)", {"term": text})  # fmt: skip
                return
        shapes = [("the same", np.ones(n.shape)), *((f"a multiple of {k}", v) for k, v in known if v.shape == n.shape)]
        for axis, (text, value) in itertools.product(reversed(range(n.ndim)), shapes):
            size = np.sum(value * value, axis=axis, keepdims=True)
            scale = np.sum(rest * value, axis=axis, keepdims=True) / size
            if n.shape[axis] >= 3 and p.explains(i, scale * value, rest, free=scale.size * 2):
                yield Hint("missing_term", (text, axis), f"numeric - analytic for {p.names[i]} is {text} along axis {axis}: "
                           "the path through something reduced over that axis (a sum, mean or norm) is missing, or has a "
                           "wrong factor",
                           {"axis": axis, "term": text})  # fmt: skip
                return

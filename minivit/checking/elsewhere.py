"""Other inputs than those given, since a rule that is right at special ones may be right there only; and cotangents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

Array = np.ndarray
SHARES = (0.2, 0.02, 0.001)  # of themselves, by which inputs are moved; the smaller ones where f does not bear the larger


def cotangent(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random, of either sign, and none of it small: every output counts."""
    return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape))


def moved(inputs: Sequence[Array], rng: np.random.Generator, share: float = 0.2, free: bool = False) -> list[Array]:
    """The inputs changed by up to that share of them, sign kept. Their kind is kept as well, unless `free`: targets that are
    0 and 1 have their numbers exchanged, probabilities sum to 1 afterwards, a symmetric matrix is one still."""
    return [_moved(x, rng, share, "" if free else kind_of(x)) for x in inputs]


def _moved(x: Array, rng: np.random.Generator, share: float, kind: str) -> Array:
    if kind == "all 0 and 1":
        return rng.permuted(x, axis=-1)
    near_zero = share / 2 * min(1.0, float(np.max(np.abs(x), initial=0.0)) or 1.0)
    new = np.asarray(x * (1 + share * rng.uniform(-1, 1, x.shape)) + near_zero * (x == 0) * rng.uniform(-1, 1, x.shape))
    if kind == "in rows that sum to 1":
        return new / new.sum(axis=-1, keepdims=True)
    return (new + np.swapaxes(new, -1, -2)) / 2 if kind == "symmetric" else new


def kind_of(x: Array) -> str:
    """What is special about an input, if it may be meant to be: "all 0 and 1", "in rows that sum to 1", "symmetric" or ""."""
    if x.ndim and x.shape[-1] > 1 and (x >= 0).all() and np.allclose(x.sum(axis=-1), 1) and not _binary(x):
        return "in rows that sum to 1"
    if x.size < 2 or np.ptp(x) == 0:
        return ""
    if _binary(x):
        return "all 0 and 1"
    symmetric = x.ndim > 1 and x.shape[-1] == x.shape[-2] > 1 and np.array_equal(x, np.swapaxes(x, -1, -2))
    return "symmetric" if symmetric else ""


def _binary(x: Array) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def other_kinds(inputs: Sequence[Array], rng: np.random.Generator) -> Iterator[tuple[str, list[Array]]]:
    """(what they are, inputs) of other kinds than those given: of other signs, in another order, not special any more."""
    kinds = [kind_of(x) for x in inputs]
    plain = [not kind and x.size > 0 for x, kind in zip(inputs, kinds)]
    if any(one := [p and (x.min() >= 0 or x.max() <= 0) for p, x in zip(plain, inputs)]):
        signs = [x * rng.choice([-1.0, 1.0], x.shape) if o else x for x, o in zip(inputs, one)]
        yield "the same numbers with other signs", [np.asarray(x) for x in signs]
    if any(ordered := [p and _in_order(x) for p, x in zip(plain, inputs)]):
        yield "the same numbers in reversed order", [np.flip(x).copy() if o else x for x, o in zip(inputs, ordered)]
    for kind in sorted({k for k in kinds if k}):
        free = moved(inputs, rng, free=True)
        yield f"inputs that are not {kind}", [new if k == kind else x for x, new, k in zip(inputs, free, kinds)]


def _in_order(x: Array) -> bool:
    steps = np.diff(x.reshape(-1))
    return bool(np.ptp(x) > 0 and ((steps >= 0).all() or (steps <= 0).all()))

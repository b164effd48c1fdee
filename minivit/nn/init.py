"""How weights start. Every draw is a function of (seed, name): two models with one seed are equal to the bit."""

from __future__ import annotations

import math

import numpy as np

from minivit.backend import random


def xavier_uniform(shape: tuple[int, int], seed: int | None, name: str, parts: int = 1) -> np.ndarray:
    """U(-a, a) with a = √(6 / (d_in + d_out)) (Glorot and Bengio 2010).

    Args:
        shape: (d_in, parts · d_out). A weight that packs several projections side by side draws each as if alone.
        seed: None gives zeros that take no memory until they are written: for a model whose weights will be loaded.
        name: what the numbers are for.
        parts: how many projections are packed.
    """
    if seed is None:
        return np.zeros(shape, np.float32)
    bound = math.sqrt(6 / (shape[0] + shape[1] // parts))
    w = random.uniform(seed, name, shape=shape)
    w -= np.float32(0.5)
    w *= np.float32(2 * bound)
    return w


def lecun_normal(shape: tuple[int, int], seed: int | None, name: str) -> np.ndarray:
    """N(0, 1 / d_in) (LeCun et al. 1998)."""
    return normal(shape, seed, name, std=1 / math.sqrt(shape[0]))


def normal(shape: tuple[int, ...], seed: int | None, name: str, std: float = 0.02) -> np.ndarray:
    """N(0, std²), float32."""
    if seed is None:
        return np.zeros(shape, np.float32)
    return random.normal(seed, name, shape=shape) * np.float32(std)

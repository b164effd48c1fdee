"""The adjoint test: for a linear map A, <A u, v> = <u, Aᵀ v>, whatever u and v are.

Patches and images, transposing, padding, indexing are linear, and their backward is the adjoint map. The test needs no
step size, so it is exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minivit.autograd import Tensor
from minivit.backend import to_numpy


def adjoint_gap(f: Callable[[Any], Any], f_adjoint: Callable[[Any], Any], u: Any, v: Any) -> float:
    """|<f(u), v> - <u, f_adjoint(v)>| / (|f(u)| |v| + |u| |f_adjoint(v)|): about 1e-16 if the two are adjoint.

    Args:
        f, f_adjoint: linear maps on arrays.
        u: an input of f; random, not ones.
        v: an array of the shape of f(u); random, not ones.
    """
    u, v, fu, fv = (_array(a) for a in (u, v, f(u), f_adjoint(v)))
    if fu.shape != v.shape:
        raise ValueError(f"v: expected the shape of f(u), {fu.shape}, got {v.shape}")
    if fv.shape != u.shape:
        raise ValueError(f"f_adjoint: expected a result of the shape of u, {u.shape}, got {fv.shape}")
    gap = abs(np.sum(fu * v) - np.sum(u * fv))
    size = np.linalg.norm(fu) * np.linalg.norm(v) + np.linalg.norm(u) * np.linalg.norm(fv)
    return float(gap / size) if size else 0.0


def _array(value: Any) -> np.ndarray:
    return to_numpy(value.data if isinstance(value, Tensor) else value)

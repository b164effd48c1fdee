"""The linear layer x W + b: rows are tokens (lecture, "Linear Projection": z = p E)."""

from __future__ import annotations

import math

from minivit.autograd.fused import by_kernel, fused
from minivit.autograd.primitives import add, matmul, reshape
from minivit.backend import array_module, empty, for_shares, products


def linear_reference(x, weight, bias=None):
    y = matmul(reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1])), weight)  # (n, d_in) @ (d_in, d_out) -> (n, d_out)
    y = y if bias is None else add(y, bias)
    return reshape(y, shape=(*x.shape[:-1], weight.shape[1]))


@fused(linear_reference)
def linear(x, weight, bias=None):
    """x W + b over the last axis.

    Args:
        x: (..., d_in).
        weight: (d_in, d_out).
        bias: (d_out,), or None.

    Returns:
        (..., d_out)
    """
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"linear: x of shape {x.shape} does not multiply a weight of shape {weight.shape}")
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"linear: bias has shape {bias.shape}, expected {weight.shape[1:]}")
    fast = by_kernel.linear(x, weight, bias)
    if fast is not None:
        return fast
    rows = by_kernel.as_rows(x)
    xp = array_module(x, weight)
    out = empty((len(rows), weight.shape[1]), xp.result_type(x, weight), xp)

    def work(share):
        y = products.matmul(rows[share], weight, out=out[share])  # (n, d_in) @ (d_in, d_out) -> (n, d_out)
        if bias is not None:
            y += bias

    for_shares(work, len(rows), rows.size * weight.shape[1], xp)
    return out.reshape(*x.shape[:-1], weight.shape[1])


@linear.vjp
def _(g, x, weight, bias, needs):
    fast = by_kernel.linear_vjp(g, x, weight, bias, needs)
    if fast is not None:
        return fast
    rows, g_rows = by_kernel.as_rows(x), by_kernel.as_rows(g)
    gx = _product(g_rows, weight.T).reshape(x.shape) if needs[0] else None  # (n, d_out) @ (d_out, d_in)
    gw = _product(rows.T, g_rows) if needs[1] else None  # (d_in, n) @ (n, d_out)
    ones = array_module(g).ones((1, len(g_rows)), g.dtype)
    gb = _product(ones, g_rows).reshape(-1) if needs[2] else None  # the sum over the rows, several times as fast as np.sum
    return gx, gw, gb


def _product(a, b):
    xp = array_module(a, b)
    out = empty((a.shape[0], b.shape[1]), xp.result_type(a, b), xp)
    for_shares(lambda share: products.matmul(a[share], b, out=out[share]), len(a), a.size * b.shape[1], xp)
    return out

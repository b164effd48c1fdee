"""The linear layer x W + b: rows are tokens (lecture, "Linear Projection": z = p E)."""

from __future__ import annotations

from minivit.autograd.fused import fused
from minivit.autograd.primitives import add, matmul, reshape
from minivit.backend import array_module, empty


def linear_reference(x, weight, bias=None):
    y = matmul(reshape(x, shape=(-1, x.shape[-1])), weight)  # (n, d_in) @ (d_in, d_out) -> (n, d_out)
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
    rows = x.reshape(-1, x.shape[-1])
    out = _product(rows, weight)
    if bias is not None:
        out = _add_in_place(out, bias)
    return out.reshape(*x.shape[:-1], weight.shape[1])


@linear.vjp
def _(g, x, weight, bias, needs):
    g2 = g.reshape(-1, g.shape[-1])  # (n, d_out)
    gx = _product(g2, weight.T).reshape(x.shape) if needs[0] else None
    gw = x.reshape(-1, x.shape[-1]).T @ g2 if needs[1] else None  # (d_in, n) @ (n, d_out)
    gb = g2.sum(axis=0) if needs[2] else None
    return gx, gw, gb


def _product(a, b):
    xp = array_module(a, b)
    if a.dtype != b.dtype:
        return a @ b
    return xp.matmul(a, b, out=empty((a.shape[0], b.shape[1]), a.dtype, xp))


def _add_in_place(out, bias):
    if bias.dtype != out.dtype:
        return out + bias
    out += bias
    return out

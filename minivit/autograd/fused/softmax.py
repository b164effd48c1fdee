"""Softmax and its logarithm (lecture, "Scaled dot-product attention"; and the classifier's probabilities)."""

from __future__ import annotations

from minivit.autograd.fused import by_kernel, fused
from minivit.autograd.primitives import exp, logsumexp, max, sum
from minivit.backend import array_module, empty_like


def softmax_reference(x, *, axis=-1):
    e = exp(x - max(x, axis=axis, keepdims=True))
    return e / sum(e, axis=axis, keepdims=True)


@fused(softmax_reference)
def softmax(x, *, axis=-1):
    """exp(xᵢ) / Σⱼ exp(xⱼ) along an axis; the maximum is subtracted first, so nothing overflows."""
    fast = by_kernel.softmax(x, axis)
    if fast is not None:
        return fast
    xp = array_module(x)
    out = xp.subtract(x, x.max(axis=axis, keepdims=True), out=empty_like(x, xp))
    xp.exp(out, out=out)
    out /= out.sum(axis=axis, keepdims=True)
    return out


@softmax.vjp
def _(g, out, axis):
    # (diag(p) - p pᵀ) g = p (g - pᵀ g)
    fast = by_kernel.softmax_vjp(g, out, axis)
    if fast is not None:
        return fast
    gx = g * out
    gx -= out * gx.sum(axis=axis, keepdims=True)
    return gx


def log_softmax_reference(x, *, axis=-1):
    return x - logsumexp(x, axis=axis, keepdims=True)


@fused(log_softmax_reference)
def log_softmax(x, *, axis=-1):
    """log softmax(x) = x - log Σ exp(x), without forming the quotient: exact where softmax would underflow."""
    xp = array_module(x)
    out = xp.subtract(x, x.max(axis=axis, keepdims=True), out=empty_like(x, xp))
    out -= xp.log(xp.exp(out).sum(axis=axis, keepdims=True))
    return out


@log_softmax.vjp
def _(g, out, axis):
    gx = array_module(out).exp(out)
    gx *= -g.sum(axis=axis, keepdims=True)
    gx += g
    return gx

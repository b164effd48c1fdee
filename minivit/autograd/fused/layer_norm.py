"""Layer normalization (Ba, Kiros and Hinton 2016), at the entrance of every block of the encoder."""

from __future__ import annotations

from minivit.autograd.fused import by_kernel, fused
from minivit.autograd.primitives import mean, sqrt
from minivit.backend import array_module, empty, empty_like, for_blocks


def layer_norm_reference(x, weight, bias, *, eps=1e-6):
    centered = x - mean(x, axis=-1, keepdims=True)
    variance = mean(centered * centered, axis=-1, keepdims=True)
    return centered / sqrt(variance + eps) * weight + bias


@fused(layer_norm_reference, saves=("mu", "rstd"))
def layer_norm(x, weight, bias, *, eps=1e-6):
    """(x - mean) / √(variance + eps) · weight + bias over the last axis; the variance is divided by D.

    Args:
        x: (..., D).
        weight, bias: (D,).
        eps: added to the variance. 1e-6 in the original ViT and timm, 1e-5 in Swin, 1e-12 in Hugging Face's ViT.
    """
    xp = array_module(x, weight, bias)
    D = x.shape[-1]
    if weight.shape != (D,) or bias.shape != (D,):
        raise ValueError(f"layer_norm: expected weight and bias of shape ({D},), got {weight.shape} and {bias.shape}")
    fast = by_kernel.layer_norm(x, weight, bias, eps)
    if fast is not None:
        return fast[0], fast[1:]
    rows = x.reshape(-1, D)
    out = empty(rows.shape, x.dtype, xp)
    sums = "float32" if x.dtype == "float16" else x.dtype  # a float16 ends at 65,504
    mu, rstd = xp.empty((len(rows), 1), sums), xp.empty((len(rows), 1), sums)
    average = xp.full((D, 1), 1 / D, sums)  # a product with it is the mean, several times as fast as np.mean on short rows

    def work(block):
        y, m, r = out[block], mu[block], rstd[block]
        xp.matmul(rows[block], average, out=m)
        xp.subtract(rows[block], m, out=y)
        rest = y @ average  # of a row far from zero, the first mean has lost digits
        m += rest
        y -= rest
        r[:, 0] = xp.einsum("nd,nd->n", y, y, dtype=sums)
        r *= 1 / D
        r += eps
        xp.sqrt(r, out=r)
        xp.divide(1, r, out=r)
        y *= r
        y *= weight
        y += bias

    for_blocks(work, len(rows), D * x.itemsize, xp)
    return out.reshape(x.shape), (mu, rstd)


@layer_norm.vjp
def _(g, x, mu, rstd, weight, needs):
    # with n = (x - mean) rstd and h = g · weight:  ∂x = rstd (h - mean(h) - n · mean(h n))
    fast = by_kernel.layer_norm_vjp(g, x, mu, rstd, weight, needs)
    if fast is not None:
        return fast
    xp = array_module(g)
    D = g.shape[-1]
    g_rows, rows = g.reshape(-1, D), x.reshape(-1, D)
    gx = empty_like(rows, xp)
    average = xp.full((D, 1), 1 / D, g.dtype)

    def work(block):
        h, g_ = gx[block], g_rows[block]
        n = xp.subtract(rows[block], mu[block])
        n *= rstd[block]
        gw = xp.einsum("nd,nd->d", g_, n) if needs[1] else 0
        xp.multiply(g_, weight, out=h)
        along_n = xp.einsum("nd,nd->n", h, n)[:, None]
        along_n *= 1 / D
        n *= along_n
        n += h @ average
        h -= n
        h *= rstd[block]
        return gw

    gw = xp.zeros_like(weight)
    for part in for_blocks(work, len(rows), D * rows.itemsize, xp):
        gw += part
    return gx.reshape(x.shape), gw, g_rows.sum(axis=0) if needs[2] else None

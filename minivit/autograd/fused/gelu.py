"""GELU, the activation of the transformer's MLP (Hendrycks and Gimpel 2016).

gelu(x) = x Φ(x), with Φ the distribution function of the standard normal. The tanh form is what the original ViT code
runs; it differs by at most 4.8e-4, so the two must not be mixed when a checkpoint is loaded.
"""

from __future__ import annotations

import math

import numpy as np

from minivit.autograd.fused import by_kernel, fused
from minivit.autograd.primitives import erf, tanh
from minivit.autograd.special import normal_cdf, normal_density
from minivit.backend import array_module, empty_like, for_blocks, products

_K = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def gelu_reference(x, *, approximate=False):
    if approximate:
        return 0.5 * x * (1 + tanh(_K * (x + _CUBIC * x * x * x)))
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


@fused(gelu_reference)
def gelu(x, *, approximate=False):
    """x Φ(x), elementwise. approximate: the tanh form, ½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    check_approximate("gelu", approximate)
    fast = by_kernel.gelu(x, approximate)
    if fast is not None:
        return fast
    if x.dtype == np.float16:  # its polynomials have terms that are 0 or infinite there
        return gelu.forward(x.astype(np.float32), approximate=approximate).astype(np.float16)
    xp = array_module(x)
    out = empty_like(x, xp)
    flat_x, flat_out = x.reshape(-1), out.reshape(-1)

    def work(block):
        x, y = flat_x[block], flat_out[block]
        if approximate:
            xp.tanh(_tanh_argument(x, y), out=y)
            y += 1
            y *= 0.5
        else:
            normal_cdf(x, y)
        y *= x

    for_blocks(work, x.size, x.itemsize, xp)
    return out


@gelu.vjp
def _(g, x, out, approximate):
    fast = by_kernel.gelu_vjp(g, x, approximate)
    if fast is not None:
        return fast
    x = x.astype(products.wide(x.dtype), copy=False)
    xp = array_module(x)
    gx = empty_like(x, xp)
    flat_g, flat_x, flat_out, flat_gx = (a.reshape(-1) for a in (g, x, out, gx))

    def work(block):
        x, d = flat_x[block], flat_gx[block]
        if approximate:  # with u the argument: ½ (1 + tanh u) + ½ x (1 - tanh² u) u'
            x = xp.clip(x, -100, 100)  # beyond, tanh u is 1, and u may overflow
            t = xp.empty_like(x)
            xp.tanh(_tanh_argument(x, t), out=t)
            xp.multiply(x, x, out=d)
            d *= 1.5 * _K * _CUBIC
            d += 0.5 * _K  # ½ u'
            d *= x
            rest = t * t
            rest -= 1
            d *= rest  # -½ x (1 - t²) u'
            t *= 0.5
            t += 0.5
            xp.subtract(t, d, out=d)
        else:  # Φ(x) + x φ(x)
            _cdf_again(x, flat_out[block], d)
            slope = normal_density(x)
            slope *= x
            d += slope
        d *= flat_g[block]

    for_blocks(work, x.size, x.itemsize, xp)
    return gx


def check_approximate(name, approximate):
    """Refuses PyTorch's "none" and "tanh", which are both true."""
    if not isinstance(approximate, bool | np.bool_):
        raise TypeError(f"{name}: approximate: expected True (the tanh form) or False, got {approximate!r}")


def _cdf_again(x, y, out):
    """Φ(x) into `out` from y = x Φ(x): one division and a mask in the place of some twenty passes."""
    xp = array_module(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        xp.divide(y, x, out=out)
    xp.copyto(out, 0.5, where=xp.abs(x) < 4 * np.finfo(y.dtype).tiny)  # 0 / 0, or y too small to be exact


def _tanh_argument(x, out):
    """√(2/π) (x + 0.044715 x³) into `out`."""
    array_module(x).multiply(x, x, out=out)
    out *= _CUBIC * _K
    out += _K
    out *= x
    return out

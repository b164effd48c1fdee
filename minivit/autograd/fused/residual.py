"""The two halves of a pre-norm encoder block (Dosovitskiy et al. 2021, eq. 2 and 3; lecture, "Transformer Encoder").

    z' = z + MSA(LN(z))        z = z' + MLP(LN(z'))

In a small model one operation takes no longer than the interpreter needs to come to the next one; so each half is a single
operation here. It keeps less than its parts would: what is quickly computed, layer norm's result and GELU's, is computed
again on the way back.
"""

from __future__ import annotations

from minivit.autograd.fused import fused, residual_by_kernel
from minivit.autograd.fused.attention import multi_head_attention, multi_head_attention_reference
from minivit.autograd.fused.gelu import gelu, gelu_reference
from minivit.autograd.fused.layer_norm import layer_norm, layer_norm_reference
from minivit.autograd.fused.linear import linear, linear_reference
from minivit.autograd.primitives import add, getitem

# ---- z + MSA(LN(z)) ----


def residual_attention_reference(
    z, norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias, *, num_heads, scale=None, queries=None, eps=1e-6
):
    qkv = linear_reference(layer_norm_reference(z, norm_weight, norm_bias, eps=eps), qkv_weight, qkv_bias)
    heads = multi_head_attention_reference(qkv, num_heads=num_heads, scale=scale, queries=queries)
    return add(getitem(z, index=(slice(None), slice(queries))), linear_reference(heads, proj_weight, proj_bias))


@fused(residual_attention_reference, saves=("mu", "rstd", "qkv", "heads", "log_total"))
def residual_attention(
    z, norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias, *, num_heads, scale=None, queries=None, eps=1e-6,
    keep=False,
):  # fmt: skip
    """z + MSA(LN(z)): layer norm, the attention of all heads with its projections, and the way around them.

    Args:
        z: (B, N, D).
        norm_weight, norm_bias, eps: of the layer norm; (D,).
        qkv_weight, qkv_bias: (D, 3D), and (3D,) or None; see `multi_head_attention`.
        proj_weight, proj_bias: (D, D), and (D,) or None.
        num_heads: h; must divide D.
        scale: by default 1/√(D/h).
        queries: only the first so many tokens ask, 1 to N; None: all.

    Returns:
        (B, N, D); or (B, queries, D), the rows of these tokens.
    """
    if z.ndim != 3 or num_heads < 1 or z.shape[2] % num_heads:
        raise ValueError(f"expected z of shape (batch, tokens, width) with {num_heads} heads dividing the width, got {z.shape}")
    if queries is not None and not 1 <= queries <= z.shape[1]:
        raise ValueError(f"queries: expected 1 to {z.shape[1]}, the number of tokens, or None, got {queries}")
    D = z.shape[2]
    _check(z, norm_weight=(norm_weight, (D,)), norm_bias=(norm_bias, (D,)), qkv_weight=(qkv_weight, (D, 3 * D)),
           qkv_bias=(qkv_bias, (3 * D,)), proj_weight=(proj_weight, (D, D)), proj_bias=(proj_bias, (D,)))
    parameters = norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias
    fast = residual_by_kernel.attention(z, parameters, num_heads, scale, queries, eps, keep)
    if fast is not None:
        return fast
    normed, (mu, rstd) = layer_norm.forward(z, norm_weight, norm_bias, eps=eps)
    qkv = linear.forward(normed, qkv_weight, qkv_bias)
    heads, (log_total,) = multi_head_attention.forward(qkv, num_heads=num_heads, scale=scale, queries=queries, keep=keep)
    return z[:, :queries] + linear.forward(heads, proj_weight, proj_bias), (mu, rstd, qkv, heads, log_total)


@residual_attention.vjp
def _(g, z, norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias, num_heads, scale, queries, eps,
      mu, rstd, qkv, heads, log_total, needs):  # fmt: skip
    parameters = norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias
    fast = residual_by_kernel.attention_vjp(g, z, parameters, num_heads, scale, mu, rstd, qkv, heads, log_total, needs)
    if fast is not None:
        return fast
    g_heads, g_proj_weight, g_proj_bias = linear.rule(g, heads, proj_weight, proj_bias, (True, needs[5], needs[6]))
    g_qkv, _ = multi_head_attention.rule(g_heads, qkv, None, heads, num_heads, scale, queries, log_total, (True, False))
    normed, _ = layer_norm.forward(z, norm_weight, norm_bias, eps=eps)
    g_normed, g_qkv_weight, g_qkv_bias = linear.rule(g_qkv, normed, qkv_weight, qkv_bias, (True, needs[3], needs[4]))
    gz, g_norm_weight, g_norm_bias = layer_norm.rule(g_normed, z, mu, rstd, norm_weight, (True, needs[1], needs[2]))
    gz[:, :queries] += g
    return gz, g_norm_weight, g_norm_bias, g_qkv_weight, g_qkv_bias, g_proj_weight, g_proj_bias


# ---- z + MLP(LN(z)) ----


def residual_mlp_reference(z, norm_weight, norm_bias, weight1, bias1, weight2, bias2, *, approximate=False, eps=1e-6):
    hidden = linear_reference(layer_norm_reference(z, norm_weight, norm_bias, eps=eps), weight1, bias1)
    return add(z, linear_reference(gelu_reference(hidden, approximate=approximate), weight2, bias2))


@fused(residual_mlp_reference, saves=("mu", "rstd", "hidden"))
def residual_mlp(z, norm_weight, norm_bias, weight1, bias1, weight2, bias2, *, approximate=False, eps=1e-6, keep=False):
    """z + MLP(LN(z)): layer norm, a linear layer, GELU, a linear layer, and the way around them.

    Args:
        z: (..., D).
        norm_weight, norm_bias, eps: of the layer norm; (D,).
        weight1, bias1: (D, H), and (H,) or None.
        weight2, bias2: (H, D), and (D,) or None.
        approximate: the tanh form of GELU.

    Returns:
        (..., D)
    """
    if z.ndim == 0 or getattr(weight1, "ndim", 0) != 2:
        raise ValueError("expected z of shape (..., D) and weight1 of shape (D, H), "
                         f"got {z.shape} and {getattr(weight1, 'shape', weight1)}")
    D, H = z.shape[-1], weight1.shape[1]
    _check(z, norm_weight=(norm_weight, (D,)), norm_bias=(norm_bias, (D,)), weight1=(weight1, (D, H)), bias1=(bias1, (H,)),
           weight2=(weight2, (H, D)), bias2=(bias2, (D,)))
    parameters = norm_weight, norm_bias, weight1, bias1, weight2, bias2
    fast = residual_by_kernel.mlp(z, parameters, approximate, eps, keep)
    if fast is not None:
        return fast
    normed, (mu, rstd) = layer_norm.forward(z, norm_weight, norm_bias, eps=eps)
    hidden = linear.forward(normed, weight1, bias1)
    active = gelu.forward(hidden, approximate=approximate)
    return z + linear.forward(active, weight2, bias2), (mu, rstd, hidden)


@residual_mlp.vjp
def _(g, z, norm_weight, norm_bias, weight1, bias1, weight2, bias2, approximate, eps, mu, rstd, hidden, needs):
    parameters = norm_weight, norm_bias, weight1, bias1, weight2, bias2
    fast = residual_by_kernel.mlp_vjp(g, z, parameters, approximate, mu, rstd, hidden, needs)
    if fast is not None:
        return fast
    active = gelu.forward(hidden, approximate=approximate)
    g_active, g_weight2, g_bias2 = linear.rule(g, active, weight2, bias2, (True, needs[5], needs[6]))
    g_hidden = gelu.rule(g_active, hidden, active, approximate)
    normed, _ = layer_norm.forward(z, norm_weight, norm_bias, eps=eps)
    g_normed, g_weight1, g_bias1 = linear.rule(g_hidden, normed, weight1, bias1, (True, needs[3], needs[4]))
    gz, g_norm_weight, g_norm_bias = layer_norm.rule(g_normed, z, mu, rstd, norm_weight, (True, needs[1], needs[2]))
    gz += g
    return gz, g_norm_weight, g_norm_bias, g_weight1, g_bias1, g_weight2, g_bias2


def _check(z, **parameters):
    for name, (given, shape) in parameters.items():
        if given is None and name in ("qkv_bias", "proj_bias", "bias1", "bias2"):
            continue
        if getattr(given, "shape", None) != shape:
            found = f"has shape {given.shape}" if hasattr(given, "shape") else f"is {given!r}"
            raise ValueError(f"{name} {found}, expected {shape} for z of shape {z.shape}")

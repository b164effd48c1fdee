"""Blocks of the pre-norm encoder (Dosovitskiy et al. 2021, eq. 2 and 3; lecture, "Transformer Encoder").

    z' = z + MSA(LN(z))        z = z' + MLP(LN(z'))

In a small model one operation takes no longer than the interpreter needs to come to the next one; so several blocks are a
single operation here. It keeps less than its parts would: what is quickly computed, layer norm's result and GELU's, is
computed again on the way back.
"""

from __future__ import annotations

from minivit.autograd.fused import encoder_by_kernel, fused
from minivit.autograd.fused.attention import multi_head_attention_reference
from minivit.autograd.fused.gelu import check_approximate, gelu_reference
from minivit.autograd.fused.layer_norm import layer_norm_reference
from minivit.autograd.fused.linear import linear_reference
from minivit.autograd.operation import replay
from minivit.autograd.primitives import add, getitem
from minivit.autograd.tensor import Tensor

PARAMETERS = ("norm1_weight", "norm1_bias", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias",
              "norm2_weight", "norm2_bias", "weight1", "bias1", "weight2", "bias2")  # fmt: skip


def encoder_reference(z, *parameters, num_heads, scale=None, queries=None, approximate=False, eps=1e-6):
    for i in range(0, len(parameters), 12):
        norm1_w, norm1_b, qkv_w, qkv_b, proj_w, proj_b, norm2_w, norm2_b, w1, b1, w2, b2 = parameters[i : i + 12]
        asking = queries if i + 12 == len(parameters) else None
        qkv = linear_reference(layer_norm_reference(z, norm1_w, norm1_b, eps=eps), qkv_w, qkv_b)
        heads = multi_head_attention_reference(qkv, num_heads=num_heads, scale=scale, queries=asking)
        z = add(getitem(z, index=(slice(None), slice(asking))), linear_reference(heads, proj_w, proj_b))
        hidden = linear_reference(layer_norm_reference(z, norm2_w, norm2_b, eps=eps), w1, b1)
        z = add(z, linear_reference(gelu_reference(hidden, approximate=approximate), w2, b2))
    return z


@fused(encoder_reference, saves=("kept", "stats"))
def encoder(*arrays, num_heads, scale=None, queries=None, approximate=False, eps=1e-6, keep=False):
    """One block of the encoder after the other: z + MSA(LN(z)), and of that, z' + MLP(LN(z')).

    Computed by a kernel for the processor, and where there is none for these arrays as `encoder.reference` says.

    Args:
        arrays: z, (B, N, D), and for each block, in this order: norm1_weight, norm1_bias, (D,); qkv_weight (D, 3D), qkv_bias
            (3D,), see `multi_head_attention`; proj_weight (D, D), proj_bias (D,); norm2_weight, norm2_bias, (D,); weight1
            (D, H), bias1 (H,); weight2 (H, D), bias2 (D,). None in the place of a bias other than a layer norm's: none.
        num_heads: h; must divide D.
        scale: of the scores; by default 1/√(D/h).
        queries: in the last block only the first so many tokens ask, 1 to N; None: all.
        approximate: the tanh form of GELU.
        eps: of all layer norms.

    Returns:
        (B, N, D); or (B, queries, D), the rows of these tokens.
    """
    z, *parameters = arrays
    _check(z, parameters, num_heads, queries)
    check_approximate("encoder", approximate)
    fast = encoder_by_kernel.encoder(z, parameters, num_heads, scale, queries, approximate, eps, keep)
    if fast is not None:
        return fast
    options = {"num_heads": num_heads, "scale": scale, "queries": queries, "approximate": approximate, "eps": eps}
    return encoder_reference(z, *parameters, **options), (None, None)


@encoder.vjp
def _(g, arrays, num_heads, scale, queries, approximate, eps, kept, stats, needs):
    z, *parameters = arrays
    fast = encoder_by_kernel.encoder_vjp(g, z, parameters, num_heads, scale, approximate, kept, stats, needs)
    if fast is not None:
        return fast
    options = {"num_heads": num_heads, "scale": scale, "queries": queries, "approximate": approximate, "eps": eps}
    tensors = [Tensor(a, True) if need else a for a, need in zip(arrays, needs)]
    gradients = replay(encoder_reference, tensors, options, g, needs)
    return tuple(None if t is None else t.data for t in gradients)


def _check(z, parameters, num_heads, queries):
    if not parameters or len(parameters) % 12:
        raise ValueError(f"expected z and twelve parameters for each block, {', '.join(PARAMETERS)}; got {len(parameters)}")
    if z.ndim != 3 or num_heads < 1 or z.shape[2] % num_heads:
        raise ValueError(f"expected z of shape (batch, tokens, width) with {num_heads} heads dividing the width, got {z.shape}")
    if queries is not None and not 1 <= queries <= z.shape[1]:
        raise ValueError(f"queries: expected 1 to {z.shape[1]}, the number of tokens, or None, got {queries}")
    if getattr(parameters[8], "ndim", 0) != 2 or not parameters[8].shape[1]:
        raise ValueError(f"weight1: expected shape (D, H), H at least 1, got {getattr(parameters[8], 'shape', parameters[8])}")
    D, H = z.shape[2], parameters[8].shape[1]
    shapes = (D,), (D,), (D, 3 * D), (3 * D,), (D, D), (D,), (D,), (D,), (D, H), (H,), (H, D), (D,)
    if [getattr(p, "shape", None) for p in parameters] == [*shapes] * (len(parameters) // 12):
        return
    for i, given in enumerate(parameters):
        name, shape = PARAMETERS[i % 12], shapes[i % 12]
        if getattr(given, "shape", None) != shape and not (given is None and "bias" in name and "norm" not in name):
            found = f"has shape {given.shape}" if hasattr(given, "shape") else f"is {given!r}"
            raise ValueError(f"{name} of block {i // 12} {found}, expected {shape} for z of shape {z.shape}")

"""All operations: `mv.ops.exp`, `mv.ops.softmax`, ... Given arrays they return arrays, given a Tensor a Tensor."""

from minivit.autograd.fused.attention import (
    attention_probabilities,
    merge_heads,
    multi_head_attention,
    scaled_dot_product_attention,
    split_heads,
)
from minivit.autograd.fused.cross_entropy import cross_entropy
from minivit.autograd.fused.encoder import encoder
from minivit.autograd.fused.gelu import gelu
from minivit.autograd.fused.layer_norm import layer_norm
from minivit.autograd.fused.linear import linear
from minivit.autograd.fused.softmax import log_softmax, softmax
from minivit.autograd.primitives import (
    abs,
    add,
    astype,
    broadcast_to,
    clip,
    col2im,
    concatenate,
    cos,
    divide,
    erf,
    exp,
    getitem,
    identity,
    im2col,
    log,
    logsumexp,
    matmul,
    max,
    maximum,
    mean,
    min,
    multiply,
    negative,
    pad,
    power,
    relu,
    reshape,
    scatter_add,
    sign,
    sin,
    sqrt,
    stack,
    subtract,
    sum,
    swapaxes,
    tanh,
    transpose,
    var,
    where,
)

__all__ = [
    "abs", "add", "astype", "attention_probabilities", "broadcast_to", "clip", "col2im", "concatenate", "cos",
    "cross_entropy", "divide", "encoder", "erf", "exp", "gelu", "getitem", "identity", "im2col", "layer_norm", "linear", "log",
    "log_softmax", "logsumexp", "matmul", "max", "maximum", "mean", "merge_heads", "min", "multi_head_attention",
    "multiply", "negative", "pad", "power", "relu", "reshape",
    "scaled_dot_product_attention", "scatter_add", "sign", "sin", "softmax", "split_heads", "sqrt", "stack", "subtract",
    "sum", "swapaxes", "tanh", "transpose", "var", "where",
]  # fmt: skip

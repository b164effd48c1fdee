"""Mixed precision: products of matrices in float16, everything that float16 would spoil in float32.

    with mv.autocast():                                     # or mv.autocast("float16")
        loss = mv.ops.cross_entropy(model(images), labels)

(Micikevicius et al. 2018, "Mixed Precision Training".) Tensor cores multiply float16 matrices several times as fast, and add
up in float32. The parameters stay float32, so that a small step is not rounded away ("master weights", section 3.1): a
product casts what it is given by the recorded operation `astype`, whose rule casts the gradient back. What adds up many
numbers or takes exponentials (section 3.3), such as a layer norm, a softmax or the loss, casts to float32. All else,
such as a residual sum, takes what comes, and a sum of both dtypes is float32.

Gradients of float16 values are float16, and small ones vanish: below 6e-8 there is nothing. Hence `mv.train.LossScaler`.
On a CPU this computes the same numbers, for tests and lessons, and more slowly: there are no float16 units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minivit.autograd import ops
from minivit.autograd.operation import Op
from minivit.autograd.tensor import Tensor, casting, mode
from minivit.backend import is_array

# operation -> how many of its inputs are cast. Not the bias of attention: it is added to scores, which are float32.
_PRODUCTS: dict[Op, int] = {
    ops.linear: 3, ops.matmul: 2, ops.scaled_dot_product_attention: 3, ops.multi_head_attention: 1,
}  # fmt: skip
# GELU is among these because its array code is a chain of roundings; one of softmax's inputs is enough, and so on
_FLOAT32: dict[Op, int] = {
    ops.layer_norm: 3, ops.softmax: 1, ops.log_softmax: 1, ops.cross_entropy: 1, ops.gelu: 1,
    ops.exp: 1, ops.log: 1, ops.power: 1, ops.erf: 1, ops.sum: 1,
}  # fmt: skip


@contextmanager
def autocast(dtype: Any = "float16") -> Iterator[None]:
    """Within this block, and in this thread only, products are computed in `dtype`.

    Args:
        dtype: "float16"; or "float32", which ends an outer block's float16.

    Call `backward` within the block or after it: a gradient's dtypes are those of the forward pass. Values of float64 are
    left alone.
    """
    if str(dtype) not in ("float16", "float32"):
        raise ValueError(f"dtype: expected 'float16' or 'float32', got {dtype!r}")
    with casting(_cast if str(dtype) == "float16" else None):
        yield


def _cast(op: Op, args: Sequence[Any]) -> tuple[Any, ...]:
    """The inputs of an operation in the dtype it is to compute in."""
    if any(getattr(x, "dtype", None) == np.float64 and getattr(x, "ndim", 0) for x in args):
        return tuple(args)
    if op in _PRODUCTS:
        return *(_as(x, np.float16) for x in args[: _PRODUCTS[op]]), *args[_PRODUCTS[op] :]
    if op in _FLOAT32:
        return *(_as(x, np.float32) for x in args[: _FLOAT32[op]]), *args[_FLOAT32[op] :]
    return tuple(args)


def _as(x: Any, dtype: Any) -> Any:
    if not isinstance(x, Tensor) and not is_array(x) or x.dtype not in (np.float16, np.float32) or x.dtype == dtype:
        return x
    return ops.astype(x, dtype=dtype)


def as_now(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, to be computed later as it would be now: for what is computed again during backward."""
    now = mode.autocast

    def computed(*args: Any, **options: Any) -> Any:
        with casting(now):
            return f(*args, **options)

    return f if now is None else computed

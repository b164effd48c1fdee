"""Anomaly mode: names the operation, and the user's line, that made a NaN or broke a rule of the house.

    with mv.anomaly():
        loss = mv.ops.cross_entropy(model(images), labels)
        loss.backward()

Every result is searched, which costs time; use it to find a fault, not to train.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minivit.autograd.engine import Node, _input_name, _users_line
from minivit.autograd.operation import Op
from minivit.autograd.tensor import Tensor, mode
from minivit.backend import array_module, is_array


@contextmanager
def anomaly() -> Iterator[None]:
    """Within this block, and in this thread, a NaN raises FloatingPointError where it arises, forward or backward.

    Only a graph that was recorded within the block knows its lines.
    """
    before, mode.anomaly = mode.anomaly, True
    try:
        yield
    finally:
        mode.anomaly = before


def check_forward(op: Op, arrays: Sequence[Any], out: Any) -> None:
    if _has_nan(out):
        came = [name for name, a in zip(op.names_of(arrays), arrays) if _has_nan(a)]
        origin = f"; its input {came[0]} already had one" if came else f"; its inputs {_ranges(op, arrays)} had none"
        raise FloatingPointError(f"{op.name} at {_users_line()} made a NaN{origin}")


def check_backward(node: Node, g: Any, gradients: Sequence[Any]) -> None:
    for i, (gradient, dtype) in enumerate(zip(gradients, node.dtypes)):
        name = _input_name(node, i)
        array = gradient.data if isinstance(gradient, Tensor) else gradient
        where = f"the gradient of {node.op.name} (computed at {node.line or 'a line outside the anomaly block'})"
        if _has_nan(array):
            raise FloatingPointError(f"{where} with respect to its input {name} has a NaN")
        if array is not None and dtype is not None and array.dtype not in (dtype, g.dtype):
            raise FloatingPointError(f"{where} with respect to its input {name} is {array.dtype}, the input is {dtype}")


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return value != value
    if not is_array(value) and not hasattr(value, "dtype"):
        return False
    return value.dtype.kind in "fc" and bool(array_module(value).isnan(value).any())


def _ranges(op: Op, arrays: Sequence[Any]) -> str:
    return ", ".join(
        f"{name} in [{float(a.min()):.4g}, {float(a.max()):.4g}]"
        for name, a in zip(op.names_of(arrays), arrays)
        if is_array(a) and a.size and a.dtype.kind == "f"
    )

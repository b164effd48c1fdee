"""The registry: every operation of minivit by name.

The tests walk it, so a new operation is checked because it exists: against finite differences to the second order,
fused against its reference, NumPy against CuPy's stand-in, dtypes kept, inputs untouched. What inputs to draw for each
stands in `samples.py`. An operation that a user makes with `@mv.op` is not entered.
"""

from __future__ import annotations

from minivit.autograd.operation import Op

REGISTRY: dict[str, Op] = {}


def register(op: Op) -> Op:
    if op.name in REGISTRY:
        raise ValueError(f"there is an operation {op.name!r} already, in {REGISTRY[op.name].__module__}")
    REGISTRY[op.name] = op
    return op

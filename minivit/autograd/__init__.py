"""Derivatives from first principles: a Tensor, an engine, and the operations with their rules.

Read in this order: `tensor.py` (what a value is), `engine.py` (the graph and the walk back), `operation.py` (forward and
rule), `primitives.py` (every elementary operation beside its rule), `fused/` (the fast ones, each beside its reference),
`autocast.py` (mixed precision), `checkpointing.py`, `samples.py` (what the tests feed them), `graph.py` (drawing),
`anomaly.py` (finding a NaN).
"""

from minivit.autograd import graph, ops
from minivit.autograd.anomaly import anomaly
from minivit.autograd.autocast import autocast
from minivit.autograd.checkpointing import checkpoint
from minivit.autograd.engine import Node, grad, unbroadcast
from minivit.autograd.operation import Op, op
from minivit.autograd.registry import REGISTRY
from minivit.autograd.tensor import Tensor, no_grad

__all__ = [
    "REGISTRY", "Node", "Op", "Tensor", "anomaly", "autocast", "checkpoint", "grad", "graph", "no_grad", "op", "ops",
    "unbroadcast",
]  # fmt: skip

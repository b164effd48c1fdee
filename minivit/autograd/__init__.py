"""Derivatives from first principles: a Tensor, an engine, and the operations with their rules.

Read in this order: `tensor.py` (what a value is), `engine.py` (operations, the graph, the walk back), `primitives.py`
(every elementary operation beside its rule), `fused/` (the fast ones, each beside its reference), `samples.py` (what
the tests feed them), `graph.py` (drawing), `anomaly.py` (finding a NaN).
"""

from minivit.autograd import ops
from minivit.autograd.anomaly import anomaly
from minivit.autograd.engine import Node, Op, checkpoint, grad, op, unbroadcast
from minivit.autograd.registry import REGISTRY
from minivit.autograd.tensor import Tensor, no_grad

__all__ = ["REGISTRY", "Node", "Op", "Tensor", "anomaly", "checkpoint", "grad", "no_grad", "op", "ops", "unbroadcast"]

"""The engine: what the graph remembers of an operation, and the walk back that computes derivatives.

Reverse mode in one paragraph. An operation computes y = f(x₁, x₂, ...). Its *rule*, or vjp (vector-Jacobian product),
takes the cotangent g = ∂loss/∂y and returns ∂loss/∂xᵢ = gᵀ ∂y/∂xᵢ for every input. Each recorded operation is a `Node`.
`grad` visits the nodes from the result back to the inputs; a value that was used twice gets the sum of two cotangents.

Why the order of the visits matters: with b = a·a and c = b + b·b, the node of b must wait until *both* uses of b have
reported. Nodes are numbered as they are created, so an input's number is always smaller than its user's: walking from
the highest number to the lowest is right for every graph, without recursion.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from minivit.autograd.tensor import Tensor, casting, mode, recording
from minivit.backend import add, array_module, is_array

_serial = itertools.count(1)
_adding = threading.Lock()  # several threads may add to the gradient of one leaf
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_adding.acquire, after_in_parent=_adding.release, after_in_child=_adding.release)


class Node:
    """What the graph remembers of one operation: enough to run its rule, and no more.

    It points to its inputs and never to the Tensor it produced, so there are no reference cycles: when the last Tensor
    of a graph dies, its memory is free at once.
    """

    __slots__ = ("args", "dtypes", "line", "op", "options", "out", "parents", "saved", "serial", "shapes", "versions")

    def __init__(
        self, op: Any, args: Sequence[Any], arrays: Sequence[Any], options: dict[str, Any], out: Any, saved: tuple
    ) -> None:
        self.op = op
        self.serial = next(_serial)
        self.options = options
        self.out = out
        self.saved = saved
        # where each input's gradient goes: to the node that made it, to the leaf itself, or nowhere
        self.parents = tuple([
            (a if a.node is None else a.node) if isinstance(a, Tensor) and a.requires_grad else None for a in args
        ])
        self.shapes = tuple([getattr(a, "shape", ()) for a in arrays])
        self.dtypes = tuple([getattr(a, "dtype", None) for a in arrays])
        kept = op._kept if len(op._kept) == len(args) else [op._kept[0]] * len(args)
        self.args: tuple[Any, ...] | None = tuple([a if keep else None for a, keep in zip(args, kept)])
        self.versions = tuple([a.version if isinstance(a, Tensor) else 0 for a in self.args])
        self.line = _users_line() if mode.anomaly else None

    def check_usable(self) -> None:
        if self.args is None:
            raise RuntimeError(
                f"backward through {self.op.name} a second time: what it saved was freed by the first; "
                f"compute the result again, or pass retain_graph=True the first time"
            )
        for i, (arg, version) in enumerate(zip(self.args, self.versions)):
            if isinstance(arg, Tensor) and arg.version != version:
                raise RuntimeError(
                    f"backward through {self.op.name}: its input {_input_name(self, i)} of "
                    f"shape {arg.shape} was assigned to after the forward pass (version {arg.version}, {version} was "
                    f"used); call backward before the optimizer's step"
                )

    def free(self) -> None:
        """Forgets all but where it came from: whoever walks back this way again is to be told, not led past it."""
        self.args = self.out = None
        self.saved, self.options = (), {}


def grad(
    y: Tensor,
    xs: Sequence[Tensor],
    gy: Any = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor, ...]:
    """The derivatives of y with respect to each of xs (leaves or intermediate results).

    Args:
        y: a scalar Tensor, or one of any shape if `gy` is given.
        xs: the Tensors to differentiate by; one that y does not depend on gets zeros.
        gy: the cotangent, an array or Tensor of y's shape: the result is gyᵀ ∂y/∂x.
        create_graph: record the computation, so that the result can be differentiated again.
        retain_graph: keep what the forward pass saved, for another call; by default as `create_graph`.

    Returns:
        One Tensor per x, of its shape, dtype and device.
    """
    if isinstance(xs, Tensor):
        raise TypeError("xs: expected a list of Tensors, got one Tensor; write mv.grad(y, [x])")
    xs = list(xs)
    for i, x in enumerate(xs):
        if not isinstance(x, Tensor) or not x.requires_grad:
            what = f"a Tensor of shape {x.shape} without requires_grad" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"xs[{i}]: expected a Tensor made with requires_grad=True, got {what}")
    gy = _check_cotangent(y, gy)
    if create_graph and not isinstance(gy, Tensor):
        gy = Tensor(gy)
    elif not create_graph and isinstance(gy, Tensor):
        gy = gy.data
    targets = [x if x.node is None else x.node for x in xs]
    retain = create_graph if retain_graph is None else retain_graph
    with recording(), casting(None):  # a rule computes in the dtypes that the forward pass has chosen
        found = _walk(y, targets, gy, create_graph, retain) if y.requires_grad else {}
    if not create_graph:
        _separate(found, gy)
    results: list[Tensor] = []
    given: set[int] = set()
    for x, target in zip(xs, targets):
        g = found.get(id(target))
        if g is None:
            g = array_module(x.data).zeros_like(x.data)
        elif id(target) in given and not create_graph:  # asked for twice: each is to be changed by itself
            g = g.copy()
        given.add(id(target))
        results.append(g if isinstance(g, Tensor) else Tensor(g))
    return tuple(results)


def backward(y: Tensor, gy: Any = None, retain_graph: bool = False) -> None:
    """`Tensor.backward`: adds the derivative of y to the `grad` of every leaf that y was computed from."""
    if not y.requires_grad:
        raise RuntimeError("backward: this Tensor was computed from nothing that requires a gradient")
    gy = _check_cotangent(y, gy)
    gy = gy.data if isinstance(gy, Tensor) else gy
    leaves = _leaves(y)
    with recording(), casting(None):  # a rule computes in the dtypes that the forward pass has chosen
        found = _walk(y, leaves, gy, False, retain_graph)
    _separate(found, gy)
    with _adding:
        for leaf in leaves:
            g = found.get(id(leaf))
            if g is not None:
                leaf.grad = Tensor(g if leaf.grad is None else leaf.grad.data + g)


# ---- the walk ----


def _walk(
    y: Tensor, targets: Sequence[Any], gy: Any, create_graph: bool, retain: bool, since: int = 0
) -> dict[int, Any]:
    """The cotangents that arrive at `targets` (leaves and nodes), by id. Goes no further back than number `since`."""
    wanted = {id(t) for t in targets}
    root = y if y.node is None else y.node
    nodes = _ancestors(root, since)
    useful = set(wanted)  # ids of what leads to a target; inputs come before their users
    for node in nodes:
        for parent in node.parents:
            if id(parent) in useful:
                useful.add(id(node))
                break
    # id -> (cotangent so far, whether the engine made that array and may add to it in place)
    arrived: dict[int, tuple[Any, bool]] = {id(root): (gy, False)}
    found: dict[int, Any] = {}
    while nodes:
        node = nodes.pop()
        g, _ = arrived.pop(id(node), (None, False))
        if id(node) in wanted:
            found[id(node)] = g
        if g is None:
            continue
        needs = tuple([id(p) in useful for p in node.parents])
        if True not in needs:
            continue
        node.check_usable()
        mode.retaining = retain  # a walk within the last operation may have said otherwise
        gradients = node.op.backward(node, g, needs, create_graph)
        if len(gradients) != len(needs):
            raise ValueError(f"{node.op.name}.vjp: expected {len(needs)} gradients, one per input, got {len(gradients)}")
        if mode.anomaly:
            from minivit.autograd.anomaly import check_backward

            check_backward(node, g, gradients)
        for i, (parent, need, gradient) in enumerate(zip(node.parents, needs, gradients)):
            if need and gradient is not None:
                gradient = _fit(gradient, node, i)
                arrived[id(parent)] = _accumulate(arrived.get(id(parent)), gradient, create_graph)
        del g, gradients
        if not retain:
            node.free()
    for t in targets:
        if id(t) in arrived:
            found[id(t)] = arrived[id(t)][0]
    return found


def _ancestors(root: Any, since: int = 0) -> list[Node]:
    """All nodes that `root` was computed from, itself included, inputs before their users."""
    if not isinstance(root, Node):
        return []
    seen, stack, nodes = {id(root)}, [root], []
    while stack:
        node = stack.pop()
        nodes.append(node)
        for parent in node.parents:
            if isinstance(parent, Node) and id(parent) not in seen and parent.serial > since:
                seen.add(id(parent))
                stack.append(parent)
    nodes.sort(key=lambda node: node.serial)
    return nodes


def _leaves(y: Tensor, since: int = 0) -> list[Any]:
    """The leaves that y was computed from, and the nodes made before number `since`."""
    if y.node is None or y.node.serial <= since:
        return [y if y.node is None else y.node]
    if y.node.args is None:
        y.node.check_usable()  # before those that it was computed from: it is the one that its user knows
    ends: dict[int, Any] = {}
    for node in _ancestors(y.node, since):
        if node.args is None:
            node.check_usable()
        for parent in node.parents:
            if isinstance(parent, Tensor) or (parent is not None and parent.serial <= since):
                ends[id(parent)] = parent
    return list(ends.values())


def _accumulate(sofar: tuple[Any, bool] | None, g: Any, create_graph: bool) -> tuple[Any, bool]:
    """The sum of cotangents. The first is borrowed (a rule may have handed one array to two inputs), a sum is ours."""
    if sofar is None:
        return g, False
    total, owned = sofar
    if owned and not create_graph and total.ndim:
        return add(total, g, out=total), True
    return add(total, g), True


def _separate(found: dict[int, Any], gy: Any) -> None:
    """Copies what shares memory with another result, with the cotangent (x + y hands both the same g) or with itself
    (a broadcast view), so that who changes one gradient in place, to clip it say, changes that one only."""
    owners = {_owner(gy)}
    for key, g in found.items():
        if g is not None:
            owner = _owner(g)
            if owner in owners or 0 in getattr(g, "strides", ()):
                found[key] = g = g.copy()
                owner = id(g)
            owners.add(owner)


def _owner(array: Any) -> int:
    while is_array(getattr(array, "base", None)):
        array = array.base
    return id(array)


def _fit(g: Any, node: Node, i: int) -> Any:
    """Brings a gradient to its input's shape (only if the operation broadcasts) and dtype."""
    shape, dtype = node.shapes[i], node.dtypes[i]
    if shape is None:  # from a checkpoint: was fitted inside
        return g
    if not hasattr(g, "shape"):
        raise TypeError(f"{node.op.name}.vjp: the gradient of input {_input_name(node, i)} is a {type(g).__name__}; "
                        f"expected an array of shape {shape}")
    if g.shape != shape:
        if not node.op.broadcasts or not _broadcasts(shape, g.shape):
            raise ValueError(
                f"{node.op.name}.vjp: the gradient of input {_input_name(node, i)} has shape {g.shape}, "
                f"the input has shape {shape}"
            )
        g = unbroadcast(g, shape)
    if g.dtype != dtype:
        g = g.astype(dtype)
    return g


def _input_name(node: Node, i: int) -> str:
    return node.op.inputs[min(i, len(node.op.inputs) - 1)]


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1]))


def unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """Sums g over the axes along which an array of `shape` was repeated: the adjoint of broadcasting."""
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1)
    return g.sum(axis=axes).reshape(shape)


def _check_cotangent(y: Any, gy: Any) -> Any:
    if not isinstance(y, Tensor):
        raise TypeError(f"y: expected a Tensor, got {type(y).__name__}")
    if gy is None:
        if y.size != 1:
            raise ValueError(f"y has shape {y.shape}: only a scalar has a gradient; sum it, or give the cotangent gy")
        return array_module(y.data).ones_like(y.data)
    if not isinstance(gy, Tensor):
        gy = array_module(y.data).asarray(gy, dtype=y.dtype)
    if gy.shape != y.shape:
        raise ValueError(f"gy: expected the shape of y, {y.shape}, got {gy.shape}")
    return gy if gy.dtype == y.dtype else gy.astype(y.dtype)


def _users_line() -> str:
    """file:line of the nearest caller outside this package's autograd and nn code."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("minivit.autograd", "minivit.nn")):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"

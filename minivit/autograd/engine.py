"""The engine: what an operation is, what the graph remembers of it, and the walk back that computes derivatives.

Reverse mode in one paragraph. An operation computes y = f(x₁, x₂, ...). Its *rule*, or vjp (vector-Jacobian product),
takes the cotangent g = ∂loss/∂y and returns ∂loss/∂xᵢ = gᵀ ∂y/∂xᵢ for every input. Each recorded operation is a `Node`.
`grad` visits the nodes from the result back to the inputs; a value that was used twice gets the sum of two cotangents.

Why the order of the visits matters: with b = a·a and c = b + b·b, the node of b must wait until *both* uses of b have
reported. Nodes are numbered as they are created, so an input's number is always smaller than its user's: walking from
the highest number to the lowest is right for every graph, without recursion.

Rules are written once, in minivit's own operations, and run on two kinds of values. Given arrays they compute. Given
Tensors (`create_graph=True`) the same lines are recorded, so that derivatives of derivatives need no second formula.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minivit.autograd.tensor import Tensor, mode, recording
from minivit.backend import array_module, device_of, is_array

_serial = itertools.count(1)


class Op:
    """An operation: a forward function on arrays and, beside it, its rule.

    Called with arrays it returns an array; called with a Tensor among the inputs it returns a Tensor and, where a
    gradient may be asked for, leaves a `Node`.

    Positional parameters of the forward function are inputs (one whose default is None may be left out); keyword-only
    parameters, and those with another default, are options. The rule's parameter *names* say what it gets, and thereby
    what the graph keeps in memory until the backward pass:

        g               the cotangent
        an input        its value             (kept)
        out             the result            (kept)
        x_shape         the shape of input x
        an option       its value
        needs           one bool per input: whether its gradient is wanted; the rule may return None for the others
        a saved value   see `saves`           (kept)

    Args:
        forward: the function on arrays.
        broadcasts: the inputs broadcast against each other, and the engine sums a gradient back to its input's shape.
            Without it a rule must return exactly the input's shape.
        saves: names of intermediate values, for fused operations: forward then returns `(out, saved)`, a tuple of them.
            If forward has an option `keep`, it is told whether they will be used.
        reference: the operation as a textbook would print it, composed of primitives. An operation that has one may
            use fast array code in its rule: for derivatives of derivatives the engine replays the reference instead.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        broadcasts: bool = False,
        saves: Sequence[str] = (),
        reference: Callable[..., Any] | None = None,
    ) -> None:
        self.forward = forward
        self.name = forward.__name__.strip("_")
        self.broadcasts = broadcasts
        self.saves = tuple(saves)
        self.reference = reference
        self.rule: Callable[..., Any] | None = None
        self.__name__, self.__doc__, self.__module__ = self.name, forward.__doc__, forward.__module__
        self.__wrapped__ = forward

        self.signature = inspect.signature(forward)
        self.inputs: list[str] = []
        self.required = 0
        self.options: list[str] = []
        self.defaults: dict[str, Any] = {}
        self.variadic = False  # takes any number of inputs: def concatenate(*arrays, axis)
        for p in self.signature.parameters.values():
            if p.kind is p.VAR_POSITIONAL:
                self.inputs.append(p.name)
                self.variadic = True
            elif p.kind is p.KEYWORD_ONLY or p.default not in (p.empty, None):
                self.options.append(p.name)
                if p.default is not p.empty:
                    self.defaults[p.name] = p.default
            else:
                self.inputs.append(p.name)
                self.required += p.default is p.empty
        self._tells_keep = self.defaults.pop("keep", None) is not None
        self._plan: list[tuple[str, Any]] = []
        self._kept: list[bool] = []
        self._keeps_out = False

    def vjp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: declares the rule. It returns one gradient per input: a tuple, or the one."""
        plan: list[tuple[str, Any]] = []
        for name in inspect.signature(rule).parameters:
            if name in ("g", "out", "needs"):
                plan.append((name, None))
            elif name in self.inputs:
                plan.append(("input", self.inputs.index(name)))
            elif name.endswith("_shape") and name.removesuffix("_shape") in self.inputs:
                plan.append(("shape", self.inputs.index(name.removesuffix("_shape"))))
            elif name in self.options:
                plan.append(("option", name))
            elif name in self.saves and self.reference is not None:
                plan.append(("saved", self.saves.index(name)))
            else:
                known = ["g", "out", "needs", *self.inputs, *(f"{x}_shape" for x in self.inputs), *self.options]
                raise TypeError(
                    f"{self.name}.vjp: the rule asks for {name!r}, which is none of {', '.join(known)}"
                    + (" and a saved value needs a reference" if name in self.saves else "")
                )
        self.rule, self._plan = rule, plan
        named = {key for kind, key in plan if kind == "input"}
        self._kept = [self.reference is not None or i in named for i in range(len(self.inputs))]
        self._keeps_out = ("out", None) in plan
        return rule

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not self.variadic and (len(args) != len(self.inputs) or any(name in options for name in self.inputs)):
            args, options = self._bind(args, options)
        if self.defaults:
            options = {**self.defaults, **options}
        arrays: list[Any] = []
        any_tensor = needs_grad = any_scalar = False
        for arg in args:
            if isinstance(arg, Tensor):
                any_tensor = True
                needs_grad |= arg.requires_grad
                arrays.append(arg.data)
            else:
                any_scalar |= isinstance(arg, np.generic)
                arrays.append(arg)
        if any_scalar and any_tensor:  # x / np.sqrt(2) of a float32 x is float32: a NumPy scalar counts as a number
            args = tuple(a.item() if isinstance(a, np.generic) else a for a in args)
            arrays = [a.data if isinstance(a, Tensor) else a for a in args]
        record = needs_grad and mode.recording
        try:
            if self._tells_keep:
                out = self.forward(*arrays, **options, keep=record)
            else:
                out = self.forward(*arrays, **options)
        except Exception as error:
            _explain(error, self, arrays)
            raise
        saved: tuple[Any, ...] = ()
        if self.saves:
            out, saved = out
        if mode.anomaly:
            from minivit.autograd.anomaly import check_forward

            check_forward(self, arrays, out)
        if not any_tensor:
            return out
        if not is_array(out):  # NumPy turns 0-d results into scalars
            out = np.asarray(out)
        if not record:
            return Tensor(out)
        if self.rule is None:
            raise TypeError(f"{self.name} has no rule yet, so nothing that needs a gradient can pass through it; "
                            f"write one with @{self.name}.vjp")
        return Tensor(out, True, node=Node(self, args, arrays, options, out if self._keeps_out else None, saved))

    def backward(self, node: Node, g: Any, needs: tuple[bool, ...], create_graph: bool) -> tuple[Any, ...]:
        """The gradients of `node`'s inputs, as arrays or, with `create_graph`, as recorded Tensors."""
        assert node.args is not None
        if create_graph and self.reference is not None:
            return replay(self.reference, node.args, node.options, g, needs)
        inputs = node.args if create_graph else [a.data if isinstance(a, Tensor) else a for a in node.args]
        values: list[Any] = []
        for kind, key in self._plan:
            if kind == "g":
                values.append(g)
            elif kind == "input":
                values.append(tuple(inputs) if self.variadic else inputs[key])
            elif kind == "shape":
                values.append(node.shapes if self.variadic else node.shapes[key])
            elif kind == "option":
                values.append(node.options[key])
            elif kind == "saved":
                values.append(node.saved[key])
            elif kind == "out":
                values.append(Tensor(node.out, True, node=node) if create_graph else node.out)
            else:
                values.append(needs)
        assert self.rule is not None
        gradients = self.rule(*values)
        return gradients if isinstance(gradients, tuple) else (gradients,)

    def _bind(self, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The slow path of a call: inputs by keyword or left out, options by position."""
        try:
            bound = self.signature.bind(*args, **options).arguments
        except TypeError as error:
            raise TypeError(f"{self.name}{self.signature}: {error}") from None
        return tuple(bound.get(name) for name in self.inputs), {k: v for k, v in bound.items() if k not in self.inputs}

    def __repr__(self) -> str:
        return f"<operation {self.name}{self.signature}>"


def op(forward: Callable[..., Any] | None = None, *, broadcasts: bool = False) -> Any:
    """Makes an operation of a function on arrays; its rule is declared with `.vjp`.

        @mv.op
        def square(x):
            return x * x

        @square.vjp
        def _(g, x):
            return 2 * g * x

    The rule must use operators, methods and `mv.ops` only (not `np.`), so that it can be differentiated again.
    """
    if forward is None:
        return lambda f: Op(f, broadcasts=broadcasts)
    return Op(forward, broadcasts=broadcasts)


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
        self.parents = tuple(
            (a if a.node is None else a.node) if isinstance(a, Tensor) and a.requires_grad else None for a in args
        )
        self.shapes = tuple(getattr(a, "shape", ()) for a in arrays)
        self.dtypes = tuple(getattr(a, "dtype", None) for a in arrays)
        kept = op._kept if len(op._kept) == len(args) else [op._kept[0]] * len(args)
        self.args: tuple[Any, ...] | None = tuple(a if keep else None for a, keep in zip(args, kept))
        self.versions = tuple(a.version if isinstance(a, Tensor) else 0 for a in self.args)
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
        self.args = self.out = None
        self.saved = self.parents = ()


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
    with recording():
        found = _walk(y, targets, gy, create_graph, retain) if y.requires_grad else {}
    if not create_graph:
        _separate(found, gy)
    results = []
    for x, target in zip(xs, targets):
        g = found.get(id(target))
        g = array_module(x.data).zeros_like(x.data) if g is None else g
        results.append(g if isinstance(g, Tensor) else Tensor(g))
    return tuple(results)


def backward(y: Tensor, gy: Any = None, retain_graph: bool = False) -> None:
    """`Tensor.backward`: adds the derivative of y to the `grad` of every leaf that y was computed from."""
    if not y.requires_grad:
        raise RuntimeError("backward: this Tensor was computed from nothing that requires a gradient")
    gy = _check_cotangent(y, gy)
    gy = gy.data if isinstance(gy, Tensor) else gy
    leaves = _leaves(y)
    with recording():
        found = _walk(y, leaves, gy, False, retain_graph)
    _separate(found, gy)
    for leaf in leaves:
        g = found.get(id(leaf))
        if g is not None:
            leaf.grad = Tensor(g if leaf.grad is None else leaf.grad.data + g)


def replay(
    f: Callable[..., Any],
    args: Sequence[Any],
    options: dict[str, Any],
    g: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The recorded derivatives of f(*args), by computing f again from primitives.

    Each input gets an alias, a fresh node. Without it, in f(x, h(x)), the derivative by x would follow h as well, and
    what flows through h would count twice.
    """
    from minivit.autograd.primitives import identity

    aliases = [identity(a) if need else a for a, need in zip(args, needs)]
    y = f(*aliases, **options)
    wanted = iter(grad(y, [a for a, need in zip(aliases, needs) if need], g, create_graph=True))
    return tuple(next(wanted) if need else None for need in needs)


def checkpoint(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """f, but keeping only its inputs: what it computes inside is computed again during backward.

    Trades time for memory (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). f takes Tensors, arrays
    and numbers, returns one Tensor, and must compute the same when called again. It may use parameters and Tensors from
    outside, as a module does; they get their gradients too.
    """

    def checkpointed(*args: Any, **options: Any) -> Tensor:
        before = next(_serial)
        aliases = [Tensor(a.data, a.requires_grad) if isinstance(a, Tensor) else a for a in args]
        outer, mode.drawn = mode.drawn, []
        try:
            y = f(*aliases, **options)
        finally:
            drawn, mode.drawn = mode.drawn, outer
            if outer is not None:
                outer += drawn
        if is_array(y) or isinstance(y, np.generic):  # nothing but arrays came in
            return y
        if not isinstance(y, Tensor):
            raise TypeError(f"checkpoint: the function must return one Tensor, got {type(y).__name__}")
        if not y.requires_grad:
            return y
        # Tensors from outside that f used: the leaves, and the nodes made before f began
        own = {id(a) for a in aliases}
        outside = [t for t in _leaves(y, before) if id(t) not in own]
        node = Node(_Checkpoint(f, args, outside, drawn), (), (), options, None, ())
        node.args = args
        node.parents = tuple(
            (a if a.node is None else a.node) if isinstance(a, Tensor) and a.requires_grad else None for a in args
        ) + tuple(outside)
        node.shapes = node.dtypes = (None,) * len(node.parents)
        node.versions = tuple(a.version if isinstance(a, Tensor) else 0 for a in args)
        return Tensor(y.data, True, node=node)

    return checkpointed


class _Checkpoint:
    """The operation of a checkpointed function's node."""

    name = "checkpoint"
    broadcasts = False
    _kept = [True]

    def __init__(self, f: Callable[..., Tensor], args: Sequence[Any], outside: Sequence[Any], drawn: list[int]) -> None:
        self.f = f
        self.parameters = [(t, t.version) for t in outside if isinstance(t, Tensor)]
        self.drawn = drawn  # so that dropout drops the same again, however many steps were taken in between
        self.inputs = [f"argument {i}" for i in range(max(len(args), 1))]

    def backward(self, node: Node, g: Any, needs: tuple[bool, ...], create_graph: bool) -> tuple[Any, ...]:
        assert node.args is not None
        for t, version in self.parameters:
            if t.version != version:
                raise RuntimeError(f"backward through checkpoint: a parameter of shape {t.shape} that it used was assigned to "
                                   f"after the forward pass; call backward before the optimizer's step")
        args, outside = node.args, node.parents[len(node.args):]
        if create_graph:
            from minivit.autograd.primitives import identity

            aliases = [identity(a) if need else a for a, need in zip(args, needs)]
        else:
            aliases = [Tensor(a.data, need) if isinstance(a, Tensor) else a for a, need in zip(args, needs)]
        before = next(_serial)  # the walk ends at the aliases and at what f takes from outside
        replaying, mode.replaying = mode.replaying, iter(self.drawn)
        try:
            y = self.f(*aliases, **node.options)
        finally:
            mode.replaying = replaying
        targets = [(a if a.node is None else a.node) if need else None for a, need in zip(aliases, needs)]
        targets += [t if need else None for t, need in zip(outside, needs[len(args):])]
        found = _walk(y, [t for t in targets if t is not None], g, create_graph, create_graph, since=before)
        return tuple(None if t is None else found.get(id(t)) for t in targets)


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
        if any(id(p) in useful for p in node.parents):
            useful.add(id(node))
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
        node.check_usable()
        needs = tuple(id(p) in useful for p in node.parents)
        if not any(needs):
            continue
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
        total += g
        return total, True
    return total + g, True


def _separate(found: dict[int, Any], gy: Any) -> None:
    """Copies what shares memory with another result, with the cotangent (x + y hands both the same g) or with itself
    (a broadcast view), so that who changes one gradient in place, to clip it say, changes that one only."""
    owners = {_owner(gy)}
    for key, g in found.items():
        if g is not None:
            if _owner(g) in owners or 0 in getattr(g, "strides", ()):
                found[key] = g = g.copy()
            owners.add(_owner(g))


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
    return gy


def _explain(error: Exception, op: Op, arrays: Sequence[Any]) -> None:
    """Raises the error of a forward function again with the operation and its inputs named, where that helps."""
    names = op.inputs if not op.variadic else [f"{op.inputs[0]}[{i}]" for i in range(len(arrays))]
    devices = {device_of(a) for a in arrays if is_array(a)}
    if len(devices) > 1:
        where = ", ".join(f"{n} on {device_of(a)}" for n, a in zip(names, arrays) if is_array(a))
        raise TypeError(f"{op.name}: inputs on two devices: {where}; move one with .to('cuda') or .to('cpu')") from error
    if type(error) in (ValueError, TypeError) and not str(error).startswith(f"{op.name}: "):
        shapes = ", ".join(f"{n} {getattr(a, 'shape', type(a).__name__)}" for n, a in zip(names, arrays))
        raise type(error)(f"{op.name}: {error} [{shapes}]") from error


def _users_line() -> str:
    """file:line of the nearest caller outside this package's autograd and nn code."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("minivit.autograd", "minivit.nn")):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"

"""What an operation is: a forward function on arrays and, beside it, its rule.

    @mv.op
    def square(x):
        return x * x

    @square.vjp
    def _(g, x):
        return 2 * g * x

A rule is written once, in minivit's own operations, and runs on two kinds of values. Given arrays it computes. Given
Tensors (`create_graph=True`) the same lines are recorded, so that derivatives of derivatives need no second formula.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minivit.autograd.engine import Node, grad
from minivit.autograd.tensor import Tensor, mode
from minivit.backend import device_of, is_array


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
        self.rule: Any = None  # a function, once it is declared
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
                if self.inputs:
                    raise TypeError(f"{self.name}: *{p.name} comes after {', '.join(self.inputs)}; an operation of any number "
                                    f"of inputs has no others: def {self.name}(*{p.name})")
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
        if mode.intercept is not None:
            return mode.intercept(self, args, options)
        if not self.variadic and (len(args) != len(self.inputs) or any(name in options for name in self.inputs)):
            args, options = self._bind(args, options)
        if mode.autocast is not None:
            args = mode.autocast(self, args)
        for name, value in options.items():
            if isinstance(value, Tensor) and value.requires_grad:
                raise TypeError(f"{self.name}: {name} is a Tensor that requires a gradient, but it is an option, and those get "
                                f"none; let it act on an input instead (`q * scale` for a scale of q), or give a number")
            if isinstance(value, np.generic):  # counts as a number, as among the inputs
                options = {**options, name: value.item()}
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
        # x / np.sqrt(2) of a float32 x is float32: a NumPy scalar counts as a number
        if any_scalar and any_tensor and all(a.dtype.kind == "f" for a in args if isinstance(a, Tensor)):
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
            if out is None or isinstance(out, list | tuple):
                got = "nothing; is there a `return`?" if out is None else f"a {type(out).__name__}"
                raise TypeError(f"{self.name}: the forward function must return one array, got {got}")
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
        gradients = self.rule(*values)
        if gradients is None:
            raise TypeError(f"{self.name}.vjp: the rule returned nothing; is there a `return`?")
        return gradients if isinstance(gradients, tuple) else (gradients,)

    def _bind(self, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The slow path of a call: inputs by keyword or left out, options by position."""
        try:
            bound = self.signature.bind(*args, **options).arguments
        except TypeError as error:
            raise TypeError(f"{self.name}{self.signature}: {error}") from None
        return tuple(bound.get(name) for name in self.inputs), {k: v for k, v in bound.items() if k not in self.inputs}

    def names_of(self, args: Sequence[Any]) -> list[str]:
        """What its inputs are called: "x", "y"; or, where it takes any number, "arrays[0]", "arrays[1]"."""
        return [f"{self.inputs[0]}[{i}]" for i in range(len(args))] if self.variadic else self.inputs

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


def replay(
    f: Callable[..., Any],
    args: Sequence[Any],
    options: dict[str, Any],
    g: Any,
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


def _explain(error: Exception, op: Op, arrays: Sequence[Any]) -> None:
    """Raises the error of a forward function again with the operation and its inputs named, where that helps."""
    names = op.names_of(arrays)
    devices = {device_of(a) for a in arrays if is_array(a)}
    if len(devices) > 1:
        where = ", ".join(f"{n} on {device_of(a)}" for n, a in zip(names, arrays) if is_array(a))
        raise TypeError(f"{op.name}: inputs on two devices: {where}; move one with .to('cuda') or .to('cpu')") from error
    lists = ", ".join(n for n, a in zip(names, arrays) if isinstance(a, list | tuple))
    if lists and isinstance(error, AttributeError):
        raise TypeError(f"{op.name}: expected arrays or Tensors, {lists} is a list or a tuple; use np.asarray") from error
    integers = ", ".join(f"{n} ({a.dtype})" for n, a in zip(names, arrays) if is_array(a) and a.dtype.kind in "iub")
    if integers and "UFunc" in type(error).__name__:
        raise TypeError(f"{op.name}: expected floats, got {integers}; convert with .astype('float32')") from error
    if type(error) in (ValueError, TypeError) and not str(error).startswith(f"{op.name}: "):
        shapes = ", ".join(f"{n} {getattr(a, 'shape', type(a).__name__)}" for n, a in zip(names, arrays))
        raise type(error)(f"{op.name}: {error} [{shapes}]") from error

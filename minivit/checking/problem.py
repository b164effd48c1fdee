"""What is checked: a function from arrays to one array, and something that claims to be its gradient.

The rest of this room sees only `value` and `gradient`. Behind them stands either a NumPy function with a backward
written by hand (`HandWritten`), or a function of minivit operations whose gradient the engine computes (`Recorded`).
The gradient of the latter is itself such a function, of the same inputs and the cotangent: checking *its* gradient is
the check of the second order, and so on.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minivit.autograd import REGISTRY, Op, Tensor, grad, no_grad
from minivit.autograd.primitives import concatenate, reshape
from minivit.backend import device_of, is_array, to_device, to_numpy
from minivit.checking.form import Form, form_of_call, form_of_error, form_of_graph
from minivit.checking.overwritten import assigned_since
from minivit.checking.tracing import Step, operations_called, trace

Array = np.ndarray


class Problem:
    """A function and its claimed gradient, on float64 NumPy arrays.

    Attributes:
        name: of the function.
        inputs: the arrays to differentiate by, at the point of the check.
        names: one per input, as the report prints it.
        constants: integer arrays among the arguments; they are not differentiated.
        held: the names of numbers among the arguments that are taken for constant.
        derivative: of which order the gradient is.
        precision: of the numbers that f returns: the spacing of floats at 1.
        magnitude: of its largest result so far, of this order or a lower one; 1 at most.
    """

    precision: float = float(np.finfo(np.float64).eps)
    magnitude: float = 0.0
    held: tuple[str, ...] = ()
    name: str
    inputs: list[Array]
    names: list[str]
    constants: list[Array]
    derivative: int

    def value(self, *arrays: Array) -> Array:
        """f at other inputs: a new float64 array. Errors of the function are explained."""
        raise NotImplementedError

    def gradient(self, arrays: Sequence[Array], g: Array) -> list[Array]:
        """gᵀ ∂f/∂x, one array per input."""
        raise NotImplementedError

    def form(self, arrays: Sequence[Array], g: Array) -> Form:
        """Runs the backward once and looks at everything but the numbers."""
        raise NotImplementedError

    def steps(self, arrays: Sequence[Array]) -> list[Step] | None:
        """What f computes on the way, if there is a record of it."""
        return None


class Arguments:
    """The arguments of f as the user gave them: which are differentiated, and how to call f with others in their place.

    Floating-point arrays are differentiated, in float64; integers, booleans and None are handed through, and so are the
    arguments at the positions `held`.
    """

    def __init__(self, f: Callable[..., Any], given: Sequence[Any], held: Sequence[int] = ()) -> None:
        self.values: list[Any] = []
        self.active: list[int] = []
        self.names: list[str] = []
        self.devices: list[str] = []
        self.float32: list[bool] = []
        labels = _parameter_names(f, len(given))
        for i, value in enumerate(given):
            value = value.data if isinstance(value, Tensor) else value
            if i in held:
                self.values.append(value)
                continue
            if isinstance(value, float | list | tuple | np.generic):
                value = np.asarray(value)
            if value is None or isinstance(value, bool | int):
                self.values.append(value)
                continue
            if not is_array(value) or value.dtype.kind not in "fiub":
                kind = f"an array of {value.dtype}" if is_array(value) else type(value).__name__
                raise TypeError(f"{labels[i]}: expected an array of real numbers or a Tensor, got {kind}")
            self.values.append(value)
            if value.dtype.kind == "f":
                if not np.isfinite(to_numpy(value)).all():
                    raise ValueError(f"{labels[i]}: has NaN or infinity in it; check the gradient at finite values")
                self.active.append(i)
                self.names.append(labels[i])
                self.devices.append(device_of(value))
                self.float32.append(value.dtype == np.float32)
        if not self.active:
            raise TypeError(f"inputs: nothing to differentiate by among {len(given)} inputs; give floating-point arrays")

    def inputs(self) -> list[Array]:
        return [np.array(to_numpy(self.values[i]), dtype=np.float64) for i in self.active]

    def constants(self) -> list[Array]:
        return [to_numpy(v) for v in self.values if is_array(v) and v.dtype.kind in "iu"]

    def merge(self, arrays: Sequence[Any]) -> list[Any]:
        """All arguments, with `arrays` in the places of those that are differentiated; constants are copied."""
        merged = [v.copy() if is_array(v) else v for v in self.values]
        for i, array, device in zip(self.active, arrays, self.devices):
            merged[i] = array if isinstance(array, Tensor) or device == "cpu" else to_device(array, device)
        return merged


class HandWritten(Problem):
    """A NumPy function f(*inputs) with its backward vjp(g, *inputs)."""

    def __init__(self, f: Callable[..., Any], vjp: Callable[..., Any], arguments: Arguments) -> None:
        self.f, self.vjp, self.arguments = f, vjp, arguments
        self.name = _name(f)
        self.inputs, self.names = arguments.inputs(), arguments.names
        self.constants, self.derivative = arguments.constants(), 1

    def without_numbers(self, given: Sequence[Any]) -> HandWritten:
        """The same, with plain numbers held constant of which the backward returns no gradient: the eps of a normalization."""
        numbers = [k for k, i in enumerate(self.arguments.active) if type(given[i]) is float]
        if not numbers or len(numbers) == len(self.names):
            return self
        try:
            form = self.form(self.inputs, np.ones(self.value(*self.inputs).shape))
        except (TypeError, ValueError):  # the check itself will say why
            return self
        count = next((f.evidence for f in form.findings if f.code == "wrong_count"), None)
        held = [k for k in numbers if self.names[k] in form.nothing]
        if count is not None and count["came"] == len(self.names) - len(numbers):
            held = numbers
        if not held:
            return self
        arguments = Arguments(self.f, given, [self.arguments.active[k] for k in held])
        new = HandWritten(self.f, self.vjp, arguments)
        new.held = tuple(self.names[k] for k in held)
        return new

    def value(self, *arrays: Array) -> Array:
        merged = self.arguments.merge([a.copy() for a in arrays])
        out = check_output(_forward(self.f, merged), self.name)
        self.precision = max(self.precision, float(np.finfo(out.dtype).eps))
        return np.array(out, dtype=np.float64)

    def complex_value(self, *arrays: Array) -> Array:
        return self.f(*self.arguments.merge(list(arrays)))

    def form(self, arrays: Sequence[Array], g: Array) -> Form:
        merged = self.arguments.merge([a.copy() for a in arrays])
        _forward(self.f, merged)  # a backward may use what its forward stored: let that be of the same inputs
        return form_of_call(self.vjp, g, merged, self.arguments.active, self.names)

    def steps(self, arrays: Sequence[Array]) -> list[Step] | None:
        merged = self.arguments.merge([a.copy() for a in arrays])
        return trace(self.f, merged, self.arguments.active, self.names)

    def gradient(self, arrays: Sequence[Array], g: Array) -> list[Array]:
        form = self.form(arrays, g)
        if form.error is not None:
            raise form.error
        return [np.array(to_numpy(a), dtype=np.float64) for a in form.gradients]


class Recorded(Problem):
    """A function of minivit operations; or, from `next_order`, the gradient of one."""

    def __init__(
        self, function: Callable[..., Tensor], name: str, inputs: list[Array], names: list[str],
        constants: list[Array], devices: list[str], derivative: int = 1, record: Callable[..., Any] | None = None,
    ) -> None:  # fmt: skip
        self.record = record
        self.function, self.name, self.inputs, self.names = function, name, inputs, names
        self.constants, self.devices, self.derivative = constants, devices, derivative

    @classmethod
    def of(cls, f: Callable[..., Any], arguments: Arguments) -> Recorded:
        def function(*tensors: Tensor) -> Tensor:
            out = _forward(f, arguments.merge(tensors))
            if not isinstance(out, Tensor):
                if is_array(out):
                    raise TypeError(
                        f"{_name(f)}: given Tensors it returned an array, so it left the graph on the way; use operators, "
                        "methods and mv.ops only, or give a plain NumPy function with its vjp=")  # fmt: skip
                check_output(out, _name(f))
            check_output(out.data, _name(f))
            return out

        def record(arrays: Sequence[Array]) -> list[Step] | None:
            forward = f.forward if isinstance(f, Op) and not f.saves else f
            return trace(forward, arguments.merge([a.copy() for a in arrays]), arguments.active, arguments.names)

        return cls(function, _name(f), arguments.inputs(), arguments.names, arguments.constants(), arguments.devices,
                   record=record)  # fmt: skip

    def steps(self, arrays: Sequence[Array]) -> list[Step] | None:
        return None if self.record is None else self.record(arrays)

    def operations(self, arrays: Sequence[Array]) -> list[Recorded]:
        """The operations of the user that f calls, each at its own arguments; none if f is one itself."""
        if self.record is None:
            return []
        tensors = self._tensors(arrays, True)
        found: dict[int, Recorded] = {}
        for op, args, options in operations_called(lambda: self.function(*tensors)):
            if REGISTRY.get(op.name) is not op and id(op) not in found and op.__name__ != self.name:
                def called(*args: Any, op: Op = op, options: dict[str, Any] = options) -> Any:
                    return op(*args, **options)

                called.__name__ = op.name
                with contextlib.suppress(TypeError, ValueError):  # nothing to differentiate by
                    found[id(op)] = Recorded.of(called if options else op, Arguments(op, args))
        return list(found.values())

    def _tensors(self, arrays: Sequence[Array], requires_grad: bool) -> list[Tensor]:
        return [Tensor(to_device(a.copy(), d), requires_grad) for a, d in zip(arrays, self.devices)]

    def value(self, *arrays: Array) -> Array:
        tensors = self._tensors(arrays, False)
        if self.derivative == 1:
            with no_grad():
                out = self.function(*tensors)
        else:  # it records on its own, inside
            out = self.function(*tensors)
        return np.array(to_numpy(out.data), dtype=np.float64)

    def form(self, arrays: Sequence[Array], g: Array) -> Form:
        tensors = self._tensors(arrays, True)
        try:
            y = self.function(*tensors)
        except Exception as error:
            if self.derivative == 1:
                raise
            return form_of_error("a rule, given Tensors to be differentiated again,", error)  # the function is a gradient
        return assigned_since(y) or form_of_graph(y, g, tensors, self.names)

    def gradient(self, arrays: Sequence[Array], g: Array) -> list[Array]:
        tensors = self._tensors(arrays, True)
        y = self.function(*tensors)
        return [np.array(to_numpy(t.data), dtype=np.float64) for t in grad(y, tensors, to_device(g, y.device))]

    def next_order(self, g: Array) -> Recorded:
        """The gradient as a function of the inputs and of the cotangent, flattened into one array."""
        function = self.function

        def gradient(*args: Tensor) -> Tensor:
            record = any(t.requires_grad for t in args)
            *xs, cotangent = args
            leaves = [x if x.requires_grad else Tensor(x.data, True) for x in xs]
            gradients = grad(function(*leaves), leaves, cotangent, create_graph=record)
            return concatenate(*(reshape(t, shape=(-1,)) for t in gradients), axis=0)

        which = "the cotangent" if self.derivative == 1 else f"the cotangent of order {self.derivative}"
        problem = Recorded(gradient, self.name, [*self.inputs, g], [*self.names, which],
                           self.constants, [*self.devices, self.devices[0]], self.derivative + 1)  # fmt: skip
        problem.magnitude = self.magnitude
        return problem


def check_output(out: Any, name: str) -> Any:
    """The result of a forward function, if it is one that has a derivative."""
    if isinstance(out, float | np.generic):
        out = np.asarray(out)
    if not is_array(out):
        what = "nothing (None)" if out is None else f"a {type(out).__name__}"
        raise TypeError(f"{name}: the function must return one array, it returned {what}")
    if out.dtype.kind != "f":
        raise TypeError(f"{name}: the function returned {out.dtype}, which has no derivative; return floating-point numbers")
    return to_numpy(out)


def check_forward(problem: Problem) -> Array:
    """f at its inputs, after making sure that there is one and the same finite answer, and that it is left alone."""
    first, second = problem.value(*problem.inputs), problem.value(*problem.inputs)
    if first.shape != second.shape:
        raise ValueError(f"{problem.name}: the function returned shape {first.shape}, then {second.shape}, for one input")
    if not np.isfinite(first).all():
        raise ValueError(f"{problem.name}: the function returned NaN or infinity here; choose inputs within its domain")
    if not np.allclose(first, second, rtol=1e-12, atol=0):
        raise ValueError(f"{problem.name}: the function returned another value when called again; make what is random in it "
                         "an input, or seed it")  # fmt: skip
    problem.magnitude = min(1.0, max(problem.magnitude, float(np.max(np.abs(first), initial=0.0))))
    return first


def _forward(f: Callable[..., Any], merged: list[Any]) -> Any:
    before = [_contents(v) for v in merged]
    try:
        with np.errstate(all="ignore"):
            out = f(*merged)
    except (Exception, SystemExit) as error:
        if any(isinstance(v, Tensor) for v in merged) and isinstance(error, TypeError) and "array_ufunc" in str(error):
            raise TypeError(f"{_name(f)}: a NumPy function cannot take Tensors ({error}); use mv.ops, or give the function's "
                            "vjp=") from error  # fmt: skip
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{_name(f)}: the function raised {type(error).__name__}: {error}") from error
    if before != [_contents(v) for v in merged]:
        raise ValueError(f"{_name(f)}: the function changed its own input; work on a copy")
    return out


def _contents(value: Any) -> bytes | None:
    """What is in an array, to be compared; None for anything else."""
    value = value.data if isinstance(value, Tensor) else value
    return to_numpy(value).tobytes() if is_array(value) else None


def _name(f: Callable[..., Any]) -> str:
    return str(getattr(f, "name", None) or getattr(f, "__name__", type(f).__name__))


def _parameter_names(f: Callable[..., Any], count: int) -> list[str]:
    labels = [f"input {i}" for i in range(count)]
    try:
        signature = f.signature if isinstance(f, Op) else inspect.signature(f)
    except (TypeError, ValueError):
        return labels
    for i, p in enumerate(list(signature.parameters.values())[:count]):
        if p.kind is p.VAR_POSITIONAL:
            break
        labels[i] += f" ({p.name})"
    return labels

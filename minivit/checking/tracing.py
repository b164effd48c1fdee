"""The steps of a NumPy function: what was computed on the way, from what, and on which line.

A backward written by hand is usually right but for one step. To find it, the forward is run once on arrays that keep a
record (`trace`), and the local derivative of every step is measured by differences (`Step.jacobian`). `paths.py` then
asks which single mistake in walking back through these steps gives exactly the numbers that the backward gave.

Nothing here knows a rule: the record holds what was called, and calling it again at x + h tells the derivative.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minivit.autograd import Op
from minivit.autograd.tensor import mode
from minivit.checking.differences import STEP

Array = np.ndarray
_LARGEST = 5000  # elements whose derivatives are measured one by one, over all steps
_LARGEST_JACOBIAN = 400_000  # entries
_MOST_STEPS = 120  # the causes are tried for every step, some for every two


_NO_RECORD = ("fill", "item", "sort", "put", "tolist", "tobytes", "view", "resize", "partition")


class Untraceable(TypeError):
    """The function does something that leaves no record: it makes floats of arrays, calls compiled code, ..."""


@dataclass(eq=False)
class Step:
    """One thing computed.

    Attributes:
        value: the result.
        parents: the steps it was computed from, one per place where one was used.
        call: the computation again, from other values of the parents.
        name: of what was called; an input has its own.
        elementwise: whether each element of the result comes from one element of each parent.
        line, text: where in the source.
        index: its place in the order of computation.
    """

    value: Array
    parents: list[Step]
    call: Callable[..., Any]
    name: str
    elementwise: bool = False
    line: int = 0
    text: str = ""
    index: int = 0
    _jacobians: dict[int, Array] = field(default_factory=dict)

    def jacobian(self, slot: int) -> Array:
        """∂value / ∂parents[slot], (value.size, parent.size), by central differences with one Richardson step."""
        if slot not in self._jacobians:
            x = self.parents[slot].value
            h = STEP * np.maximum(1.0, np.abs(x))
            jacobian = np.zeros((self.value.size, x.size))
            with np.errstate(all="ignore"):
                if self.elementwise:  # all at once
                    columns = np.broadcast_to(np.arange(x.size).reshape(x.shape), self.value.shape).reshape(-1)
                    width = np.broadcast_to(h, self.value.shape).reshape(-1)
                    jacobian[np.arange(self.value.size), columns] = self._difference(slot, h, width)
                else:
                    for i in range(x.size):
                        only = np.zeros(x.shape)
                        only.flat[i] = h.flat[i]
                        jacobian[:, i] = self._difference(slot, only, h.flat[i])
            self._jacobians[slot] = jacobian
        return self._jacobians[slot]

    def _difference(self, slot: int, h: Array, width: Array) -> Array:
        values = [p.value for p in self.parents]

        def at(t: float) -> Array:
            moved = np.asarray(values[slot] + t * h)
            return np.asarray(self.call(*values[:slot], moved, *values[slot + 1 :]), dtype=np.float64).reshape(-1)

        far, near = (at(1) - at(-1)) / (2 * width), (at(0.5) - at(-0.5)) / width
        return (4 * near - far) / 3

    def __str__(self) -> str:
        return f"`{self.text}` (line {self.line})" if self.text else self.name


def trace(f: Callable[..., Any], arguments: list[Any], active: Iterable[int], names: Iterable[str]) -> list[Step] | None:
    """The steps of f(*arguments) that depend on the inputs at the positions `active`, in their order.

    The inputs come first, the result last. None if f leaves no record that leads to its own result.
    """
    steps: list[Step] = []
    watched = list(arguments)
    for i, name in zip(active, names):
        step = Step(np.array(arguments[i], dtype=np.float64), [], lambda: None, name, index=len(steps))
        steps.append(step)
        watched[i] = Recorder(step, steps)
    count = len(steps)
    try:
        with np.errstate(all="ignore"):
            expected = np.asarray(f(*arguments), dtype=np.float64)
            with _whole():
                result = f(*watched)
    except Exception:  # whatever f raises on arrays that are not quite arrays: then there is no record
        return None
    if not isinstance(result, Recorder) or result.step.index < count:
        return None
    last = result.step
    if last.value.shape != expected.shape or not np.allclose(last.value, expected, rtol=1e-9, atol=0, equal_nan=True):
        return None  # something was changed behind a view
    needed: set[int] = set()
    stack = [last]
    while stack:
        step = stack.pop()
        if step.index not in needed:
            needed.add(step.index)
            stack += step.parents
    kept = [s for s in steps if s.index in needed or s.index < count]
    work = sum(p.value.size for s in kept if not s.elementwise for p in s.parents)
    if len(kept) > _MOST_STEPS:
        return None
    largest = max(s.value.size * p.value.size for s in kept for p in (*s.parents, *kept[:count]))
    if work > _LARGEST or largest > _LARGEST_JACOBIAN:
        return None
    for k, step in enumerate(kept):
        step.index = k
    return kept


_patching = threading.RLock()  # one at a time, so that what is put back is NumPy's own


@contextmanager
def _whole() -> Iterator[None]:
    """Meanwhile a call of an operation or of `np.vectorize`, given a record, is one step: there is no looking inside."""

    def step(name: str, call: Callable[..., Any], args: Any, options: Any) -> Any:
        given = _inside([args, options])
        return given[0]._record(call, args, options, name) if given else call(*args, **options)

    def vectorized(self: Any, *args: Any, **options: Any) -> Any:
        return step(getattr(self.pyfunc, "__name__", "vectorize"), lambda *a, **k: before(self, *a, **k), args, options)

    with _patching, _intercepting(lambda op, args, options: step(op.name, _alone(op), args, options)):
        before = np.vectorize.__call__  # NumPy offers no other way in
        np.vectorize.__call__ = vectorized  # type: ignore[method-assign]
        try:
            yield
        finally:
            np.vectorize.__call__ = before  # type: ignore[method-assign]


def operations_called(f: Callable[[], Any]) -> list[tuple[Op, tuple[Any, ...], dict[str, Any]]]:
    """The calls of operations while f() runs, with their arguments."""
    calls = []

    def note(op: Op, args: Any, options: Any) -> Any:
        calls.append((op, args, options))
        return _alone(op)(*args, **options)

    with _intercepting(note):
        f()
    return calls


@contextmanager
def _intercepting(intercept: Callable[..., Any] | None) -> Iterator[None]:
    before, mode.intercept = mode.intercept, intercept
    try:
        yield
    finally:
        mode.intercept = before


def _alone(op: Op) -> Callable[..., Any]:
    """The operation as it is when nobody intercepts it."""

    def call(*args: Any, **options: Any) -> Any:
        with _intercepting(None):
            return op(*args, **options)

    return call


class Recorder(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for an array: NumPy's functions, operators and methods work on it, and each leaves a Step."""

    __array_priority__ = 1000

    def __init__(self, step: Step, steps: list[Step]) -> None:
        self.step, self.steps = step, steps

    # NumPy calls these two for its functions
    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        elementwise = method == "__call__" and ufunc.signature is None and ufunc.nout == 1
        result = self._record(getattr(ufunc, method), args, kwargs, ufunc.__name__, elementwise)
        if out is None:
            return result
        (target,) = out
        if method != "__call__" or not isinstance(target, Recorder) or not isinstance(result, Recorder):
            raise Untraceable("an array from outside was written into")
        return target._becomes(result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if "out" in kwargs:
            raise Untraceable("out= was given")
        return self._record(func, args, kwargs, func.__name__)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise Untraceable("an array was made of a record")

    def __float__(self) -> Any:
        raise Untraceable("a float was made of a record")

    __int__ = __bool__ = __complex__ = __index__ = __float__

    def __getattr__(self, name: str) -> Any:
        value = self.step.value
        if name.startswith("__") or not hasattr(value, name):
            raise AttributeError(name)
        if name == "T":
            return self._record(np.transpose, (self,), {}, "transpose")
        attribute = getattr(value, name)
        if name in ("shape", "ndim", "size", "dtype", "itemsize", "nbytes"):
            return attribute
        if not callable(attribute) or name in _NO_RECORD:
            raise Untraceable(f"x.{name}")

        def method(*args: Any, **kwargs: Any) -> Any:
            if "out" in kwargs:
                raise Untraceable("out= was given")
            return self._record(lambda x, *a, **k: getattr(x, name)(*a, **k), (self, *args), kwargs, name)

        return method

    def __getitem__(self, index: Any) -> Any:
        return self._record(lambda x, *parts: x[_fill(index, iter(parts))], (self, *_inside(index)), {}, "indexing")

    def __setitem__(self, index: Any, value: Any) -> None:
        if _inside(index):
            raise Untraceable("a record as an index")

        def assign(x: Array, v: Any) -> Array:
            x = x.copy()
            x[index] = v
            return x

        self._becomes(self._record(assign, (self, value), {}, "assignment"))

    def __len__(self) -> int:
        return len(self.step.value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def _becomes(self, other: Any) -> Recorder:
        self.step = other.step
        return self

    def _record(self, call: Callable[..., Any], args: Any, kwargs: Any, name: str, elementwise: bool = False) -> Any:
        given = _inside([args, kwargs])
        parents = [r.step for r in given]
        values = [p.value for p in parents]
        args, kwargs = _frozen(args), _frozen(kwargs)

        def again(*arrays: Array) -> Any:
            parts = iter(arrays)
            return call(*_fill(args, parts), **_fill(kwargs, parts))

        value = again(*values)
        if isinstance(value, tuple | list):
            return type(value)(self._step(v, parents, lambda *a, k=k: again(*a)[k], name) for k, v in enumerate(value))
        return self._step(value, parents, again, name, elementwise)

    def _step(self, value: Any, parents: list[Step], call: Callable[..., Any], name: str, elementwise: bool = False) -> Any:
        if not isinstance(value, np.ndarray | np.generic) or np.asarray(value).dtype.kind != "f":
            return value  # a shape, an index, a mask: constants
        line, text = _place()
        step = Step(np.array(value, dtype=np.float64), parents, call, name, elementwise, line, text, len(self.steps))
        self.steps.append(step)
        return Recorder(step, self.steps)


def _inside(value: Any) -> list[Recorder]:
    """The records in a nest of tuples, lists and dicts, in order."""
    if isinstance(value, Recorder):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [r for item in value for r in _inside(item)] if isinstance(value, tuple | list) else []


def _frozen(value: Any) -> Any:
    """The same nest; arrays copied, since the function may change them later."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    return type(value)(_frozen(v) for v in value) if type(value) in (tuple, list) else value


def _fill(value: Any, parts: Iterator[Array]) -> Any:
    """The same nest with arrays in the place of the records."""
    if isinstance(value, Recorder):
        return next(parts)
    if isinstance(value, dict):
        return {k: _fill(v, parts) for k, v in value.items()}
    return type(value)(_fill(v, parts) for v in value) if type(value) in (tuple, list) else value


_CALLERS = "minivit.checking.", "minivit.autograd.", "minivit.exercises.checks"  # who calls a function that is checked


def _place() -> tuple[int, str]:
    """The line of the function's source that is being executed."""
    frame = sys._getframe(2)
    while frame is not None and (frame.f_code.co_filename == __file__
                                 or frame.f_globals.get("__name__", "").partition(".")[0] == "numpy"):  # fmt: skip
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or frame.f_globals.get("__name__", "").startswith(_CALLERS):  # the function itself is NumPy's
        return 0, ""
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return frame.f_lineno, text if len(text) <= 60 else text[:57] + "..."

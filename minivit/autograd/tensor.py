"""A Tensor: an array that remembers how it was computed.

    x = Tensor(np.ones((2, 3)), requires_grad=True)
    y = (x * x).sum()
    y.backward()            # x.grad is now 2 x

A Tensor made by hand is a *leaf*. One that an operation returns has a `node`, the record of that operation
(`operation.py`, `engine.py`), and through it the whole graph back to the leaves. The operators (`+`, `@`, `[...]`, ...)
and methods (`.sum()`, `.reshape()`, ...) are the operations of `primitives.py`, which attaches them at its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minivit.backend import array_module, device_of, is_array, to_device, to_numpy

if TYPE_CHECKING:
    from minivit.autograd.engine import Node


class _Mode(threading.local):
    """What is ambient, one per thread: whether operations are recorded, whether results are searched for NaN, ..."""

    recording = True
    anomaly = False
    drawn: list[tuple[int, int]] | None = None  # (layer, step) of each draw, where a checkpoint notes them
    replaying: Iterator[tuple[int, int]] | None = None  # the same, while a checkpointed function is computed again
    retaining = False  # whether the walk back that is under way leaves the graph as it is
    autocast: Callable[..., Any] | None = None  # is called as (op, args), and gives the inputs in the dtypes to compute in
    intercept: Callable[..., Any] | None = None  # is called as (op, args, options) in the place of every operation
    depth = 0  # how many modules' calls are under way
    outermost: Any = None  # the first of them
    call: Any = None  # stands for its call, if that module is in training


mode = _Mode()

DRAWS_DIFFER = ("backward through checkpoint: its function did not draw random numbers as often as in the forward pass; call "
                "backward before switching a module to train() or eval()")


@contextmanager
def no_grad() -> Iterator[None]:
    """Within this block, and in this thread only, operations are not recorded: nothing is kept for a backward pass."""
    before, mode.recording = mode.recording, False
    try:
        yield
    finally:
        mode.recording = before


@contextmanager
def recording() -> Iterator[None]:
    """The opposite of `no_grad`: within a walk back, what is computed again must be recorded wherever it is called."""
    before, mode.recording = mode.recording, True
    try:
        yield
    finally:
        mode.recording = before


@contextmanager
def casting(how: Callable[..., Any] | None) -> Iterator[None]:
    """Within this block the inputs of operations are cast by `how` (see `autocast.py`); None leaves them as they are."""
    before, mode.autocast = mode.autocast, how
    try:
        yield
    finally:
        mode.autocast = before


class Tensor:
    """An array with a derivative.

    Args:
        data: a NumPy or CuPy array (not copied: later changes of it may or may not be seen), a number or nested lists.
        requires_grad: whether derivatives with respect to this Tensor will be asked for; floating-point data only.

    Attributes:
        data: the array, on the device it came on.
        grad: the sum of what `backward` has computed so far, a Tensor of the same shape; None before.
        requires_grad: True for a leaf that asked for it and for everything computed from one.
        node: the operation that made this Tensor; None for a leaf.
        version: how often `assign_` has replaced the data; backward compares it with what the forward pass saw.
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad", "version")
    __array_ufunc__ = None  # ndarray * tensor goes to Tensor.__rmul__; np.exp(tensor) is an error, not a silent detach
    __array_priority__ = 1000  # the same for CuPy

    def __init__(self, data: Any, requires_grad: bool = False, *, node: Node | None = None) -> None:
        if isinstance(data, Tensor):
            raise TypeError("data: got a Tensor; use t.detach() for a Tensor that shares its array, or t itself")
        if not is_array(data):
            data = np.asarray(data)
        if data.dtype.kind not in "fiubc":
            raise TypeError(f"data: expected an array of numbers, got one of dtype {data.dtype}")
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"requires_grad: derivatives need floating-point data, got {data.dtype}; use .astype('float32')")
        self.data = data
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.node = node
        self.version = 0

    # ---- what it is ----

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def device(self) -> str:
        """`"cpu"` or `"cuda"`."""
        return device_of(self.data)

    @property
    def is_leaf(self) -> bool:
        return self.node is None

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        values = np.array2string(to_numpy(self.data), separator=", ", threshold=20, precision=4, prefix="Tensor(")
        made = f", from {self.node.op.name}" if self.node is not None else ""
        where = ", device='cuda'" if self.device == "cuda" else ""
        return f"Tensor({values}, shape={self.shape}, {self.dtype}{where}{', requires_grad' * self.requires_grad}{made})"

    # ---- its values ----

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array: a read-only view on the CPU, a copy from a GPU."""
        if device_of(self.data) == "cuda":
            return to_numpy(self.data)
        view = self.data.view()
        view.flags.writeable = False
        return view

    def item(self) -> float:
        """The one value of a Tensor of one element, as a Python number."""
        return self.data.item()

    def __format__(self, spec: str) -> str:
        """f"{loss:.3f}": the one value; without a format, as it prints."""
        return format(self.item(), spec) if spec else repr(self)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def detach(self) -> Tensor:
        """A leaf that shares this array and requires no gradient."""
        return Tensor(self.data)

    def to(self, device: str | None = None, dtype: Any = None) -> Tensor:
        """This Tensor on `device` (`"cpu"`, `"cuda"`) and as `dtype`; a leaf stays a leaf, with its `requires_grad`.

        Raises:
            RuntimeError: if there is no usable GPU, or if the Tensor is an intermediate result that requires gradients
                (move its inputs instead; `mv.ops.astype` changes the dtype within a graph).
        """
        if self.node is not None:
            raise RuntimeError("to: this Tensor is part of a graph; move the inputs it was computed from, or detach() it")
        data = self.data if device is None else to_device(self.data, device)
        return Tensor(data if dtype is None else data.astype(dtype, copy=False), self.requires_grad)

    def assign_(self, values: Any) -> Tensor:
        """Replaces the values of a leaf (not copied, cast to its dtype). The only way to change a Tensor.

        A backward pass through operations that saw the old values will refuse, rather than mix old and new.
        """
        if self.node is not None:
            raise RuntimeError(f"assign_: this Tensor is the result of {self.node.op.name}; only leaves can be assigned to")
        values = values.data if isinstance(values, Tensor) else values
        values = array_module(self.data).asarray(values, dtype=self.data.dtype)
        if values.shape != self.data.shape:
            raise ValueError(f"assign_: expected values of shape {self.data.shape}, got {values.shape}")
        self.data = values
        self.version += 1
        return self

    # ---- its derivative ----

    def backward(self, gy: Any = None, retain_graph: bool = False) -> None:
        """Adds the derivative of this scalar to the `grad` of every leaf it was computed from.

        Args:
            gy: the cotangent, an array of this shape; needed when this is not a scalar.
            retain_graph: keep what the forward pass saved, for a second backward pass.
        """
        from minivit.autograd.engine import backward

        backward(self, gy, retain_graph)

    # ---- what it refuses ----

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("a Tensor is not converted to an array silently; use tensor.numpy()")

    def __setitem__(self, *_: Any) -> None:
        raise TypeError(
            "a Tensor's items cannot be assigned to: the graph would record values that are no longer there; "
            "use mv.ops.where(mask, new, old), mv.ops.concatenate, or t.assign_(array) for a whole leaf"
        )

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("a Tensor with shape () has nothing to iterate over")
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__

    if TYPE_CHECKING:  # attached by primitives.py

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __pow__(self, exponent: float) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...
        def swapaxes(self, axis1: int, axis2: int) -> Tensor: ...
        def astype(self, dtype: Any) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...

"""What a module is: an object with parameters, submodules and a `forward`.

    class Net(mv.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = mv.nn.Linear(64, 32)
            self.head = mv.nn.Linear(32, 10, seed=1)

        def forward(self, x):
            return self.head(mv.ops.relu(self.hidden(x)))

Assigning a Parameter, a module, or a list or dict of them as an attribute is all the registration there is. An array
that is assigned as an attribute is a constant: it moves with the module, but is not trained and not saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minivit.arguments import nearest
from minivit.autograd import Tensor
from minivit.autograd.tensor import DRAWS_DIFFER, mode
from minivit.backend import is_array, to_device, to_numpy


class Parameter(Tensor):
    """A leaf that is trained. Unlike a Tensor it copies its data, so that training never writes to somebody's array;
    with `copy=False` an array that nobody else has is taken as it is."""

    __slots__ = ()

    def __init__(self, data: Any, copy: bool = True) -> None:
        data = data.data if isinstance(data, Tensor) else data
        super().__init__(data.copy() if copy and is_array(data) else data, requires_grad=True)


class Module:
    """The base of everything with parameters."""

    training = True
    unnumbered = 0  # to how many random layers within it a number was given, see `RandomModule`

    def __init__(self) -> None:
        pass

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.depth == 0:
            mode.outermost = self
            if self.training:
                mode.call = object()  # a new step of training: every random layer draws anew
        mode.depth += 1
        try:
            return self.forward(*args, **kwargs)
        finally:
            mode.depth -= 1
            if mode.depth == 0:
                mode.call = mode.outermost = None

    # ---- what it contains ----

    def _children(self) -> Iterator[tuple[str, Any]]:
        """Its attributes by name; of a list, tuple or dict the items: `blocks.0`, `blocks.1`, ..."""

        def items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
            if isinstance(value, list | tuple):
                value = dict(enumerate(value))
            if isinstance(value, dict):
                for key, item in value.items():
                    yield from items(f"{name}.{key}", item)
            else:
                yield name, value

        for name, value in vars(self).items():
            yield from items(name, value)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module, under the name `prefix`, and all modules within it, each once."""
        seen: set[int] = set()

        def walk(module: Module, name: str) -> Iterator[tuple[str, Module]]:
            if id(module) in seen:
                return
            seen.add(id(module))
            yield name, module
            for child_name, child in module._children():
                if isinstance(child, Module):
                    yield from walk(child, f"{name}.{child_name}" if name else child_name)

        yield from walk(self, prefix)

    def modules(self) -> Iterator[Module]:
        """The same without names."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names, in order of definition, a shared one once."""
        seen: set[int] = set()
        names: set[str] = set()
        for prefix, module in self.named_modules():
            for name, value in module._children():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    full = f"{prefix}.{name}" if prefix else name
                    if full in names:
                        raise ValueError(f"two parameters are named {full!r}; rename an attribute, or a key of a dict")
                    names.add(full)
                    yield full, value

    def parameters(self) -> Iterator[Parameter]:
        return (p for _, p in self.named_parameters())

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.size for p in self.parameters())

    # ---- modes, devices, gradients ----

    def train(self, training: bool = True) -> Module:
        """Switches dropout and drop path on; returns the module."""
        for module in self.modules():
            module.training = training
        return self

    def eval(self) -> Module:
        """Switches dropout and drop path off; returns the module."""
        return self.train(False)

    def to(self, device: str | None = None, dtype: Any = None) -> Module:
        """Moves parameters and constants to `device` (`"cpu"`, `"cuda"`), casts floats to `dtype` ("float32", "float64");
        returns the module. An optimizer made before keeps updating these same parameters.
        """
        if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype: expected float32 or float64, got {np.dtype(dtype)}")

        def moved(array: Any) -> Any:
            array = array if device is None else to_device(array, device)
            return array if dtype is None or array.dtype.kind != "f" else array.astype(dtype, copy=False)

        for p in self.parameters():
            p.grad = None if p.grad is None else Tensor(moved(p.grad.data))
            if (data := moved(p.data)) is not p.data:
                p.data = data
                p.version += 1
        for module in self.modules():
            for name, value in list(vars(module).items()):
                if is_array(value):
                    setattr(module, name, moved(value))
        return self

    @property
    def dtype(self) -> Any:
        """The dtype of the parameters; float32 where there are none."""
        return next((p.dtype for p in self.parameters()), np.dtype(np.float32))

    @property
    def device(self) -> str:
        """Where the parameters are; the CPU where there are none."""
        return next((p.device for p in self.parameters()), "cpu")

    def zero_grad(self) -> None:
        for p in self.parameters():
            p.grad = None

    # ---- its state ----

    def state_dict(self) -> dict[str, np.ndarray]:
        """name -> values of every parameter, as NumPy arrays of their own."""
        return {name: np.array(to_numpy(p.data)) for name, p in self.named_parameters()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Sets every parameter. Nothing is changed if any array is missing, left over, of another shape or not finite.

        Raises:
            ValueError: naming all arrays that do not fit.
        """
        own = dict(self.named_parameters())
        problems = []
        for name in own.keys() - state.keys():
            near = nearest(name, state.keys() - own.keys())
            problems.append(f"{name} {own[name].shape} is missing" + (f" (is it {near!r}?)" if near else ""))
        problems += [f"{name} {np.shape(state[name])} is not a parameter" for name in state.keys() - own.keys()]
        values = {}
        for name in own.keys() & state.keys():
            value = np.asarray(state[name])
            if value.shape != own[name].shape:
                problems.append(f"{name} has shape {value.shape}, expected {own[name].shape}")
            elif value.dtype.kind not in "fiu":
                problems.append(f"{name} has dtype {value.dtype}, expected numbers")
            else:
                with np.errstate(over="ignore"):
                    values[name] = np.array(value, own[name].dtype, order="C")  # a copy, as the kernels want it
                if not np.isfinite(values[name]).all():
                    problems.append(f"{name} has values that are not finite in {own[name].dtype}")
        if problems:
            shown = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise ValueError(f"state_dict does not fit this {type(self).__name__}: {shown}")
        for name, p in own.items():
            p.assign_(to_device(values[name], p.device))

    # ---- how it prints ----

    def describe(self) -> str:
        """What a line of the printed tree says of this module itself."""
        return ""

    def __repr__(self) -> str:
        lines, seen = [], set()

        def walk(module: Module, name: str, depth: int) -> None:
            seen.add(id(module))
            count = module.num_parameters()
            line = f"{name}{type(module).__name__}({module.describe()})"
            lines.append("  " * depth + line + (f"  {count:,} parameters" if count else ""))
            for child_name, child in module._children():
                if isinstance(child, Parameter):
                    lines.append(f"{'  ' * (depth + 1)}{child_name} {tuple(child.shape)}")
                elif isinstance(child, Module) and id(child) not in seen:
                    walk(child, f"{child_name}: ", depth + 1)

        walk(self, "", 0)
        return "\n".join(lines)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within this block a module is in evaluation mode; afterwards each submodule is in its own again. Any other callable
    has no modes."""
    before = [(module, module.training) for module in model.modules()] if isinstance(model, Module) else []
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


_APART = 1 << 20  # of numbers given to layers without: away from those that modules give to their parts


class RandomModule(Module):
    """A module that draws random numbers: a function of (seed, purpose, layer, step, index), so that a step can be
    replayed, resumed and moved to another device without changing a bit.

    Its steps are the calls in which it draws: those of the outermost module, where that is in training. Used twice within
    one of them, it draws the same twice; where the outermost module is in evaluation, it draws what it drew last.

    Layers of one seed must differ in their `layer`, or they draw the same. Those without are numbered in the order of
    their definition where a training loop begins (`set_step`); one that draws before that gets the next number that no
    layer of the outermost module has. In a model that is a plain function nobody numbers them: give each its `layer`."""

    call: Any = None  # the last one that was counted

    def __init__(self, seed: int, layer: int | None) -> None:
        super().__init__()
        self.seed, self.layer, self.step = seed, layer, 0
        self.numbered = layer is not None  # by whoever made it

    def place(self) -> tuple[int, int]:
        """(layer, step): where its numbers are drawn. When a checkpoint computes again, those of the first time."""
        if mode.replaying:
            place = next(mode.replaying, None)
            if place is None:
                raise RuntimeError(DRAWS_DIFFER)
        else:
            if mode.call is not None and self.call is not mode.call:
                self.step, self.call = self.step + 1, mode.call
            if self.layer is None:
                self.layer = self._next_number(mode.outermost or self)
            place = self.layer, self.step
        if mode.drawn is not None:
            mode.drawn.append(place)
        return place

    def _next_number(self, outermost: Module) -> int:
        taken = {module.layer for module in outermost.modules() if isinstance(module, RandomModule)}
        while True:
            outermost.unnumbered += 1
            if (number := _APART * outermost.unnumbered) not in taken:
                return number


def set_step(model: Any, step: int) -> None:
    """Tells every random layer of a model which step of training comes next, and its number if it was made without (the
    loop does, so that it can resume: the numbers are the same whatever was called before)."""
    drawing = [m for m in model.modules() if isinstance(m, RandomModule)] if isinstance(model, Module) else []
    for module in drawing:
        module.step = step
    for i, module in enumerate((module for module in drawing if not module.numbered), 1):
        module.layer = _APART * i

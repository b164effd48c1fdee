"""`mv.gradcheck` of a whole model: are its gradients right, and if not, in which layer?

    mv.gradcheck(model, images)          # by the images and by every parameter

A model has too many parameters to look at one by one. A random direction through all inputs and all parameters at once
needs four calls, and a fault in any of them shows in it (`_Search.look`). Then the search goes down by name (`places`):
every part of a module that disagrees is called by itself, on what it got in the model, with a random cotangent. The
deepest module that is wrong while its parts are right has the fault. There the usual check (`check.py`) finds the
parameter, the element and the cause.

The room of modules comes later in the reading order, so a module is known here by what it can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np

from minivit.autograd import Tensor, no_grad
from minivit.autograd.primitives import concatenate, identity, reshape
from minivit.backend import device_of, is_array, to_device, to_numpy
from minivit.checking.check import _orders
from minivit.checking.differences import Refined
from minivit.checking.elsewhere import cotangent, moved
from minivit.checking.judging import Slope, slope_through_all
from minivit.checking.problem import Arguments, Problem, Recorded, _forward, _parameter_names, check_output
from minivit.checking.report import Finding, GradcheckError, Report

Array = np.ndarray
_DIRECTIONS = 3
_CALLS = 4  # of one module within one call of its parent that are looked at
_CLOSELY = 3  # places whose parameters and elements are looked at; others are named only
_WORST = 4  # tensors of one layer whose elements are looked at; of a module with parts, half as many


class Module(Protocol):
    """What is used of a module (`nn.Module` offers it)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def forward(self, *args: Any, **kwargs: Any) -> Any: ...
    def named_modules(self) -> Iterator[tuple[str, Any]]: ...
    def named_parameters(self) -> Iterator[tuple[str, Any]]: ...


def is_module(f: Any) -> bool:
    """Whether f is a module whose parameters are Tensors."""
    methods = ("__call__", "forward", "named_modules", "named_parameters")
    if isinstance(f, type) or not all(callable(getattr(f, name, None)) for name in methods):
        return False
    return all(isinstance(p, Tensor) for _, p in f.named_parameters())


def check_module(model: Any, inputs: Sequence[Any], order: int, seed: int, rtol: float, max_elements: int) -> Report:
    """`gradcheck(model, *inputs)` of a Module; what it takes, returns and raises is said there."""
    with _borrowed(model, seed) as weights:
        root = _Call.of(model, inputs, weights)
        total = sum(x.size for x in root.arrays)
        if order > 1 and total > max_elements:
            raise ValueError(f"order: {order} takes small modules only: {root.title} has {total:,} elements in its inputs and "
                             f"parameters, more than max_elements={max_elements:,}. Check order 1, or one layer, or the same "
                             "model with a smaller width and depth")  # fmt: skip
        _check_answers(root)
        if total <= max_elements and not root.has_parts():  # one layer: every element of it
            return _one_layer(root, order, seed, rtol, max_elements)
        report = None
        for k in range(1, order + 1):
            search = _Search(k, seed, rtol)
            look = search.look(root)
            assert look is not None
            places = search.places(root, look)
            if places:
                raise _failure(root, places, search, max_elements)
            report = _accepted(root, look, search)
            if report.verdict != "right":
                break
        assert report is not None
        return report


# ---- the model, for as long as it is checked ----


class _Weights:
    """The parameters of a model in float64, at the point of the check."""

    def __init__(self, model: Module, seed: int) -> None:
        rng = np.random.default_rng([seed, 7])
        self.values: dict[int, Array] = {}
        self.tensors = [p for _, p in model.named_parameters()]
        for p in self.tensors:
            values = np.array(to_numpy(p.data), dtype=np.float64)
            if values.size and p.requires_grad and (values == values.flat[0]).all():
                # fresh biases are 0 and fresh norms are 1: points at which a wrong gradient may look right
                # and a layer scale of 1e-6 hides whatever is behind it
                size = abs(values.flat[0])
                values = values + 0.1 * (size if size >= 0.01 else 1.0) * cotangent(rng, values.shape)
            self.values[id(p)] = values
        self.active = {id(p) for p in self.tensors if p.requires_grad}

    def reset(self) -> None:
        for p in self.tensors:
            p.data, p.node = to_device(self.values[id(p)], device_of(p.data)), None
            p.requires_grad = id(p) in self.active


@contextmanager
def _borrowed(model: Module, seed: int) -> Iterator[_Weights]:
    """Within this block the model computes in float64, on copies; after it every attribute and parameter is as before.

    It is the model itself, since a function that somebody set as an attribute may know this model and no copy of it.
    """
    lent: dict[int, tuple[Any, Any]] = {}
    weights = _Weights(model, seed)
    slots = ("data", "grad", "node", "requires_grad", "version")
    parameters = [(p, [getattr(p, slot) for slot in slots]) for p in weights.tensors]
    try:
        for _, module in list(model.named_modules()):
            _lend(vars(module), lent)
        weights.reset()
        yield weights
    finally:
        _give_back(lent)
        for p, values in parameters:
            for slot, value in zip(slots, values):
                setattr(p, slot, value)


def _lend(state: dict[Any, Any] | list[Any], lent: dict[int, tuple[Any, Any]]) -> None:
    """Puts copies in the place of a module's arrays, float64 ones, also in lists and dicts; `lent` remembers what was there."""
    if id(state) in lent:
        return
    lent[id(state)] = state, copy(state)
    for key, value in list(state.items() if isinstance(state, dict) else enumerate(state)):
        if is_array(value):
            state[key] = value.astype(np.float64) if value.dtype.kind == "f" else value.copy()
        elif isinstance(value, dict | list):
            _lend(value, lent)


def _give_back(lent: dict[int, tuple[Any, Any]]) -> None:
    for state, before in lent.values():
        state.clear()
        state.update(before) if isinstance(state, dict) else state.extend(before)


@dataclass
class _Call:
    """One call of a module, as a function of the Tensors among its arguments and of its parameters.

    Attributes:
        name: of the module within the model; empty for the model itself.
        args, kwargs: as it was called; Tensors of floating-point numbers in them are differentiated, also in lists,
            tuples and dicts.
        arrays, names, devices: what is differentiated, inputs first.
    """

    name: str
    module: Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: _Weights
    arrays: list[Array] = field(init=False)
    names: list[str] = field(init=False)
    devices: list[str] = field(init=False)

    def __post_init__(self) -> None:
        labels = _parameter_names(self.module.forward, len(self.args))
        inputs = [pair for label, value in zip(labels, self.args) for pair in _tensors(value, label)]
        inputs += [pair for key, value in self.kwargs.items() for pair in _tensors(value, f"input {key}")]
        self.parameters = [(name, p) for name, p in self.module.named_parameters() if id(p) in self.weights.active]
        self.names = [name for name, _ in (*inputs, *self.parameters)]
        self.inputs = [t for _, t in inputs]
        self.arrays = [np.array(to_numpy(t.data), dtype=np.float64) for t in self.inputs]
        self.arrays += [self.weights.values[id(p)] for _, p in self.parameters]
        self.devices = [device_of(t.data) for t in (*self.inputs, *(p for _, p in self.parameters))]

    @classmethod
    def of(cls, model: Module, given: Sequence[Any], weights: _Weights) -> _Call:
        """The call that the user asks about."""
        arguments = Arguments(model.forward, [*given, np.zeros(1)])  # with one that is certainly differentiable
        values = arguments.merge([Tensor(arguments.values[i].astype("float64")) for i in arguments.active])
        call = cls("", model, tuple(values[:-1]), {}, weights)
        if not call.arrays:
            raise TypeError(f"inputs: nothing to differentiate by: {call.title} has no parameters, and there are no "
                            "floating-point arrays among the inputs")  # fmt: skip
        return call

    @property
    def title(self) -> str:
        return type(self.module).__name__

    @property
    def where(self) -> str:
        itself = " itself, between its parts" if self.has_parts() else ""
        return f"{self.name} ({self.title}){itself}" if self.name else f"{self.title}{itself}"

    def full_name(self, name: str) -> str:
        """`blocks.0.mlp.fc1.weight`, or `input 0 (x) of blocks.0.mlp.fc1`."""
        if not self.name:
            return name
        return f"{name} of {self.name}" if name in self.names[: len(self.inputs)] else f"{self.name}.{name}"

    def has_parts(self) -> bool:
        return len(list(self.module.named_modules())) > 1

    def function(self, *tensors: Tensor) -> Tensor:
        """The module at other inputs and parameters; a result of several Tensors is one flat one."""
        values = iter(tensors)
        inputs = [next(values) for _ in self.inputs]
        for (_, p), t in zip(self.parameters, values):
            # the parameter becomes another name of t, in place: whoever holds it sees t, and gradients flow to t
            alias = identity(t) if t.requires_grad else t
            p.data, p.node, p.requires_grad = alias.data, alias.node, t.requires_grad

        def call(*leaves: Any) -> Any:
            rest = iter(leaves)
            args = [_with_tensors(a, rest) for a in self.args]
            return self.module(*args, **{key: _with_tensors(a, rest) for key, a in self.kwargs.items()})

        call.__name__ = self.title
        out = _forward(call, inputs)
        outputs = [_as_tensor(t) for t in _outputs(out)]
        if not outputs:
            check_output(out, self.title)
        return outputs[0] if len(outputs) == 1 else concatenate(*(reshape(t, shape=(-1,)) for t in outputs), axis=0)

    def problem(self, active: Sequence[int] | None = None) -> Recorded:
        """As something to check, by all its arrays or by those at some positions."""
        self.weights.reset()
        positions = range(len(self.arrays)) if active is None else active

        def function(*tensors: Tensor) -> Tensor:
            every = [Tensor(to_device(x, d)) for x, d in zip(self.arrays, self.devices)]
            for i, t in zip(positions, tensors):
                every[i] = t
            return self.function(*every)

        constants = [to_numpy(a) for a in (*self.args, *self.kwargs.values()) if is_array(a) and a.dtype.kind in "iu"]
        return Recorded(function, self.title, [self.arrays[i] for i in positions], [self.names[i] for i in positions],
                        constants, [self.devices[i] for i in positions], record=lambda arrays: None)  # fmt: skip

    def calls_within(self) -> list[_Call]:
        """What this call calls: the outermost calls of modules within this one, with copies of what they were given."""
        self.weights.reset()
        found: list[_Call] = []
        busy: list[str] = []
        wrapped: list[tuple[dict[str, Any], Any]] = []

        def record(name: str, module: Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def recorded(*args: Any, **kwargs: Any) -> Any:
                if not busy and sum(given[1] is module for given in calls) < _CALLS:
                    calls.append((name, module, *(_copied(a) for a in (args, kwargs))))
                busy.append(name)
                try:
                    return forward(*args, **kwargs)
                finally:
                    busy.pop()

            return recorded

        calls: list[tuple[str, Module, Any, Any]] = []
        for name, module in self.module.named_modules():
            if module is not self.module:
                wrapped.append((vars(module), vars(module).get("forward")))
                full = f"{self.name}.{name}" if self.name else name
                vars(module)["forward"] = record(full, module, module.forward)
        try:
            with no_grad():
                self.module(*_copied(self.args), **_copied(self.kwargs))
        except Exception:  # cannot be called by itself: then nothing is known of its parts
            return []
        finally:
            for own, before in wrapped:
                own.pop("forward")
                if before is not None:
                    own["forward"] = before
        for name, module, args, kwargs in calls:
            call = _Call(name, module, args, kwargs, self.weights)
            if call.arrays:
                found.append(call)
        return found

    def shorter(self, axis: int) -> _Call | None:
        """The same call with 3 of the entries of all inputs along an axis: fewer images, fewer tokens. None if too few.

        Not 2 of them: a factor 2 would be taken for the length of that axis.
        """
        lengths = [t.shape[axis] for t in self.inputs if t.ndim > axis + 1]
        if not lengths or lengths[0] <= 3:
            return None

        def cut(t: Tensor) -> Tensor:
            if t.ndim <= axis + 1 or t.shape[axis] != lengths[0]:
                return t
            return Tensor(t.data[(slice(None),) * axis + (slice(3),)].copy())

        rest = iter([cut(t) for t in self.inputs])
        args = tuple(_with_tensors(a, rest) for a in self.args)
        return _Call(self.name, self.module, args, {k: _with_tensors(a, rest) for k, a in self.kwargs.items()}, self.weights)


def _check_answers(root: _Call) -> None:
    """The model answers the same twice, with finite numbers."""
    problem = root.problem()
    first, second = problem.value(*problem.inputs), problem.value(*problem.inputs)
    if not np.isfinite(first).all():
        raise ValueError(f"{root.title}: the model returned NaN or infinity here; choose inputs within its domain")
    if not _same(first, second):
        raise ValueError(f"{root.title}: the model answered differently when called again; call model.eval() to switch dropout "
                         "and drop path off, or fix the seed of what is random in it")  # fmt: skip


def _same(first: Array, second: Array) -> bool:
    if first.shape != second.shape:
        return False
    return bool(np.max(np.abs(first - second), initial=0.0) <= 1e-12 * np.max(np.abs(first), initial=0.0))


# ---- where ----


@dataclass
class _Look:
    """What one look at a call showed.

    Attributes:
        suspect: whether something seems wrong.
        faults: of form.
        error: the largest difference along a direction, relative to what the gradient could contribute.
        closer: looks once more, closely, at the direction that disagrees: ("wrong", "kink", "unsure" or "right", slopes).
    """

    suspect: bool
    faults: list[Finding] = field(default_factory=list)
    error: float = 0.0
    closer: Callable[[], tuple[str, Refined, float]] | None = None


class _Search:
    """The search for the modules that are wrong, at one order of derivative."""

    def __init__(self, order: int, seed: int, rtol: float) -> None:
        self.order, self.seed, self.rtol = order, seed, rtol

    def places(self, call: _Call, look: _Look | None) -> list[_Call]:
        """The deepest wrong calls. A call that cannot be looked at by itself is looked into all the same."""
        if look is not None and not look.suspect:
            return []
        found: list[_Call] = []
        for part in call.calls_within():
            if not any(part.module is place.module for place in found):
                found += self.places(part, self._look_at_part(part))
        if found or look is None:
            return found
        return [call] if look.closer is None or look.closer()[0] == "wrong" else []

    def _look_at_part(self, part: _Call) -> _Look | None:
        try:
            problem = part.problem()
            if not _same(*(problem.value(*problem.inputs) for _ in range(2))):
                return None
            return self.look(part)
        except Exception:  # needs what only its parent prepares, or returns no Tensor: nothing is known of it
            return None

    def look(self, call: _Call, active: Sequence[int] | None = None, count: int = _DIRECTIONS) -> _Look:
        """Compares along random directions through everything at once."""
        problem: Problem = call.problem(active)
        rng = np.random.default_rng([self.seed, self.order])
        x = problem.inputs
        y = problem.value(*x)
        g = cotangent(rng, y.shape)
        for _ in range(1, self.order):
            assert isinstance(problem, Recorded)
            problem = problem.next_order(g)
            x = problem.inputs
            try:
                y = problem.value(*x)
            except Exception as error:
                return _Look(True, [Finding("raised", str(error), {})])
            g = cotangent(rng, y.shape)
        form = problem.form(x, g)
        if form.findings:
            return _Look(True, form.findings)
        try:
            analytic = problem.gradient(x, g)
        except Exception as error:
            return _Look(True, [Finding("raised", str(error), {})])
        if form.reused():
            return _Look(True, form.reused())
        worst, closer = 0.0, None
        for _ in range(count - 1):
            slope = slope_through_all(problem, y, g, analytic, rng, self.rtol)
            if not slope.agrees():
                closer = cache(slope.closer)
                break
            worst = max(worst, slope.error)
        beside = self._slope_beside(problem, g, rng)
        if beside is None or beside.agrees():
            return _Look(closer is not None, error=worst, closer=closer)
        there = cache(beside.closer)
        if closer is None:
            return _Look(True, closer=there) if there()[0] == "wrong" else _Look(False, error=worst)
        here = closer  # neither agrees, so a kink is hardly the reason; to look closely costs more, and can wait
        return _Look(True, closer=lambda: there() if there()[0] == "wrong" else here())

    def _slope_beside(self, problem: Problem, g: Array, rng: np.random.Generator) -> Slope | None:
        """The last direction goes from inputs and parameters a little beside these, where what was right by chance is not."""
        given = problem.inputs
        problem.inputs = moved(given, rng)
        try:
            y = problem.value(*problem.inputs)
            if y.shape != g.shape or not np.isfinite(y).all():
                return None
            return slope_through_all(problem, y, g, problem.gradient(problem.inputs, g), rng, self.rtol)
        except Exception:  # the model does not take those
            return None
        finally:
            problem.inputs = given


# ---- what is wrong there, and the report ----


def _one_layer(root: _Call, order: int, seed: int, rtol: float, max_elements: int) -> Report:
    try:
        return _orders(root.problem(), order, seed, rtol, max_elements)
    except GradcheckError as error:
        raise GradcheckError(_placed(error.report, root, root)) from error.__cause__


def _accepted(root: _Call, look: _Look, search: _Search) -> Report:
    report = Report("right", [], search.order, root.title, search.seed)
    total = sum(x.size for x in root.arrays)
    report.counts = {"checked": 0, "total": total, "wrong": 0, "directions": _DIRECTIONS}
    report.passed = ["number, shape and dtype", "inputs unchanged", "the same twice"]
    if look.closer is None:
        report.opinions = [f"analytic and numeric slopes agree to {look.error:.1e}, relative"]
        return report
    verdict, r, noise = look.closer()
    if verdict == "right":
        report.opinions = [f"analytic and numeric slopes agree to the error bar, relative {r.bar / (abs(r.value) or 1.0):.1e}"]
        return report
    report.verdict = "inconclusive"
    along = "along a random direction through all inputs and parameters"
    evidence = {"left": r.left, "right": r.right, "value": r.value, "bar": r.bar, "noise": noise}
    if verdict == "kink":
        finding = Finding("kink", f"{along} the model has the slope {r.left:.6g} on one side and {r.right:.6g} on the other: "
                          "no derivative to compare with; choose inputs away from kinks", evidence)  # fmt: skip
    elif noise > 1e-10:
        finding = Finding("float32_noise", f"the model's values carry a relative noise of {noise:.1e}; is something in it "
                          "cast to float32?", evidence)  # fmt: skip
    else:
        finding = Finding("inconclusive", f"{along} the differences have not converged ({r.value:.6g} ± {r.bar:.1e}); choose "
                          "other inputs", evidence)  # fmt: skip
    report.findings = [finding]
    return report


def _failure(root: _Call, places: list[_Call], search: _Search, max_elements: int) -> GradcheckError:
    """The report on all wrong places. Of each kind of module one at least is looked at closely."""
    kinds: list[_Call] = []
    for place in places:
        if type(place.module) not in [type(k.module) for k in kinds]:
            kinds.append(place)
    closely = (kinds + [p for p in places if p not in kinds])[:_CLOSELY]
    pairs = [_closely(root, place, search, max_elements) for place in closely]
    pairs.sort(key=lambda pair: pair[0].findings[0].code == "unexplained")
    report, cause = pairs[0]
    lists = [r.findings for r, _ in pairs]
    report.findings = [f[0] for f in lists] + [finding for f in lists for finding in f[1:]]
    rest = [p.name for p in places if p not in closely]
    if rest:
        shown = ", ".join(rest[:8]) + (f" and {len(rest) - 8} more" if len(rest) > 8 else "")
        report.findings.append(Finding("unexplained", f"wrong as well, and not looked at closely: {shown}", {"modules": rest}))
    names = ", ".join(p.name or root.title for p in places[:8])
    parts = "; their parts are right" if any(p.has_parts() for p in places) else ""
    report.opinions.append(f"wrong by themselves: {names}{' ...' if len(places) > 8 else ''}{parts}")
    error = GradcheckError(report)
    error.__cause__ = cause
    return error


def _closely(root: _Call, place: _Call, search: _Search, max_elements: int) -> tuple[Report, BaseException | None]:
    """The parameter, the element and the cause, in a module that is wrong."""
    look = search.look(place)
    for axis in range(3):
        shorter = place.shorter(axis)
        try:
            again = search.look(shorter) if shorter is not None else None
        except Exception:  # the module wants its own number of tokens
            continue
        if again is not None and again.suspect and bool(again.faults) == bool(look.faults):
            assert shorter is not None
            place, look = shorter, again
    small = sum(x.size for x in place.arrays) <= max_elements and not place.has_parts()
    active = None if small or look.faults else _worst(place, search)
    try:
        report = _orders(place.problem(active), search.order, search.seed, search.rtol, max_elements)
    except GradcheckError as error:
        return _placed(error.report, root, place), error.__cause__
    except (ValueError, TypeError):
        report = Report("wrong", [], search.order, root.title, search.seed)
    report.verdict = "wrong"
    names = ", ".join(place.names[i] for i in active or ())
    report.findings = [Finding("unexplained", f"along random directions the gradient {f'of {names} ' * bool(names)}and the "
                               "differences disagree", {"input": names})]  # fmt: skip
    return _placed(report, root, place), None


def _worst(place: _Call, search: _Search) -> list[int] | None:
    """Positions of the inputs and parameters that are wrong along a direction of their own; None if none is."""
    wrong = [i for i, x in enumerate(place.arrays) if x.size and search.look(place, [i], 2).suspect]
    return wrong[: _WORST // 2 if place.has_parts() else _WORST] or None


def _placed(report: Report, root: _Call, place: _Call) -> Report:
    """The report on a module, as one on the model that it is in."""
    report.name = root.title
    for k, f in enumerate(report.findings):
        evidence = {**f.evidence, "module": place.name}
        if "input" in evidence:
            evidence["input"] = place.full_name(str(evidence["input"]))
        report.findings[k] = Finding(f.code, f"in {place.where}: {f.message}", evidence)
    if report.input:
        report.input = place.full_name(report.input)
    return report


# ---- Tensors within what a module is given and what it returns ----


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The Tensors of floating-point numbers in a value, with names."""
    if isinstance(value, Tensor) and value.dtype.kind == "f":
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            yield from _tensors(item, f"{name}[{k}]")


def _with_tensors(value: Any, tensors: Iterator[Any]) -> Any:
    """The same value with others in their place. Its lists and dicts are new, so that a call may write to them."""
    if isinstance(value, Tensor) and value.dtype.kind == "f":
        return next(tensors)
    if isinstance(value, dict):
        return {key: _with_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_with_tensors(item, tensors) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value.copy() if is_array(value) else value


def _copied(value: Any) -> Any:
    return _with_tensors(value, iter([Tensor(t.data.copy()) for _, t in _tensors(value, "")]))


def _outputs(value: Any) -> list[Any]:
    """The Tensors and arrays of floating-point numbers that a module returned."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [t for item in value for t in _outputs(item)]
    return [value] if getattr(getattr(value, "dtype", None), "kind", "") == "f" else []


def _as_tensor(value: Any) -> Tensor:
    """An array among the results left the graph: a Tensor without a gradient."""
    return value if isinstance(value, Tensor) else Tensor(value)

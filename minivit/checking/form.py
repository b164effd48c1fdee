"""The form of a gradient, before its numbers: how many there are, their shape and dtype, and what the backward touched.

A backward written by hand is called once (`form_of_call`). In a recorded graph every rule is called once, from the
result back to the inputs, as the engine does, but looking at what each hands back (`form_of_graph`): so a fault is
found in the operation that has it, also when the engine would have corrected or refused it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minivit.autograd import REGISTRY, Node, Tensor, unbroadcast
from minivit.autograd.engine import _ancestors
from minivit.backend import is_array, to_device, to_numpy
from minivit.checking.report import Finding


@dataclass
class Form:
    """What one run of the backward showed.

    Attributes:
        findings: the faults of form.
        gradients: one per input as it came, also in a wrong shape; None where there is none to look at.
        usable: whether the gradients can be compared as they are.
        error: what the backward raised.
        nothing: the names of the inputs for which it returned None.
        unread: the positions of inputs that are constants for the check, and got a gradient other than 0.
        returned: (the gradient of which input, the array that the backward returned, a copy of it).
    """

    findings: list[Finding] = field(default_factory=list)
    gradients: list[Any] = field(default_factory=list)
    usable: bool = True
    error: BaseException | None = None
    nothing: list[str] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    returned: list[tuple[str, Any, Any]] = field(default_factory=list)

    def fault(self, code: str, message: str, usable: bool = False, **evidence: Any) -> None:
        if (code, message) not in [(f.code, f.message) for f in self.findings]:
            self.findings.append(Finding(code, message, evidence))
        self.usable &= usable

    def reused(self) -> list[Finding]:
        """Once the backward was called again: has that overwritten what it returned before?"""
        for what, array, copy in self.returned:
            if not np.array_equal(to_numpy(array), copy, equal_nan=copy.dtype.kind == "f"):
                return [Finding("reused_result", f"{what} was overwritten when the backward was called again: it returns "
                                "one and the same array each time. Return a new one", {"what": what})]  # fmt: skip
        return []


def form_of_call(
    vjp: Callable[..., Any], g: Any, merged: list[Any], active: Sequence[int], names: Sequence[str]
) -> Form:
    """Calls vjp(g, *merged). `active`: the positions of the inputs that have a gradient; `names` are theirs."""
    form = Form(gradients=[None] * len(active))
    g = g.copy()
    before = _snapshot([g, *merged])
    try:
        with np.errstate(all="ignore"):
            came = vjp(g, *merged)
    except (Exception, SystemExit) as error:
        return form_of_error("the backward", error)
    labels = ["its cotangent", *(f"input {i}" for i in range(len(merged)))]
    for label in _changed(before, [g, *merged], labels):
        form.fault("mutated_input", f"the backward changed {label} in place; work on a copy", usable=True, what=label)

    items = list(came) if isinstance(came, tuple | list) else [came]
    if isinstance(came, list) and len(active) == 1 and not any(is_array(item) for item in items):
        items = [came]
    if len(items) == len(merged):
        form.unread = [i for i, item in enumerate(items) if i not in active and is_array(item) and to_numpy(item).any()]
        items = [items[i] for i in active]
    elif len(items) != len(active):
        what = f"{len(items)} gradient{'s' * (len(items) != 1)}"
        alone = not isinstance(came, tuple | list)
        what = "None" if came is None else "one array" if is_array(came) else f"a {type(came).__name__}" if alone else what
        advice = "is a return missing?" if came is None else "return a tuple of one per input, in their order"
        form.fault("wrong_count", f"the backward returned {what} for {len(merged)} input{'s' * (len(merged) != 1)}; {advice}",
                   came=len(items), expected=len(merged))  # fmt: skip
        return form
    for k, (i, item, name) in enumerate(zip(active, items, names)):
        like = merged[i]
        form.nothing += [name] * (item is None)
        form.gradients[k] = _look(form, item, like.shape, {like.dtype}, f"the gradient of {name}")
        if is_array(item):
            form.returned.append((f"the gradient of {name}", item, np.array(to_numpy(item))))
    return form


def form_of_graph(y: Tensor, g: Any, leaves: Sequence[Tensor], names: Sequence[str]) -> Form:
    """Walks back from y with cotangent g, calling each rule once."""
    form = Form(gradients=[np.zeros(leaf.shape) for leaf in leaves])
    if y.node is None:  # a constant, or one of the inputs itself
        form.gradients = [to_device(g.copy(), y.device) if leaf is y else z for leaf, z in zip(leaves, form.gradients)]
        return form
    nodes = _ancestors(y.node)
    arrived: dict[int, Any] = {id(y.node): to_device(g.copy(), y.device)}
    for node in reversed(nodes):
        cotangent = arrived.pop(id(node), None)
        if cotangent is None:
            continue
        needs = tuple(parent is not None for parent in node.parents)
        kept = [a.data if isinstance(a, Tensor) else a for a in node.args or ()]
        watched = [cotangent, *kept, node.out]
        before = _snapshot(watched)
        where = f"{node.op.name}.vjp"
        try:
            with np.errstate(all="ignore"):
                came = node.op.backward(node, cotangent, needs, False)
        except Exception as error:
            return form_of_error(where, error)
        labels = ["its cotangent", *(f"its input {_input_name(node, i)}" for i in range(len(kept))), "its result"]
        for label in _changed(before, watched, labels):
            form.fault("mutated_input", f"{where} changed {label} in place; work on a copy", usable=True, what=label)
        if len(came) != len(needs):
            form.fault("wrong_count", f"{where} returned {len(came)} gradient{'s' * (len(came) != 1)} for {len(needs)} "
                       "inputs; return a tuple of one per input, in their order", came=len(came),
                       expected=len(needs))  # fmt: skip
            return form
        own = REGISTRY.get(node.op.name) is node.op or node.shapes[0] is None  # minivit's, or a checkpoint
        for i, (parent, need, item) in enumerate(zip(node.parents, needs, came)):
            if not need or item is None:
                continue
            if not own:
                if is_array(item):
                    form.returned.append((f"{where}: the gradient of {_input_name(node, i)}", item, np.array(to_numpy(item))))
                dtypes = {node.dtypes[i], np.result_type(cotangent.dtype, *(d for d in node.dtypes if d is not None))}
                shape = None if node.op.broadcasts else node.shapes[i]
                item = _look(form, item, shape, dtypes, f"{where}: the gradient of {_input_name(node, i)}")
                if not form.usable:
                    if len(nodes) == 1:  # the numbers may still tell why
                        for k, leaf in enumerate(leaves):
                            form.gradients[k] = item if leaf is parent else form.gradients[k]
                        continue
                    return _unknown(form)
            if node.op.broadcasts:
                try:
                    item = unbroadcast(item, node.shapes[i])
                except ValueError:
                    form.fault("wrong_shape", f"{where}: the gradient of {_input_name(node, i)} has shape {item.shape}, "
                               f"which no sum brings to the input's shape {node.shapes[i]}", came=item.shape,
                               expected=node.shapes[i])  # fmt: skip
                    return _unknown(form)
            so_far = arrived.get(id(parent))
            arrived[id(parent)] = item if so_far is None else so_far + item
    for k, leaf in enumerate(leaves):
        if id(leaf) in arrived:
            form.gradients[k] = arrived[id(leaf)]
    return form


def _unknown(form: Form) -> Form:
    """The walk ended inside the graph, so nothing is known of the gradients of the inputs."""
    form.gradients = [None] * len(form.gradients)
    return form


def _look(form: Form, item: Any, shape: tuple[int, ...] | None, dtypes: set[Any], what: str) -> Any:
    """The gradient as an array, or None where it is none; faults of its shape and dtype are noted."""
    if item is None:
        return None if shape is None else np.zeros(shape)
    if isinstance(item, float | np.generic) or (isinstance(item, int) and not isinstance(item, bool)):
        item = np.asarray(float(item) if isinstance(item, int) else item)
    if not is_array(item):
        form.fault("wrong_dtype", f"{what} is of type {type(item).__name__}, not an array", came=type(item).__name__)
        return None
    if item.dtype not in dtypes:
        expected = " or ".join(sorted(str(d) for d in dtypes))
        numeric = item.dtype.kind in "fiub"
        form.fault("wrong_dtype", f"{what} is {item.dtype}, expected {expected}", usable=numeric, came=str(item.dtype),
                   expected=expected)  # fmt: skip
        if not numeric:
            return None
    if shape is not None and item.shape != shape:
        form.fault("wrong_shape", f"{what} has shape {item.shape}, the input has shape {shape}", came=item.shape,
                   expected=shape)  # fmt: skip
    return item


def form_of_error(where: str, error: BaseException) -> Form:
    """The form of a gradient that there is none of, because computing it raised."""
    form = Form(error=error)
    form.fault("raised", f"{where} raised {type(error).__name__}: {error}", error=type(error).__name__)
    return form


def _snapshot(values: Sequence[Any]) -> list[Any]:
    return [np.array(to_numpy(v)) if is_array(v) else None for v in values]


def _changed(before: Sequence[Any], now: Sequence[Any], labels: Sequence[str]) -> list[str]:
    return [
        label
        for old, new, label in zip(before, now, labels)
        if old is not None and not np.array_equal(old, to_numpy(new), equal_nan=old.dtype.kind == "f")
    ]


def _input_name(node: Node, i: int) -> str:
    return node.op.inputs[min(i, len(node.op.inputs) - 1)]

"""A value that the backward reads was overwritten after the forward had kept it.

    saved["y"] = y          # for the backward: dx = g y
    y *= 2                  # in place: what was kept changes with it
    return y

The numbers alone do not show this; the forward has to be watched (`watching.py`): what did every place that the backward
can read hold, and which line changed it? Then an experiment decides: the backward is called again with an earlier value put
back in its place. Only where the gradient is then right was that the mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from minivit.autograd import Node, Op, Tensor, grad
from minivit.autograd.engine import _ancestors
from minivit.backend import is_array, to_device, to_numpy
from minivit.checking.form import Form, form_of_call
from minivit.checking.report import Finding
from minivit.checking.watching import History, Watch, others_in, places, same

if TYPE_CHECKING:
    from minivit.checking.judging import Judged
    from minivit.checking.problem import HandWritten, Problem, Recorded

Array = np.ndarray
_MOST_TRIES = 60


def overwritten(problem: Problem, g: Array, judged: Sequence[Judged], wrong: Sequence[int]) -> list[Finding]:
    """Why the gradients of the inputs `wrong` are wrong, if it is a value that was overwritten.

    Args:
        problem: a forward with a backward by hand, or a function of operations.
        g: the cotangent.
        judged: the numeric gradients, one per input.
        wrong: positions of the inputs whose gradient is wrong.
    """
    comparable = [i for i in wrong if len(judged[i].n)]
    if not comparable or problem.derivative > 1:
        return []
    if not hasattr(problem, "vjp"):
        return _in_the_graph(cast("Recorded", problem), g, judged, comparable)
    problem = cast("HandWritten", problem)
    return _in_the_forward(problem, g, judged, comparable) or _in_the_backward(problem, g, judged, comparable)


def changed_by_the_backward(problem: HandWritten, g: Array) -> list[Finding]:
    """Does the backward change what the forward kept, so that calling it again, without a new forward, answers otherwise?"""
    _call(problem.f, _inputs(problem))
    kept = places(problem.f, problem.vjp)
    values = [p.value.copy() for p in kept]
    first = _gradient(problem, g)
    changed = [(p, v) for p, v in zip(kept, values) if isinstance(p.get(), np.ndarray) and not same(p.get(), v)]
    if first is None or not changed:
        return []
    second = _gradient(problem, g)
    if second is None or _close(first, second):
        return []
    with others_in(changed):
        third = _gradient(problem, g)
    if third is None or not _close(first, third):
        return []
    change = max(float(np.max(np.abs(a - b), initial=0.0)) for a, b in zip(first, second))
    names = ", ".join(p.name for p, _ in changed)
    message = (f"the backward changes {names}, which the forward kept: called again, it answers otherwise (by up to "
               f"{change:.3g}); work on a copy")  # fmt: skip
    return [Finding("overwritten", message, {"place": changed[0][0].name, "change": change})]


def assigned_since(y: Tensor) -> Form | None:
    """The form of a gradient that the engine refuses to compute: a Tensor was assigned to after an operation had used it."""
    for node in _ancestors(y.node):
        try:
            node.check_usable()
        except RuntimeError as error:
            form = Form(error=error)
            form.fault("overwritten", str(error), operation=node.op.name)
            return form
    return None


# ---- the experiments ----


def _in_the_forward(problem: HandWritten, g: Array, judged: Sequence[Judged], wrong: Sequence[int]) -> list[Finding]:
    merged = _inputs(problem)
    try:
        watch = Watch((problem.f, problem.vjp))
        with watch:
            _call(problem.f, merged)
    except Exception:
        return []
    tries: list[list[tuple[History, int]]] = [[(h, k)] for h in watch.changed() for k in reversed(h.candidates())]
    if len(watch.changed()) > 1:  # several places in one array, as a buffer that is used twice
        tries += [[(h, h.candidates()[end]) for h in watch.changed()] for end in (0, -1)]
    for chosen in tries[:_MOST_TRIES]:
        _call(problem.f, _inputs(problem))
        with others_in([(h.place, h.versions[k].value) for h, k in chosen]):
            came = _gradient(problem, g)
        if came is None:
            continue
        helped = [i for i in wrong if _right(came[i], judged[i])]
        if helped:
            h, k = chosen[0]
            line, change, evidence = _overwriting(h, k)
            how = f"put another array into {h.place.name}" if h.versions[k + 1].rebound else f"changed {h.place.name} in place"
            others = "".join(f", and {other.place.name} likewise" for other, _ in chosen[1:])
            names = [problem.names[i] for i in helped]
            message = (f"{line} of the forward {how}, after it was kept{change}{others}; with the value from before, the "
                       f"gradient of {' and '.join(names)} is right. Keep a copy")  # fmt: skip
            return [Finding("overwritten", message, {"input": names[0], **evidence})]
    return []


def _in_the_backward(problem: HandWritten, g: Array, judged: Sequence[Judged], wrong: Sequence[int]) -> list[Finding]:
    """A gradient that the backward had right, until it wrote another one into the same array.

    A last step that spoils a gradient in an array of its own is a wrong step, and for the other causes to name.
    """
    merged = _inputs(problem)
    try:
        _call(problem.f, merged)
        watch = Watch((problem.vjp,), results=True)
        with watch:
            came = problem.vjp(g.copy(), *merged)
    except Exception:
        return []
    items = list(came) if isinstance(came, tuple | list) else [came]
    if len(items) == len(merged):
        items = [items[i] for i in problem.arguments.active]
    if len(items) != len(judged):
        return []
    for i in wrong:
        if not any(is_array(item) and np.may_share_memory(item, items[i]) for k, item in enumerate(items) if k != i):
            continue
        for h in watch.changed():
            if h.last is not items[i]:
                continue
            for k in reversed(h.candidates()):
                if h.versions[k].value.shape == problem.inputs[i].shape and _right(h.versions[k].value, judged[i]):
                    line, change, evidence = _overwriting(h, k)
                    name = problem.names[i]
                    message = (f"the gradient of {name} was right, until {line} of the backward wrote over it{change}; give it "
                               "an array of its own")  # fmt: skip
                    return [Finding("overwritten", message, {"input": name, **evidence})]
    return []


class _Kept(NamedTuple):
    """Copies of what the graph kept of one operation, as it was then."""

    node: Node
    args: tuple[Any, ...]
    out: Any

    @classmethod
    def of(cls, node: Node) -> _Kept:
        assert node.args is not None
        args = tuple(Tensor(a.data.copy(), a.requires_grad) if isinstance(a, Tensor) else _copy(a) for a in node.args)
        for new, old in zip(args, node.args):
            if isinstance(new, Tensor):
                new.version = old.version
        return cls(node, args, _copy(node.out))

    def changed(self) -> list[str]:
        """Which of it was changed in place since."""
        names = [f"its input {self.node.op.inputs[min(i, len(self.node.op.inputs) - 1)]}" for i in range(len(self.args))]
        pairs = [*zip(names, self.node.args or (), self.args), ("its result", self.node.out, self.out)]
        return [name for name, now, then in pairs if is_array(getattr(then, "data", None) if isinstance(then, Tensor) else then)
                and not same(_array(now), _array(then))]  # fmt: skip


def _in_the_graph(problem: Recorded, g: Array, judged: Sequence[Judged], wrong: Sequence[int]) -> list[Finding]:
    """What the graph kept of an operation was changed in place, by a later one or between them."""
    kept: list[_Kept] = []
    changes: list[tuple[_Kept, str, str]] = []
    operation: Any = Op
    call = operation.__call__

    def look(when: str) -> None:
        changes.extend((k, what, when) for k in kept for what in k.changed()[:1])
        kept[:] = [k for k in kept if all(k is not c for c, _, _ in changes)]

    def watched(op: Op, *args: Any, **options: Any) -> Any:
        look(f"before `{op.name}` was called")
        out = call(op, *args, **options)
        look(f"by `{op.name}`")
        if isinstance(out, Tensor) and out.node is not None and out.node.args is not None:
            kept.append(_Kept.of(out.node))
        return out

    tensors = problem._tensors(problem.inputs, True)
    operation.__call__ = watched
    try:
        y = problem.function(*tensors)
        look("at the end")
    except Exception:
        return []
    finally:
        operation.__call__ = call
    if not changes:
        return []
    for k, _, _ in changes:
        k.node.args, k.node.out = k.args, k.out
    came = [np.array(to_numpy(t.data)) for t in grad(y, tensors, to_device(g, y.device))]
    helped = [i for i in wrong if _right(came[i], judged[i])]
    if not helped:
        return []
    k, what, by = changes[0]
    name = problem.names[helped[0]]
    message = (f"{what}, which `{k.node.op.name}` had kept for the backward, was changed in place {by}; with the value from "
               f"before, the gradient of {name} is right. Operations return new arrays")  # fmt: skip
    return [Finding("overwritten", message, {"input": name, "place": f"{what} of {k.node.op.name}"})]


def _copy(value: Any) -> Any:
    return value.copy() if is_array(value) else value


def _array(value: Any) -> Any:
    return to_numpy(value.data if isinstance(value, Tensor) else value)


def _overwriting(h: History, k: int) -> tuple[str, str, dict[str, Any]]:
    """Which line overwrote version k, by how much, and both as evidence."""
    before, after = h.versions[k], h.versions[k + 1]
    evidence: dict[str, Any] = {"place": h.place.name, "line": after.line}
    text = ""
    if before.value.shape == after.value.shape and before.value.dtype.kind != "b":
        evidence["change"] = float(np.max(np.abs(after.value - before.value), initial=0.0))
        text = f" (by up to {evidence['change']:.3g})"
    return f"line {after.line}" + f" (`{after.text}`)" * bool(after.text), text, evidence


def _inputs(problem: HandWritten) -> list[Any]:
    return problem.arguments.merge([x.copy() for x in problem.inputs])


def _call(f: Callable[..., Any], merged: list[Any]) -> Any:
    with np.errstate(all="ignore"):
        return f(*merged)


def _gradient(problem: HandWritten, g: Array) -> list[Array] | None:
    """What the backward says now, without a forward before it."""
    form = form_of_call(problem.vjp, g, _inputs(problem), problem.arguments.active, problem.names)
    if form.error is not None or not form.usable or any(a is None for a in form.gradients):
        return None
    return [np.array(a, dtype=np.float64) for a in form.gradients]


def _right(a: Array, judged: Judged) -> bool:
    """Whether a gradient equals the numeric one at the elements that were looked at."""
    if not np.isfinite(a).all() or a.size <= np.max(judged.elements, initial=-1):
        return False
    n = judged.n
    size = float(np.max(np.abs(n), initial=0.0))
    left = float(np.max(np.abs(a.reshape(-1)[judged.elements] - n), initial=0.0))
    return left <= 1e-6 * size + 10 * float(np.max(judged.bar, initial=0.0)) + 1e-12


def _close(first: Sequence[Array], second: Sequence[Array]) -> bool:
    return all(a.shape == b.shape and np.max(np.abs(a - b), initial=0.0) <= 1e-12 * np.max(np.abs(a), initial=0.0)
               for a, b in zip(first, second))  # fmt: skip

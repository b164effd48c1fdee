"""Would the tests notice? Plants faults in the rules, one at a time, and runs the property checks on each.

    python tests/plant_faults.py                  # every operation of the registry, and the engine's helpers
    python tests/plant_faults.py softmax linear   # some of them; "engine" are the helpers

A fault is a small change of a rule's syntax tree, or of a helper that the rule calls: a sign flipped, a result doubled or
halved, a term, factor, divisor, call or statement dropped, operands or results swapped, another axis, a comparison or a
constant changed. The changed function takes the rule's place, and the checks of `tests/autograd/properties.py` run until
one fails. The table says which check caught the fault. What survives is either a test that is missing or a change that
changes nothing: those stand in EQUIVALENT, each with its proof. Exits with 1 if anything else survives. Where a
rule's kernel is not compiled, faults in what is handed to it and in what it hands back are not reached, and the table says so.

Not planted: computing a gradient that nobody needs (`if needs[i]` always taken), which costs time and changes no number.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import sys
import textwrap
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from minivit.autograd import REGISTRY, engine, operation  # noqa: E402
from minivit.backend import kernel  # noqa: E402
from tests.autograd import properties  # noqa: E402

SEEDS = range(40)
ENGINE = [engine.unbroadcast, engine._accumulate, engine._fit, operation.replay]

_ZERO = "the derivative is 0, and 0 times anything is 0"
_SAME_AXES = "only asked whether an axis is in it: a set written twice is the same set"
_ELSEWHERE = "no sample of these checks goes there; tests/autograd/{} does"
_SPEED = "a sum that is not added to in place is made anew: the same numbers, one array more"
_KERNEL = "the array code, which computes the same"
_HALF = "a cast to its own dtype, or a copy; of float16, a product in float32: slower, and no less exact"
_CALL = "(lambda v: v if v is None else v * {})({})"
_TUPLES = "tuple(range(ndim))", "tuple((a % ndim for a in (axis if isinstance(axis, tuple) else (axis,))))"
# (operation, fault) -> why no test could see it
EQUIVALENT: dict[tuple[str, str], str] = {
    **{("sign", f"return g * 0  ->  return {_CALL.format(c, 'g * 0')}"): _ZERO for c in ("2", "0.5", "-1", "0")},
    **{(op, f"return {t}  ->  return {_CALL.format('2', t)}"): _SAME_AXES for t in _TUPLES for op in ("sum", "max")},
    **{(op, fault): _ELSEWHERE.format("test_every_operation.py")
       for fault in ("if not ndim: return ()  ->  if False: return ()",) for op in ("sum", "max")},
    ("gelu", "xp.clip(x, -100, 100)  ->  x"): _ELSEWHERE.format("test_gelu.py"),
    ("gelu", "x.astype(products.wide(x.dtype), copy=False)  ->  x"): _ELSEWHERE.format("test_unusual_inputs.py"),
    ("gelu", "False  ->  True"): "a copy",
    ("gelu", "100  ->  200"): "the slope is 0 or 1 from 10 on",
    **{(op, "g if keepdims else reshape(g, shape=_reduced_shape(shape, axis, keepdims=True))  ->  "
            "reshape(g, shape=_reduced_shape(shape, axis, keepdims=True))"):
       "with keepdims the shape is that already, and a reshape to its own shape is the identity" for op in ("sum", "max")},
    **{(op, "keepdims or i not in axes  ->  keepdims"): "the rule calls it with keepdims=True only" for op in ("sum", "max")},
    ("broadcast_to", "reshape(g.sum(axis=axes), shape=x_shape) if axes else g  ->  "
                     "reshape(g.sum(axis=axes), shape=x_shape)"): "a sum over no axes is a copy",
    **{(op, "() if piece.whole else ((gk, gk_), (gv, gv_))  ->  ((gk, gk_), (gv, gv_))"):
       "of a whole head the share is the gradient itself: it is written onto itself"
       for op in ("scaled_dot_product_attention", "multi_head_attention")},
    **{(op, "if fast is not None: return fast  ->  if False: return fast"): _KERNEL
       for op in ("gelu", "layer_norm", "linear", "softmax", "encoder")},
    **{(op, "if bias is None and attention_by_kernel.attend_vjp(g, q, k, v, out, scale, log_total, gq, gk, gv): return  ->  "
            "if False: return"): _KERNEL for op in ("scaled_dot_product_attention", "multi_head_attention")},
    **{(op, fault): _HALF for fault in ("a.astype(q.dtype, copy=False)  ->  a", "gs.astype(q.dtype, copy=False)  ->  gs",
                                        "False  ->  True") for op in ("scaled_dot_product_attention", "multi_head_attention")},
    ("scaled_dot_product_attention", "empty if out.size else zeros  ->  zeros"): "all of them are written over: only slower",
    ("layer_norm", "0  ->  1"): "stands for a gradient that nobody needs; the engine drops it",
    ("engine", "if owned and (not create_graph) and total.ndim: return (add(total, g, out=total), True)  ->  "
               "if False: return (add(total, g, out=total), True)"): _SPEED,
    ("engine", "True  ->  False"): _SPEED,
    ("engine", "if g.dtype != dtype: g = g.astype(dtype)  ->  if True: g = g.astype(dtype)"):
        "a cast to its own dtype is a copy",
}  # fmt: skip


class Fault(NamedTuple):
    where: str  # the operation
    function: str  # the rule or helper that holds the fault
    line: int
    kind: str
    change: str
    planted: types.FunctionType
    original: types.FunctionType


# ---- making faults ----


def _mentions(tree: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(tree))


def _expression(text: str, **nodes: ast.expr) -> ast.expr:
    """The expression `text`, with the given trees in place of names."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node):
            return nodes.get(node.id, node)

    return Fill().visit(ast.parse(text, mode="eval").body)


def _results(value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Faults of what a rule returns: each gradient doubled, halved, negated; two of them exchanged."""
    elements = value.elts if isinstance(value, ast.Tuple) else [value]
    for i, e in enumerate(elements):
        if isinstance(e, ast.Constant):
            continue
        for kind, factor in (("factor", "2"), ("factor", "0.5"), ("sign", "-1"), ("dropped result", "0")):
            scaled = _expression(f"(lambda v: v if v is None else v * {factor})(e)", e=e)
            yield kind, ast.Tuple([*elements[:i], scaled, *elements[i + 1 :]], ast.Load()) if len(elements) > 1 else scaled
    if len(elements) > 1:
        for i in range(len(elements) - 1):
            swapped = [*elements[:i], elements[i + 1], elements[i], *elements[i + 2 :]]
            yield "swapped results", ast.Tuple(swapped, ast.Load())


def alternatives(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What could stand in a node's place by mistake."""
    match node:
        case ast.Return(value=ast.expr() as value):
            yield from ((kind, ast.Return(new)) for kind, new in _results(value))
        case ast.BinOp(a, ast.Add(), b):
            yield "sign", ast.BinOp(a, ast.Sub(), b)
            yield from (("dropped term", kept) for kept in (a, b))
        case ast.BinOp(a, ast.Sub(), b):
            yield "sign", ast.BinOp(a, ast.Add(), b)
            yield from (("dropped term", kept) for kept in (a, ast.UnaryOp(ast.USub(), b)))
        case ast.BinOp(a, ast.Mult() | ast.BitAnd(), b):
            yield from (("dropped factor", kept) for kept in (a, b))
        case ast.BinOp(a, ast.Div(), b):
            yield "dropped divisor", a
            yield "factor for divisor", ast.BinOp(a, ast.Mult(), b)
        case ast.BinOp(a, ast.Pow(), b):
            yield "dropped exponent", a
        case ast.BinOp(a, ast.MatMult(), b):
            yield "swapped operands", ast.BinOp(b, ast.MatMult(), a)
        case ast.UnaryOp(ast.USub(), a) if not isinstance(a, ast.Constant):
            yield "sign", a
        case ast.AugAssign(target, operator, value):
            other = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}[type(operator)]
            yield "sign" if other in (ast.Add, ast.Sub) else "factor", ast.AugAssign(target, other(), value)
            yield "dropped term" if other in (ast.Add, ast.Sub) else "dropped factor", ast.Pass()
        case ast.Expr(ast.Call()):
            yield "dropped statement", ast.Pass()
        case ast.If(test, body, orelse):
            yield "branch never taken", ast.If(ast.Constant(False), body, orelse)
            if not _mentions(test, "needs"):
                yield "branch always taken", ast.If(ast.Constant(True), body, orelse)
        case ast.IfExp(test, body, orelse):
            yield "branch never taken", orelse
            if not _mentions(test, "needs"):
                yield "branch always taken", body
        case ast.Compare(a, [operator], [b]):
            others = {ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE), ast.Lt: (ast.LtE, ast.Gt),
                      ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,)}  # fmt: skip
            yield from (("comparison", ast.Compare(a, [o()], [b])) for o in others.get(type(operator), ()))
        case ast.BoolOp(operator, values):
            for i in range(len(values)):
                rest = [*values[:i], *values[i + 1 :]]
                yield "dropped condition", rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
        case ast.Attribute(value, "T"):
            yield "dropped transposition", value
        case ast.Constant(bool() as value):
            yield "flag", ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield "constant", ast.Constant(value * 2 if value else 1)
        case ast.Call(ast.Attribute(ast.Name("xp" | "math" | "builtins"), _), [first, *_], []):
            if not isinstance(first, ast.Constant):
                yield "dropped call", first
        case ast.Call(ast.Attribute(ast.Call(ast.Name("array_module")), _), [first, *_]):
            yield "dropped call", first
        case ast.Call(ast.Attribute(receiver, _), _, _) if not isinstance(receiver, ast.Name) or receiver.id not in (
            "xp", "math", "builtins", "np"
        ):
            yield "dropped call", receiver
        case ast.Call(ast.Name(name), [first, *_], _) if name not in (
            "array_module", "isinstance", "len", "range", "enumerate", "zip", "tuple", "list", "slice", "getattr", "blocks",
            "empty", "empty_like", "hasattr", "id", "iter", "next", "any", "all", "type",
        ) and not isinstance(first, ast.Starred):
            yield "dropped call", first
        case ast.keyword("axis", ast.Constant(int() as value)):
            yield "axis", ast.keyword("axis", ast.Constant(0 if value else -1))


class _Planter(ast.NodeTransformer):
    """Replaces, of all alternatives of all nodes, the one with number `chosen`."""

    def __init__(self, chosen: int) -> None:
        self.chosen, self.count = chosen, 0
        self.found: tuple[str, str, int] | None = None

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.arguments):
            return node  # messages and defaults are no rules
        match node:
            case ast.Call(ast.Name("blocks" | "for_blocks" | "for_shares")):
                node.args[:1] = map(self.visit, node.args[:1])  # how work is cut changes its speed only
                return node
            case ast.UnaryOp(ast.USub(), ast.Constant(int())):
                return node  # the -1 of an axis or of a reshape: "axis" is a fault of its own
        for kind, new in alternatives(node):
            if ast.dump(new) == ast.dump(node):
                continue
            if self.count == self.chosen:
                before, after = (" ".join(ast.unparse(n).split()) for n in (node, new))
                place = node if hasattr(node, "lineno") else node.value  # type: ignore[attr-defined]
                self.found = kind, f"{before}  ->  {after}", place.lineno
                self.count += 1
                return ast.copy_location(copy.deepcopy(new), place)
            self.count += 1
        return node if self.found else self.generic_visit(node)


def faults_of(function: types.FunctionType, where: str, called: str) -> Iterator[Fault]:
    """Every fault of one function, each compiled in its module's name space."""
    lines, first = inspect.getsourcelines(function)
    source = ast.parse(textwrap.dedent("".join(lines)))
    for number in range(10_000):
        tree = copy.deepcopy(source)
        definition = tree.body[0]
        assert isinstance(definition, ast.FunctionDef)
        definition.decorator_list = []
        planter = _Planter(number)
        definition.body = [planter.visit(statement) for statement in definition.body]  # type: ignore[misc]
        if planter.found is None:
            return
        kind, change, line = planter.found
        ast.fix_missing_locations(tree)
        names: dict[str, Any] = {}
        exec(compile(tree, f"<{called}, fault {number}>", "exec"), function.__globals__, names)
        yield Fault(where, called, first + line - 1, kind, change, names[definition.name], function)


def helpers(function: types.FunctionType) -> dict[str, types.FunctionType]:
    """The plain functions of minivit.autograd that a rule calls, and those that they call; not references, which say what is
    right, nor what is planted in with the engine."""
    found: dict[str, types.FunctionType] = {}
    todo = [function]
    others = [op.reference for op in REGISTRY.values()] + ENGINE
    while todo:
        current = todo.pop()
        for name in sorted(set(current.__code__.co_names)):
            value = current.__globals__.get(name)
            plain = isinstance(value, types.FunctionType) and value.__module__.startswith("minivit.autograd")
            if plain and value not in others and name not in found:
                found[name] = value
                todo.append(value)
    return found


def faults(operation: str) -> Iterator[Fault]:
    if operation == "engine":
        for helper in ENGINE:
            yield from faults_of(helper, "engine", helper.__name__)
        return
    rule = REGISTRY[operation].rule
    assert isinstance(rule, types.FunctionType)
    yield from faults_of(rule, operation, f"{operation}.vjp")
    for name, helper in helpers(rule).items():
        yield from faults_of(helper, operation, name)


# ---- planting and checking ----


def _modules() -> list[types.ModuleType]:
    return [m for name, m in sorted(sys.modules.items()) if name.startswith("minivit.autograd")]


@contextlib.contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The fault in place: as the rule of its operation, or under its name in every module that knows it."""
    op = REGISTRY.get(fault.where)
    if op is not None and op.rule is fault.original:
        op.rule = fault.planted
        try:
            yield
        finally:
            op.rule = fault.original
        return
    places = [(m, name) for m in _modules() for name, value in vars(m).items() if value is fault.original]
    for module, name in places:
        setattr(module, name, fault.planted)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, fault.original)


@contextlib.contextmanager
def work_arrays_full_of_nan() -> Iterator[None]:
    """What a dropped line leaves unwritten must not happen to hold the right values from the call before."""

    def spoiled(make):
        def spoil(*args, **keywords):
            array = make(*args, **keywords)
            if array.dtype.kind == "f":
                array[...] = float("nan")
            return array

        return spoil

    places = [(m, n, vars(m)[n]) for m in _modules() for n in ("empty", "empty_like") if n in vars(m)]
    for module, name, make in places:
        setattr(module, name, spoiled(make))
    try:
        yield
    finally:
        for module, name, make in places:
            setattr(module, name, make)


def checks_of(operation: str) -> dict[str, Callable[[int], None]]:
    """What is run on an operation or on the engine: a function of a seed, by name."""
    if operation != "engine":
        applying = properties.checks(REGISTRY[operation])
        return {name: lambda seed, f=f: properties.run(operation, f, seed) for name, f in applying.items()}
    found = {name: lambda seed, f=f: f(np.random.default_rng(seed)) for name, f in properties.ENGINE_CHECKS.items()}
    return {**found, "dtypes_are_kept": lambda seed: properties.run("astype", properties.dtypes_are_kept, seed)}


def failing(operation: str) -> str | None:
    """The first check that fails, with the kind of error if it is no failed assertion; None if all pass."""
    with np.errstate(all="ignore"):
        for name, check in checks_of(operation).items():
            for seed in SEEDS if operation != "engine" else range(3):
                try:
                    check(seed)
                except (AssertionError, pytest.fail.Exception):
                    return name
                except Exception as error:
                    return f"{name} ({type(error).__name__})"
    return None


def within_reach(fault: Fault) -> bool:
    """Whether the checks come by it here: not where it lies between a rule and its kernel, and there is none."""
    name = "attention" if fault.where.endswith("attention") else fault.where
    if kernel(name, np.ones((2, 2), np.float32)) is not None:
        return True
    between = fault.change.startswith("return fast") or "by_kernel" in fault.change
    return not between and not fault.original.__module__.endswith("by_kernel")


def main(operations: list[str]) -> int:
    operations = operations or ["engine", *REGISTRY]
    unknown = [o for o in operations if o not in REGISTRY and o != "engine"]
    if unknown:
        print(f"no such operation: {', '.join(unknown)}; there are engine, {', '.join(REGISTRY)}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    counts = {"caught": 0, "equivalent": 0, "not reached": 0, "SURVIVED": 0}
    unmet: set[Any] = {key for key in EQUIVALENT if key[0] in operations}
    with work_arrays_full_of_nan():
        for operation in operations:
            if broken := failing(operation):
                print(f"{operation}: {broken} fails with no fault planted; nothing can be said", file=sys.stderr)
                return 2
            for fault in faults(operation):
                with planted(fault):
                    caught = failing(operation)
                key = (operation, fault.change)
                unmet.discard(key if not caught else None)
                verdict = "caught" if caught else "equivalent" if key in EQUIVALENT else "not reached"
                if verdict == "not reached" and within_reach(fault):
                    verdict = "SURVIVED"
                counts[verdict] += 1
                says = caught or (f"equivalent: {EQUIVALENT[key]}" if key in EQUIVALENT else verdict)
                print(f"{operation:28} {fault.function}:{fault.line:<5} {fault.kind:22} {fault.change}\n{'':31}{says}")
    print(f"\n{sum(counts.values())} faults in {len(operations)} operations: "
          + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) + f"; {time.perf_counter() - start:.0f} s")
    for operation, change in sorted(unmet):
        print(f"no longer equivalent, take it off the list: {operation}, {change}")
    return 1 if counts["SURVIVED"] or unmet else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

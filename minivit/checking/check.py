"""`mv.gradcheck`: is this gradient right?

Two independent answers to one question, compared element by element: what the backward says (*analytic*), and central
differences of the forward (*numeric*, `differences.py`). Both for a random cotangent: with ones, a gradient in the
wrong places or one that forgets the cotangent can pass. Where they differ, the element is looked at closely before
anything is called wrong, and then `diagnosis.py` looks for the reason.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minivit.arguments import integer
from minivit.autograd.tensor import mode
from minivit.checking.diagnosis import diagnose
from minivit.checking.differences import EPS, STEP
from minivit.checking.elsewhere import SHARES, cotangent, moved, other_kinds
from minivit.checking.evidence import point_of, second_point, third_opinions
from minivit.checking.form import Form
from minivit.checking.judging import Judged, judge_all, slope_through_all
from minivit.checking.overwritten import changed_by_the_backward, overwritten
from minivit.checking.problem import Arguments, HandWritten, Problem, Recorded, check_forward
from minivit.checking.report import Finding, GradcheckError, Report, Row

Array = np.ndarray


def gradcheck(
    f: Callable[..., Any],
    *inputs: Any,
    vjp: Callable[..., Any] | None = None,
    order: int = 1,
    seed: int = 0,
    rtol: float = 1e-7,
    max_elements: int = 2000,
) -> Report:
    """Checks the gradient of f against finite differences, and says what is wrong with it.

        mv.gradcheck(my_op, np.array([0.5, -1.0]), order=2)                          # an operation, or a function of some
        mv.gradcheck(lambda x: x * x, np.ones(3), vjp=lambda g, x: (2 * g * x,))     # NumPy, with a backward by hand
        mv.gradcheck(model, images)                      # a module: by its inputs and parameters; names the layer that is wrong

    Args:
        f: from arrays to one array. Without `vjp`: written in minivit operations, so that it can be called on Tensors.
        inputs: arrays or Tensors, random ones rather than special ones, away from kinks. Floating-point ones are
            differentiated, in float64; integer arrays (labels, indices) are handed through.
        vjp: the backward, vjp(g, *inputs) -> one gradient per input, a tuple or the one (None for integer inputs).
        order: of the highest derivative, 1 to 3. Lower ones are checked first. Order k checks the gradient of the
            gradient of order k - 1, by the inputs and by the cotangent. More than 1 only without `vjp`.
        seed: of the cotangents; reproduces the check.
        rtol: how nearly the two must agree, relative to the element.
        max_elements: up to so many every element of every input is looked at (a quarter of it at order 2, a sixteenth
            at order 3); beyond, random directions and some elements, among them those that the directions lead to. f is called
            four times for each element: of a slow one, take fewer.

    Returns:
        The report. Its verdict is "right", or "inconclusive": where the differences cannot decide, at a kink of f or when f is
        computed too roughly; and where the rule is right at these inputs and wrong at others of another kind, as of other
        signs, of which nobody can know here whether they are meant.

    Raises:
        GradcheckError: the gradient is wrong. An AssertionError, whose `report` says how and, where the numbers show it,
            why.
        ValueError, TypeError: there is something wrong with f or with the arguments instead.
    """
    from minivit.checking import modules  # which calls what is here

    whole = vjp is None and modules.is_module(f)
    problem = None if whole else _problem(f, inputs, vjp, order)
    seed, max_elements = _check_options(order, seed, rtol, max_elements)
    before, mode.recording = mode.recording, True  # also when called within no_grad
    try:
        with np.errstate(all="ignore"):  # what overflows or divides by zero is found in the numbers
            if problem is None:
                return modules.check_module(f, inputs, order, seed, rtol, max_elements)
            return _orders(problem, order, seed, rtol, max_elements)
    finally:
        mode.recording = before


def _orders(problem: Problem, order: int, seed: int, rtol: float, max_elements: int) -> Report:
    report = None
    for k in range(1, order + 1):
        rng = np.random.default_rng([seed, k])
        if k == 1:
            y = check_forward(problem)
            g = cotangent(rng, y.shape)
        else:
            assert isinstance(problem, Recorded)
            problem = problem.next_order(g)
            try:
                y = check_forward(problem)
            except Exception as error:
                raise _stopped(problem, k, seed, error) from error
            g = cotangent(rng, y.shape)
        limit = max(1, max_elements // 4 ** (k - 1))
        report, cause = _check(problem, y, g, rng, k, seed, rtol, limit)
        if report.verdict != "wrong":
            report, cause = _elsewhere(problem, report.verdict, g, rng, k, seed, rtol, limit) or (report, cause)
        if report.verdict == "wrong":
            raise GradcheckError(report) from cause
        if report.verdict != "right":
            break
    assert report is not None
    return report


def _problem(f: Any, inputs: tuple[Any, ...], vjp: Any, order: int) -> Problem:
    if not callable(f):
        raise TypeError(f"f: expected a function, got {type(f).__name__}")
    if vjp is not None and not callable(vjp):
        raise TypeError(f"vjp: expected a function (g, *inputs) -> gradients, got {type(vjp).__name__}")
    if vjp is not None and order in (2, 3):
        raise ValueError(
            f"order: got {order} with a vjp; a NumPy backward cannot be differentiated again, so only order 1 can be checked. "
            "Write it as an operation (mv.op) for higher orders"
        )
    if not inputs:
        raise TypeError("inputs: gradcheck needs at least one, gradcheck(f, x)")
    arguments = Arguments(f, inputs)
    if vjp is None:
        return Recorded.of(f, arguments)
    try:
        inspect.signature(vjp).bind(None, *inputs)
    except TypeError as error:
        raise TypeError(f"vjp: is called as vjp(g, *inputs), with {len(inputs)} inputs, and cannot be: {error}") from None
    except ValueError:  # no signature to look at
        pass
    return HandWritten(f, vjp, arguments).without_numbers(inputs)


def _check_options(order: Any, seed: Any, rtol: Any, max_elements: Any) -> tuple[int, int]:
    if isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"order: expected 1, 2 or 3, got {order!r}")
    if isinstance(rtol, bool) or not isinstance(rtol, int | float | np.number) or not 0 < rtol < 1:
        raise ValueError(f"rtol: expected a number between 0 and 1, got {rtol!r}")
    return integer("seed", seed), integer("max_elements", max_elements, least=1)


# ---- one order ----


def _check(
    problem: Problem, y: Array, g: Array, rng: np.random.Generator, order: int, seed: int, rtol: float, limit: int
) -> tuple[Report, BaseException | None]:
    """The report on one order, and the exception of the backward, if it raised one."""
    report = Report("right", [], order, problem.name, seed)
    if problem.held:
        report.opinions.append(f"taken for constant, since the backward has no gradient of it: {', '.join(problem.held)}")
    form = problem.form(problem.inputs, g)
    faults = list(form.findings)
    if form.error is not None or any(f.code == "wrong_count" for f in faults):
        report.verdict, report.findings = "wrong", faults
        return report, form.error
    report.passed += [name for name, codes in (("number, shape and dtype", {"wrong_shape", "wrong_dtype"}),
                      ("inputs unchanged", {"mutated_input"})) if not codes & {f.code for f in faults}]  # fmt: skip
    if order == 1:
        faults += _float32_form(problem, g)

    other = None
    if form.usable:
        analytic: list[Any] = list(problem.gradient(problem.inputs, g))
        other = problem.gradient(problem.inputs, cotangent(rng, y.shape))
        faults += form.reused() or _behavior(problem, y, g, analytic, other, rng, report)
        if isinstance(problem, HandWritten) and not faults:
            faults += changed_by_the_backward(problem, g)
    else:
        analytic = [None if a is None else np.asarray(a, dtype=np.float64) for a in form.gradients]

    judged, noise = judge_all(problem, y, g, analytic, rng, rtol, limit)
    wrong = [i for i, j in enumerate(judged) if j.wrong.any() or (analytic[i] is not None
             and analytic[i].shape != problem.inputs[i].shape)]  # fmt: skip
    _fill(report, problem, analytic, judged, wrong)
    if wrong and not faults and _single_precision(analytic, judged, wrong):
        report.verdict = "inconclusive"
        error = max(float(np.max(np.abs(judged[i].a - judged[i].n) / np.max(np.abs(judged[i].n)))) for i in wrong)
        report.findings = [Finding("float32_noise", "the gradient is made of float32 numbers and differs by no more than "
                                   f"float32 rounds ({error:.1e} of the largest element); compute it in float64 to have it "
                                   "checked", {"error": error})]  # fmt: skip
        return report, None
    if wrong or faults:
        report.verdict = "wrong"
        report.findings = _findings(problem, y, g, analytic, judged, other, form, faults, wrong, rng, rtol, limit)
        third_opinions(report, problem, y, g, analytic, judged)
        return report, None
    report.findings = _undecided(problem, judged, noise, rtol, analytic)
    if not report.counts["checked"]:
        report.findings.append(Finding("inconclusive", "the inputs are empty: there is no element to compare", {}))
    if form.unread:
        names = ", ".join(f"input {i}" for i in form.unread)
        report.findings.append(Finding("inconclusive", f"the backward returned a gradient of {names}, which is of integers, "
                               "so that it was not looked at; give floats to have it checked",
                               {"inputs": form.unread}))  # fmt: skip
    if report.findings:
        report.verdict = "inconclusive"
    return report, None


def _elsewhere(
    problem: Problem, verdict: str, g: Array, rng: np.random.Generator, order: int, seed: int, rtol: float, limit: int
) -> tuple[Report, BaseException | None] | None:
    """The report at other inputs than those given, if the gradient is wrong there: at x = 1 many a rule is right.

    A little beside them it is then wrong. At inputs of another kind, as signs that were not among those given, nobody said
    that it should be right, so that is inconclusive.
    """
    options = (g, rng, order, seed, rtol, limit)
    given = problem.gradient(problem.inputs, g)
    for share in SHARES:
        inputs = moved(problem.inputs, rng, share)
        found = _at(problem, inputs, *options)
        if found is not None:
            break
    if found is not None and found[0].verdict == "wrong":
        report = found[0]
        report.opinions.insert(0, "right at the inputs given; these are others, up to a fifth away, and there it is wrong")
        there = problem.gradient(inputs, g)
        if report.findings[0].code == "unexplained" and all(map(np.array_equal, given, there)):
            report.findings[0] = Finding("unexplained", "the gradient is the same at other inputs, and the derivative is not: "
                                         "does the backward use values from outside, or of an earlier call, instead of its "
                                         "arguments?", report.findings[0].evidence)  # fmt: skip
        return found
    for what, inputs in other_kinds(problem.inputs, rng) if verdict == "right" and order == 1 else ():
        found = _at(problem, inputs, *options)
        if found is not None and found[0].verdict == "wrong":
            report, cause = found[0], found[0].findings[0]
            report.verdict = "inconclusive"
            report.findings = [Finding("inconclusive", f"right at the inputs given, and wrong at {what} ({cause.code}: "
                                       f"{cause.message}). Give inputs of every kind that is meant",
                                       cause.evidence)]  # fmt: skip
            return report, None
    return None


def _at(
    problem: Problem, inputs: list[Array], g: Array, rng: np.random.Generator, order: int, seed: int, rtol: float, limit: int
) -> tuple[Report, BaseException | None] | None:
    """The report at these inputs; without a look at every element if they agree along a random direction. None if f or its
    backward does not take them."""
    before, problem.inputs = problem.inputs, inputs
    try:
        y = check_forward(problem)
        if y.shape != g.shape:
            return None
        if slope_through_all(problem, y, g, problem.gradient(inputs, g), rng, rtol).agrees():
            return Report("right", [], order, problem.name, seed), None
        return _check(problem, y, g, rng, order, seed, rtol, limit)
    except Exception:
        return None
    finally:
        problem.inputs = before


def _float32_form(problem: Problem, g: Array) -> list[Finding]:
    """Where the user gave float32: does float32 stay float32? Only what a backward by hand returns is looked at."""
    if not isinstance(problem, HandWritten) or not all(problem.arguments.float32):
        return []
    low = [x.astype(np.float32) for x in problem.inputs]
    try:
        if np.asarray(problem.f(*problem.arguments.merge(low))).dtype != np.float32:
            return []
        form = problem.form(low, g.astype(np.float32))
    except Exception:  # it was asked about float64 first, and worked there
        return []
    return [f for f in form.findings if f.code == "wrong_dtype"]


_LOW = ((np.float16, 1e-2), (np.float32, 1e-5))  # a backward may compute in these; how nearly its results then add up


def _behavior(
    problem: Problem, y: Array, g: Array, a: list[Array], other: list[Array], rng: np.random.Generator, report: Report
) -> list[Finding]:
    """Is the backward the same twice, and linear in the cotangent? Also in one that is large, or zero here and there."""
    faults = []
    some = np.where(rng.random(g.shape) < 0.5, g, 0.0)
    cotangents = (g, 1024 * g, some, g - some)
    unseen = 20 * EPS / STEP * max(float(np.sum(np.abs(g * y))), problem.magnitude)  # by the differences
    four = zip(*(problem.gradient(problem.inputs, c) for c in cotangents))
    for name, first, elsewhere, (second, large, one, rest) in zip(problem.names, a, other, four):
        size = float(np.max(np.abs(first), initial=0.0))
        if not np.isfinite(size):
            continue
        if not np.isfinite(one + rest).all():
            faults.append(Finding("not_finite", f"the gradient of {name} has NaN or infinite elements where the cotangent has "
                                  "zeros", {"input": name}))  # fmt: skip
            continue
        change = float(np.max(np.abs(second - first), initial=0.0))
        if not change <= 1e-12 * size:
            faults.append(Finding("nondeterministic", f"the gradient of {name} changes by up to {change:.2g} when the backward "
                                  "is called again with the same arguments", {"change": change, "input": name}))  # fmt: skip
            continue
        if np.max(np.abs(elsewhere - first), initial=0.0) <= 1e-12 * size:  # of a cotangent that is ignored much is said later
            continue
        for gap, much, what in (
            (np.abs(large / 1024 - first), np.abs(first), "1024 g does not give 1024 times as much"),
            (np.abs(one + rest - first), np.abs(one) + np.abs(rest), "two cotangents do not give the sum of what each gives"),
        ):
            rounding = max((t * float(np.max(much)) for kind, t in _LOW if (first == first.astype(kind)).all()), default=0.0)
            if (gap > 1e-6 * much + 1e-12 * size + unseen + rounding).any():
                worst = float(np.max(gap))
                faults.append(Finding("unexplained", f"the gradient of {name} is not linear in the cotangent: {what} (off by "
                                      f"up to {worst:.2g})", {"gap": worst, "input": name}))  # fmt: skip
                break
    if not faults:
        report.passed += ["the same twice", "linear in g"]
    return faults


# ---- what to report ----


def _fill(report: Report, problem: Problem, analytic: list[Any], judged: list[Judged], wrong: list[int]) -> None:
    total = sum(x.size for x in problem.inputs)
    report.counts = {"checked": sum(len(j.elements) for j in judged), "total": total,
                     "wrong": int(sum(j.wrong.sum() for j in judged))}  # fmt: skip
    report.analytic = analytic
    full = [len(j.elements) == x.size for j, x in zip(judged, problem.inputs)]
    report.numeric = [j.n.reshape(x.shape) if all_ else None for j, x, all_ in zip(judged, problem.inputs, full)]
    report.bars = [j.bar.reshape(x.shape) if all_ else None for j, x, all_ in zip(judged, problem.inputs, full)]
    undecided = [i for i, j in enumerate(judged) if j.kinks or j.unsure or j.unseen]
    shown = wrong[:1] or undecided[:1]
    if shown:
        report.input, report.shape = problem.names[shown[0]], problem.inputs[shown[0]].shape
    rows: list[tuple[tuple[bool, float], Row]] = []
    for i in shown or range(len(judged)):
        j, x = judged[i], problem.inputs[i]
        if analytic[i] is None or analytic[i].shape != x.shape:
            continue
        for k, element in enumerate(j.elements):
            index = tuple(int(m) for m in np.unravel_index(element, x.shape))
            row = Row(index, float(x.flat[element]), float(j.a[k]), float(j.n[k]), float(j.bar[k]))
            concern = j.wrong[k] if wrong else (k in j.kinks or k in j.unsure)
            error = row.error if math.isfinite(row.error) else math.inf
            rows.append(((not concern, -error), row))  # what is wrong first, the largest error of it first
    rows.sort(key=lambda pair: pair[0])
    report.rows = [row for _, row in rows[:5]]


def _undecided(problem: Problem, judged: list[Judged], noise: float, rtol: float, analytic: list[Any]) -> list[Finding]:
    findings: list[Finding] = []
    for i, (j, name) in enumerate(zip(judged, problem.names)):
        if j.direction:
            findings.append(Finding("inconclusive", f"along a random direction the gradient of {name} and the differences "
                            "disagree, though they agree at every element looked at; kinks nearby? Raise max_elements to look "
                            "at more", {"input": name}))  # fmt: skip
        if j.kinks:
            k, r = next(iter(j.kinks.items()))
            index = tuple(int(m) for m in np.unravel_index(j.elements[k], problem.inputs[i].shape))
            left, right = r.left + 0.0, r.right + 0.0  # no -0
            how = f"has the slope {left:.6g} on the left and {right:.6g} on the right"
            how = "jumps or is infinitely steep" if r.kink == "jump" else how
            findings.append(Finding("kink", f"the function {how} at element {list(index)} of {name}: no derivative to "
                            f"compare with ({len(j.kinks)} such{_not_finite(j)}); choose inputs away from kinks",
                            {"input": name, "count": len(j.kinks), "left": r.left, "right": r.right}))  # fmt: skip
        if j.unseen:
            findings.append(Finding("inconclusive", f"{j.unseen} more elements of {name} differ from the differences, and were "
                            "not looked at closely; choose a smaller input, or one away from kinks",
                            {"input": name, "count": j.unseen}))  # fmt: skip
        if not j.unsure:
            continue
        worst = max((abs(j.a[k] - j.n[k]) for k in j.unsure if np.isfinite(j.n[k])), default=math.nan)
        bar = max((j.bar[k] for k in j.unsure if np.isfinite(j.bar[k])), default=math.nan)
        evidence = {"input": name, "error": float(worst), "bar": float(bar), "noise": noise}
        if math.isnan(worst):
            findings.append(Finding("inconclusive", f"the function is not defined on both sides of {len(j.unsure)} elements of "
                            f"{name}; choose inputs inside its domain", evidence))  # fmt: skip
        elif 1e-10 < noise < 1e-2:
            findings.append(Finding("float32_noise", f"the function's values carry a relative noise of {noise:.1e}: it is not "
                            f"computed in float64 throughout (float32 rounds by {np.finfo(np.float32).eps:.0e}). If it were, "
                            f"the gradient of {name} could be checked", evidence))  # fmt: skip
        else:
            findings.append(Finding("inconclusive", f"{len(j.unsure)} elements of {name} differ by up to {worst:.1e}, within a "
                            f"few error bars (± {bar:.1e}): the differences have not converged there; choose other inputs or "
                            "a better conditioned function", evidence))  # fmt: skip
    return findings


def _not_finite(j: Judged) -> str:
    count = sum(not math.isfinite(j.a[k]) for k in j.kinks)
    return f", and the gradient is NaN or infinite at {count} of them" if count else ""


def _findings(
    problem: Problem, y: Array, g: Array, analytic: list[Any], judged: list[Judged], other: list[Array] | None,
    form: Form, faults: list[Finding], wrong: list[int], rng: np.random.Generator, rtol: float, limit: int,
) -> list[Finding]:  # fmt: skip
    """The causes found at this point and confirmed at another one nearby, then the faults of form, then the rest."""
    if not wrong:
        return faults
    if proven := overwritten(problem, g, judged, wrong):
        return [*proven, *faults]
    certain = [f for f in faults if f.code in ("nondeterministic", "mutated_input", "overwritten", "reused_result")]
    causes = _inside(problem, rtol, limit)
    if not causes:
        points = [point_of(problem, problem.inputs, y, g, analytic, judged, other)]
        second = second_point(problem, g, rng, rtol, limit, wrong, form.usable)
        causes = diagnose(points if second is None else [*points, second], wrong)
    rest = [f for f in faults if f not in certain]
    if any(f.code == "unexplained" for f in rest):  # not linear in g, which only a forgotten cotangent explains
        causes = [f for f in causes if f.code == "cotangent_ignored"]
        rest = [f for f in rest if not (causes and f.code == "unexplained")]
    causes = [f._replace(message=f"{f.message} (the backward returned None for it)") if f.code == "zero_gradient"
              and f.evidence["input"] in form.nothing else f for f in causes]  # fmt: skip
    findings = [*certain, *causes, *rest]
    codes = {f.code for f in findings}
    if not codes:
        i = wrong[0]
        j = judged[i]
        with np.errstate(all="ignore"):
            ratio = (j.a / j.n)[j.wrong & (j.n != 0)]
        text = f"; analytic / numeric lies between {ratio.min():.6g} and {ratio.max():.6g}" if ratio.size else ""
        unequal = f"{int(j.wrong.sum())} of {len(j.elements)} elements looked at"
        if len(j.n) and not j.n.any():
            text = "; the derivative is zero: the function does not change there"
        elif len(j.elements) < problem.inputs[i].size:
            text += f", of {problem.inputs[i].size}: with smaller inputs the cause can be looked for"
        findings = [Finding("unexplained", f"the gradient of {problem.names[i]} is wrong in {unequal}{text}",
                            {"input": problem.names[i], "wrong": int(j.wrong.sum())})]  # fmt: skip
    return findings


def _inside(problem: Problem, rtol: float, limit: int) -> list[Finding]:
    """What is wrong with the operations that f is made of: each is checked by itself, where it is used."""
    findings = []
    for inner in problem.operations(problem.inputs) if isinstance(problem, Recorded) else []:
        try:
            _orders(inner, 1, 0, rtol, limit)
        except GradcheckError as error:
            findings += [Finding(f.code, f"in {inner.name}: {f.message}", {**f.evidence, "operation": inner.name})
                         for f in error.report.findings]  # fmt: skip
        except (TypeError, ValueError):  # it does not take such arguments by itself
            continue
    return findings


def _single_precision(analytic: list[Any], judged: list[Judged], wrong: list[int]) -> bool:
    """Are the wrong gradients off by no more than float32 rounds, and made of float32 numbers?"""
    for i in wrong:
        a, j = analytic[i], judged[i]
        if a is None or not len(j.n) or not (a == a.astype(np.float32)).all():
            return False
        if np.max(np.abs(j.a - j.n)) > 1e-5 * np.max(np.abs(j.n)):
            return False
    return True


def _stopped(problem: Problem, order: int, seed: int, error: Exception) -> GradcheckError:
    """The gradient itself could not be computed as a function: at a higher order that is a fault of a rule."""
    message = (f"the gradient of order {order - 1} could not be computed again: {type(error).__name__}: {error}. Rules use "
               "operators, methods and mv.ops only")  # fmt: skip
    finding = Finding("raised", message, {"error": type(error).__name__})
    return GradcheckError(Report("wrong", [finding], order, problem.name, seed))

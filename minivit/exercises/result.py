"""The answer to an attempt at an exercise: what holds, what does not, why, and a hint; for a terminal and a notebook."""

from __future__ import annotations

import html
import inspect
import textwrap
import zlib
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from minivit.arguments import integer, nearest
from minivit.checking import Finding
from minivit.exercises.checks import Check, Functions, NotDoneYet, Raised
from minivit.exercises.exercise import Exercise
from minivit.exercises.traces import explain_exception

PASSED, WRONG, NOT_DONE = "passed", "wrong", "not done yet"
OWN_FAULTS = {"raised", "missing_function", "wrong_parameters", "not_python", "exited", "time_limit"}  # no hint helps there


@dataclass
class Outcome:
    """What came of one check: its title, the function it is about, a verdict, the findings and the report on them."""

    title: str
    function: str
    verdict: str
    findings: list[Finding] = field(default_factory=list)
    report: str = ""


@dataclass(repr=False)
class Result:
    """What came of an attempt.

    Attributes:
        exercise: its name.
        outcomes: one per check that was run, in order; after one that failed no more are run.
        hint: the hint, or "".
        printed: the beginning of what the student's code printed, where it ran in a process of its own.
    """

    exercise: str
    outcomes: list[Outcome] = field(default_factory=list)
    hint: str = ""
    printed: str = ""

    @property
    def verdict(self) -> str:
        """"passed", "wrong" or "not done yet"."""
        verdicts = {outcome.verdict for outcome in self.outcomes}
        return next((v for v in (WRONG, NOT_DONE) if v in verdicts), PASSED)

    @property
    def passed(self) -> list[str]:
        """The titles of the checks that passed."""
        return [outcome.title for outcome in self.outcomes if outcome.verdict == PASSED]

    @property
    def failing(self) -> Outcome | None:
        """The first check that failed."""
        return next((outcome for outcome in self.outcomes if outcome.verdict == WRONG), None)

    @property
    def findings(self) -> list[Finding]:
        """Of the first check that failed, the surest first."""
        return self.failing.findings if self.failing else []

    @property
    def not_done(self) -> list[str]:
        """The functions that are not filled in."""
        return list(dict.fromkeys(o.function for o in self.outcomes if o.verdict == NOT_DONE))

    def __str__(self) -> str:
        lines = [f"{self.exercise}: {self.verdict}"]
        for outcome in self.outcomes:
            mark = {PASSED: "ok  ", WRONG: "NOT ", NOT_DONE: "... "}[outcome.verdict]
            lines += textwrap.wrap(f"{mark} {outcome.title}", 79, initial_indent="  ", subsequent_indent="       ")
        if self.failing:
            lines += ["", self.failing.report]
        elif self.not_done:
            lines += ["", f"to fill in: {', '.join(self.not_done)}"]
        if self.printed and self.verdict != PASSED:
            lines += ["", "your code printed:", textwrap.indent(self.printed, "  | ")]
        if self.hint:
            lines += ["", *textwrap.wrap(f"hint: {self.hint}", 79, subsequent_indent="      ")]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(o.verdict)}</td><td style='text-align:left'>{html.escape(o.title)}</td></tr>"
            for o in self.outcomes
        )
        parts = [f"<p><b>{html.escape(self.exercise)}: {self.verdict}</b></p><table>{rows}</table>"]
        if self.failing:
            parts.append(f"<pre>{html.escape(self.failing.report)}</pre>")
        elif self.not_done:
            parts.append(f"<p>to fill in: {', '.join(map(html.escape, self.not_done))}</p>")
        if self.hint:
            parts.append(f"<p><i>hint: {html.escape(self.hint)}</i></p>")
        return "".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `Result.from_dict` undoes it."""
        outcomes = [{**asdict(o), "findings": [[f.code, f.message, plain(f.evidence)] for f in o.findings]}
                    for o in self.outcomes]  # fmt: skip
        return {"exercise": self.exercise, "outcomes": outcomes, "hint": self.hint, "printed": self.printed}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Result:
        outcomes = [Outcome(**{**o, "findings": [Finding(*f) for f in o["findings"]]}) for o in d["outcomes"]]
        return cls(d["exercise"], outcomes, d["hint"], d["printed"])

    @classmethod
    def fault(cls, exercise: str, title: str, code: str, message: str) -> Result:
        """The answer where no check could be run: `title` is what does not hold. The first line of the message is the
        finding's."""
        return cls(exercise, [Outcome(title, "", WRONG, [Finding(code, message.splitlines()[0], {})], message)])


def run_checks(
    exercise: Exercise, functions: Functions, seed: int = 0, *, all_of_them: bool = False, only: Container[str] | None = None
) -> Result:
    """Runs the checks in order on a student's functions, by name, up to the first that fails.

    A check that meets a stub is "not done yet", and the next one is run. `all_of_them`: goes on after a failure, too.
    `only`: the functions to check; the others may be needed by their checks.
    """
    seed = integer("seed", seed)
    result = Result(exercise.name)
    for check in exercise.checks:
        if only is not None and check.function not in only:
            continue
        result.outcomes.append(_misfit(exercise, check, functions) or _run(check, functions, seed))
        if result.failing and not all_of_them:
            break
    return result


def _misfit(exercise: Exercise, check: Check, functions: Functions) -> Outcome | None:
    """What came of the check if the function cannot be called with the arguments it was handed out with."""
    signature = inspect.signature(getattr(exercise.module, check.function))
    came = functions.get(check.function)
    if not callable(came):
        near = nearest(check.function, functions)
        message = f"there is no function {check.function}" + (f"; there is {near}: keep the names" if near else "")
        if came is not None:
            message = f"{check.function} is not a function but of type {type(came).__name__}; was the name used twice?"
        return Outcome(check.title, check.function, WRONG, [Finding("missing_function", message, {})], message)
    try:
        inspect.signature(came).bind(*[None] * len(signature.parameters))
    except TypeError:
        parameters = ", ".join(signature.parameters)
        message = (f"{check.function}{inspect.signature(came)} cannot be called as {check.function}({parameters}); keep the "
                   "parameters it was handed out with")  # fmt: skip
        return Outcome(check.title, check.function, WRONG, [Finding("wrong_parameters", message, {})], message)
    except ValueError:  # no signature to look at
        pass
    return None


def _run(check: Check, functions: Functions, seed: int) -> Outcome:
    rng = np.random.default_rng([seed, zlib.crc32(check.title.encode())])
    outcome = Outcome(check.title, check.function, PASSED)
    try:
        outcome.findings, outcome.report = check.findings(functions, rng)
    except NotDoneYet:
        outcome.verdict = NOT_DONE
        return outcome
    except (Exception, SystemExit) as error:
        cause = error.__cause__ if isinstance(error, Raised) and error.__cause__ else error
        outcome.report = explain_exception(cause, functions.values())
        code = "exited" if isinstance(cause, SystemExit) else "raised"
        outcome.findings = [Finding(code, outcome.report.splitlines()[0], {"error": type(cause).__name__})]
    if outcome.findings:
        outcome.verdict = WRONG
    return outcome


def give_hint(result: Result, exercise: Exercise, level: int) -> None:
    """Puts the hint of that level on the first finding into the result."""
    if result.failing and level > 0 and result.findings[0].code not in OWN_FAULTS:
        result.hint = exercise.hint(result.failing.function, result.findings[0].code, level)


def plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

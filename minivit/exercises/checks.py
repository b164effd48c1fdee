"""What an exercise asks of a function: that it is a gradient, that it gives the right values, or anything else.

    CHECKS = (
        Values("softmax", expected=softmax, inputs=logits, title="softmax has the right values"),
        Gradient("softmax_backward", softmax, inputs=logits, title="softmax_backward is its gradient"),
        Property("sort", title="every parent comes before its child", test=parents_first),
    )

A check has a title, the name of the student's function, and `findings(functions, rng)`: what is the matter, the surest
first, and the report to show. Nothing here knows files, processes or hints.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minivit.checking import Finding, GradcheckError, gradcheck, numerical_gradient
from minivit.exercises.marks import MARKER, split
from minivit.exercises.values import explain_values, values_text

__all__ = ["Check", "Finding", "Gradient", "Property", "Values", "numerical_gradient"]

Functions = Mapping[str, Callable[..., Any]]
Inputs = Callable[[np.random.Generator], Sequence[Any]]


class NotDoneYet(Exception):
    """A part of the exercise is not filled in, or not there to be checked."""


class Raised(Exception):
    """The student's function raised; the exception is the cause."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What every check has.

    Attributes:
        function: the name of the student's function, of which the findings speak.
        title: what holds if the check passes, as a short sentence.
    """

    function: str
    title: str

    def findings(self, functions: Functions, rng: np.random.Generator) -> tuple[list[Finding], str]:
        """What is the matter, the surest first, and a report in 80 columns; ([], "") if nothing is.

        Raises:
            NotDoneYet: the function is a stub, or missing.
            Raised: it raised something else.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Gradient(Check):
    """`function(g, *inputs)` is the backward of `forward(*inputs)`: what `mv.gradcheck` finds, in float64.

    Attributes:
        forward: a function; or the name of the student's own.
        inputs: draws the arguments: float64 arrays to differentiate by; integers and integer arrays are handed through.
    """

    forward: Callable[..., Any] | str
    inputs: Inputs

    def findings(self, functions: Functions, rng: np.random.Generator) -> tuple[list[Finding], str]:
        inputs = list(self.inputs(rng))
        backward = Watched(self.function, functions)
        forward = Watched(self.forward, functions) if isinstance(self.forward, str) else None
        f = self.forward if forward is None else forward.call
        try:
            report = gradcheck(f, *inputs, vjp=backward.call, seed=int(rng.integers(2**31)))  # type: ignore[arg-type]
        except GradcheckError as error:
            report = error.report
        except (TypeError, ValueError) as error:
            if forward is None:
                raise
            forward.give_up()
            return [Finding("bad_forward", str(error), {})], str(error)
        for watched in filter(None, (forward, backward)):
            watched.give_up()
        if report.verdict == "right":
            return [], ""
        code = getattr(self.forward if forward is None else forward.function, "__code__", None)
        if code is not None and Path(code.co_filename).parent == Path(__file__).parent:  # not the student's own
            hidden = _Hidden(Path(code.co_filename), code.co_name)
            report.findings = [hidden.finding(finding) for finding in report.findings]
        lines = str(report).splitlines()
        return report.findings, "\n".join(line for line in lines if not line.startswith("  reproduce:"))  # the inputs are ours


@dataclass(frozen=True, kw_only=True)
class Values(Check):
    """`function(*inputs)` gives what `expected(*inputs)` gives: numbers, shape and dtype; and leaves its inputs alone.

    Attributes:
        expected: computes the right result: one array, or a tuple of arrays.
        inputs: draws the arguments.
        rtol: how nearly, relative to the largest element; None is 1e-9, or 1e-4 where the right result is float32.
    """

    expected: Callable[..., Any]
    inputs: Inputs
    rtol: float | None = None

    def findings(self, functions: Functions, rng: np.random.Generator) -> tuple[list[Finding], str]:
        inputs = list(self.inputs(rng))
        watched = Watched(self.function, functions)
        given = _copies(inputs)
        with np.errstate(all="ignore"):  # what overflows is found in the numbers
            came = watched(*given)
        expected = self.expected(*_copies(inputs))
        found: list[Finding] = []
        names = _names(functions[self.function], len(inputs))
        for name, before, after in zip(names, inputs, given):
            if isinstance(before, np.ndarray) and not np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
                found.append(Finding("mutated_input", f"{self.function} changed its argument {name} in place; work on a "
                                     "copy", {"input": name}))  # fmt: skip
        if isinstance(expected, tuple):
            if not isinstance(came, tuple | list) or len(came) != len(expected):
                count = len(came) if isinstance(came, tuple | list) else 1
                found.append(Finding("wrong_count", f"{self.function} returned {count} result{'s' * (count != 1)}, expected "
                                     f"{len(expected)}", {"came": count, "expected": len(expected)}))  # fmt: skip
                return found, values_text(self.function, found, None, None)
            pairs = [(f"result {i}", a, b) for i, (a, b) in enumerate(zip(came, expected))]
        else:
            pairs = [("the result", came, expected)]
        shown: tuple[Any, Any] = (None, None)
        for name, a, b in pairs:
            faults = explain_values(a, b, name=name, inputs=inputs, rtol=self.rtol)
            if faults and shown[0] is None:
                shown = (a, b)
            found += faults
        return found, values_text(self.function, found, *shown) if found else ""


@dataclass(frozen=True, kw_only=True)
class Property(Check):
    """What only this exercise knows: `test(function, rng)` gives what is the matter, [] if nothing is.

    The function it is handed is the student's; a test need not catch what it raises. Findings may have codes of the
    exercise's own.
    """

    test: Callable[[Callable[..., Any], np.random.Generator], list[Finding]]

    def findings(self, functions: Functions, rng: np.random.Generator) -> tuple[list[Finding], str]:
        watched = Watched(self.function, functions)
        try:
            with np.errstate(all="ignore"):
                found = self.test(watched.call, rng)
        except (Exception, SystemExit) as error:
            watched.give_up()
            why = "; is a return missing?" if watched.result is None else (
                f", which cannot be used here: {type(error).__name__}: {error}")  # fmt: skip
            found = [Finding("unusable_result", f"{self.function} returned {_kind(watched.result)}{why}",
                             {"came": _kind(watched.result)})]  # fmt: skip
        watched.give_up()
        return found, values_text(self.function, found, None, None) if found else ""


class _Hidden:
    """Takes out of a finding what a student must not read, lines of the solution, and what means nothing to them, the
    line numbers of our file."""

    def __init__(self, file: Path, function: str) -> None:
        given, solution = split(file.read_text(encoding="utf-8").partition(MARKER)[0])
        self.lines = {line.strip() for line in solution} - {line.strip() for line in given}
        self.function = function

    def finding(self, finding: Finding) -> Finding:
        evidence = {k: self.text(v) if isinstance(v, str) else v for k, v in finding.evidence.items()}
        return finding._replace(message=self.text(finding.message), evidence=evidence)

    def text(self, text: str) -> str:
        hidden = re.sub(r"`([^`]+)`(?: \(line \d+\))?", self._quoted, text)
        return re.sub(r"(a step of \w+)(?: in \1)+", r"\1", hidden)

    def _quoted(self, match: re.Match[str]) -> str:
        ours = any(line.startswith(match[1].removesuffix("...")) for line in self.lines)
        return f"a step of {self.function}" if ours else f"`{match[1]}`"


class Watched:
    """A student's function, by name; what it raises is remembered, also where a checker catches it."""

    def __init__(self, name: str, functions: Functions) -> None:
        if name not in functions:
            raise NotDoneYet(f"{name} is not there")
        self.name, self.function = name, functions[name]
        self.error: BaseException | None = None
        self.result: Any = None

        @functools.wraps(self.function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                self.result = self.function(*args, **kwargs)
            except (Exception, SystemExit) as error:
                self.error = error
                raise
            return self.result

        self.call = call

    def __call__(self, *args: Any) -> Any:
        """Calls it; what it raises comes as `NotDoneYet` or `Raised`."""
        try:
            return self.call(*args)
        except (Exception, SystemExit):
            self.give_up()
            raise

    def give_up(self) -> None:
        """If the function raised, so does this."""
        if isinstance(self.error, NotImplementedError):
            raise NotDoneYet(f"{self.name} is not filled in") from self.error
        if self.error is not None:
            raise Raised(self.name) from self.error


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _copies(values: Sequence[Any]) -> list[Any]:
    return [v.copy() if isinstance(v, np.ndarray) else v for v in values]


def _names(function: Callable[..., Any], count: int) -> list[str]:
    try:
        names = list(inspect.signature(function).parameters)[:count]
    except ValueError:
        names = []
    return names + [f"number {i}" for i in range(len(names), count)]

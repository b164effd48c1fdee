"""The catalogue of mistakes: one file per exercise, each of wrong and of right solutions, as people write them.

    @wrong("wrong_sign", "takes the derivative of y - x for that of x - y")
    def difference_backward(g, x, y): ...

    @right("with einsum")
    def difference_backward(g, x, y): ...

A solution replaces the function of its name; the others come from the exercise. Several functions at once: a class.

    @wrong("permuted", "reverses the order, not the graph")
    class _:
        def sort(y): ...
        def backward(y): ...
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from minivit.exercises import find, names

ALL: dict[str, list["Solution"]] = {}  # exercise -> its solutions


class Solution(NamedTuple):
    """codes: of the cause, any of which may come first; empty for a right solution."""

    exercise: str
    codes: tuple[str, ...]
    what: str
    functions: dict[str, Callable[..., Any]]

    def __str__(self) -> str:
        return f"{self.exercise}: {self.what}"


def wrong(code, what):
    """A wrong solution, the code of its cause (or a tuple of codes that name it equally well), and what it does wrong."""
    return _collect((code,) if isinstance(code, str) else tuple(code), what)


def right(what):
    """A right solution in another style, and what is its own about it."""
    return _collect((), what)


def _collect(codes, what):
    def decorate(f):
        functions = {k: v for k, v in vars(f).items() if callable(v)} if isinstance(f, type) else {f.__name__: f}
        exercise = f.__module__.rpartition(".")[2]
        ALL.setdefault(exercise, []).append(Solution(exercise, codes, what, functions))
        return f

    return decorate


def solutions(exercise):
    """All of one exercise, in the order of its file; [] if there is no such file."""
    try:
        importlib.import_module(f"tests.exercises.mistakes.{exercise}")
    except ModuleNotFoundError as error:
        if error.name != f"tests.exercises.mistakes.{exercise}":
            raise
    return ALL.get(exercise, [])


def table():
    """The catalogue as a page for teachers, docs/mistakes.md; `python -m tests.exercises.mistakes` writes it."""
    lines = [
        "# What students get wrong", "",
        "By exercise: what a wrong solution does, and the code that the check gives to its cause. All of them are tried in the",
        "tests, where their code is (`tests/exercises/mistakes/`); this page is written from there.",
    ]  # fmt: skip
    for name in names():
        lines += ["", f"## {find(name).number}. {find(name).title} (`{name}`)", "", f"Teaches: {find(name).teaches}", ""]
        lines += ["| function | a wrong solution | cause |", "|---|---|---|"]
        for solution in solutions(name):
            if solution.codes:
                functions = ", ".join(f"`{function}`" for function in solution.functions)
                what = solution.what.replace("|", "\\|")
                lines.append(f"| {functions} | {what} | {' or '.join(f'`{code}`' for code in solution.codes)} |")
        right = [solution.what for solution in solutions(name) if not solution.codes]
        lines += ["", f"Accepted as right, among others: {'; '.join(right)}."]
    return "\n".join(lines) + "\n"

"""An exercise is one file of this folder, eNN_name.py: a statement, helpers, functions whose bodies are to be filled in,
their solution, and what is checked. `find("name")` reads it; there is no list to keep.

The file runs as it stands: it is the solution. What a student gets (`Exercise.start`) is its text up to the line
`MARKER`, with every part between nbgrader's marks replaced by a stub.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from minivit.arguments import meant
from minivit.exercises.checks import Check
from minivit.exercises.marks import BEGIN, END, MARKER, split

FOLDER = Path(__file__).parent
MARK = "# minivit exercise: "  # opens a started file, so that it is known under any name

OF_THE_FORM = {  # hints where no number is wrong yet, unless the exercise has its own
    "wrong_count": (
        "Read the annotation after -> in the function's first line: how many arrays are to come back?",
        "All gradients are returned together, in the order of the inputs: `return gx, gy`.",
    ),
    "wrong_shape": (
        "Write the shape beside each of your lines. Which one makes the last of them another than was asked for?",
        "Call your function on small arrays whose axes all have different lengths, and print the shapes.",
    ),
    "wrong_dtype": (
        "Print the type and the dtype of what you return. Which of your lines makes it so?",
        "NumPy operations on float64 arrays give float64 arrays; a conversion by hand is not needed.",
    ),
    "unusable_result": (
        "Call your function on a small input and print what comes back.",
        "Compare that with the first line of the function and with the statement: what is to be returned?",
    ),
}

_FILE = re.compile(r"e(\d\d)_([a-z][a-z0-9_]*)")


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        name, number: `e04_softmax.py` is number 4, named "softmax".
        title: one line.
        statement: the page that says what to do (without the title).
        parts: the names of the functions to fill in, in their order.
        teaches: what it is for.
        start: the text that is handed out; `solved`: the same with the solution between its marks.
        checks: in their order.
        hints: code of a finding -> (first hint, stronger hint); `function:code` is more exact, "" stands for the rest
            but for what `OF_THE_FORM` says.
        module: the file itself, imported: given functions and solution.
    """

    name: str
    number: int
    title: str
    statement: str
    parts: tuple[str, ...]
    teaches: str
    start: str = field(repr=False)
    solved: str = field(repr=False)
    checks: tuple[Check, ...] = field(repr=False)
    hints: dict[str, tuple[str, str]] = field(repr=False)
    module: ModuleType = field(repr=False)

    def hint(self, function: str, code: str, level: int) -> str:
        """The hint on a finding, of level 1 or 2; empty if there is none."""
        hints = {**OF_THE_FORM, **self.hints}
        for key in (f"{function}:{code}", code, f"{function}:", ""):
            if key in hints:
                return hints[key][min(level, 2) - 1]
        return ""


@cache
def _files() -> dict[str, tuple[int, str]]:
    """name -> (number, module), in the order of the numbers."""
    found = []
    for module in pkgutil.iter_modules([str(FOLDER)]):
        match = _FILE.fullmatch(module.name)
        if match:
            found.append((int(match[1]), match[2], module.name))
    return {name: (number, module) for number, name, module in sorted(found)}


def names() -> list[str]:
    """The names of all exercises, in the order of the lecture."""
    return list(_files())


@cache
def find(name: str) -> Exercise:
    """The exercise of that name.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if name not in _files():
        raise ValueError(f"there is no exercise {name!r}; {meant(name, names())}")
    number, file = _files()[name]
    module = importlib.import_module(f"minivit.exercises.{file}")
    text = (FOLDER / f"{file}.py").read_text(encoding="utf-8")
    solved = handed_out(text)
    title, _, statement = (ast.get_docstring(ast.parse(text)) or "").partition("\n")
    return Exercise(
        name, number, title.strip(), statement.strip(), parts(solved), " ".join(module.TEACHES.split()),
        strip(solved), solved, tuple(module.CHECKS), dict(module.HINTS), module,
    )  # fmt: skip


def handed_out(text: str) -> str:
    """The text up to the marker, without the imports that only the checks use."""
    above, marker, _ = text.partition(f"\n{MARKER}\n")
    if not marker:
        raise ValueError(f"the line {MARKER!r} is missing")
    lines = above.splitlines()
    for node in reversed(ast.parse(above).body):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])  # fmt: skip
        if any(f"{module}.".startswith("minivit.exercises.") for module in modules):
            del lines[node.lineno - 1 : node.end_lineno]
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines).rstrip() + "\n")


def strip(text: str) -> str:
    """The text with nbgrader's stub in the place of every solution."""
    return "\n".join(split(text)[0]) + "\n"


def parts(text: str) -> tuple[str, ...]:
    """The names of the functions at the top level that have a solution in them."""
    lines = text.splitlines()
    found = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)
             and any(line.strip() == BEGIN for line in lines[node.lineno - 1 : node.end_lineno])]  # fmt: skip
    if not found:
        raise ValueError(f"no function has a part between {BEGIN} and {END}")
    return tuple(found)

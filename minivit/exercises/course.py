"""For a course: notebooks with the solutions stripped, and a test file that grades what comes back.

The notebooks carry nbgrader's marks and metadata, so nbgrader can take them over; nothing here needs it. A course with
a server of its own runs `pytest test_exercises.py --junitxml=grades.xml` on a folder of submitted files.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from minivit.exercises.exercise import Exercise, find, names, strip
from minivit.exercises.marks import BEGIN
from minivit.exercises.process import TIME_LIMIT, check_file
from minivit.exercises.result import PASSED, Outcome, Result
from minivit.io import atomic_write

TEST_FILE = "test_exercises.py"
_TEST = '''"""Grades the exercises: one test per function to fill in.

    pytest {file} --junitxml=grades.xml                          # the .py files and notebooks beside this file
    SUBMISSION=submitted/ada pytest {file} --junitxml=ada.xml    # those of another folder

Submitted code is run in a process of its own with a time limit. That is not a sandbox: grade where there is nothing to lose.
"""

import os
from pathlib import Path

import pytest

import minivit as mv

FOLDER = Path(os.environ.get("SUBMISSION", Path(__file__).parent))
PARTS = [
{parts}
]


@pytest.mark.parametrize(("exercise", "part"), PARTS)
def test_exercise(exercise, part):
    mv.exercises.grade(FOLDER, exercise, part)
'''


def handout(folder: str | os.PathLike[str], exercises: Sequence[str] = (), solutions: bool = False) -> list[Path]:
    """Writes a notebook per exercise and `test_exercises.py`; returns their paths.

    Args:
        folder: made if there is none. Nothing is overwritten.
        exercises: their names; none means all.
        solutions: leave the solutions in, between nbgrader's marks, which its own release step strips.

    Raises:
        ValueError: there is no such exercise.
        FileExistsError: one of the files is there.
    """
    folder = Path(folder)
    chosen = [find(name) for name in (exercises or names())]
    texts = {folder / f"{e.name}.ipynb": json.dumps(notebook(e, solutions), indent=1, ensure_ascii=False) for e in chosen}
    parts = "\n".join(f'    ("{e.name}", "{part}"),' for e in chosen for part in graded_parts(e))
    texts[folder / TEST_FILE] = _TEST.format(file=TEST_FILE, parts=parts)
    there = [str(path) for path in texts if path.exists()]
    if there:
        raise FileExistsError(f"{there[0]} is there already, and nothing was written; choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with atomic_write(path) as file:
            file.write(text.encode())
    return list(texts)


def graded_parts(exercise: Exercise) -> list[str]:
    """The functions to fill in that have a check."""
    checked = {check.function for check in exercise.checks}
    return [part for part in exercise.parts if part in checked]


def notebook(exercise: Exercise, solutions: bool = False) -> dict[str, Any]:
    """The exercise as a notebook, format 4.5: statement, given code, one cell per function to fill in, and its check."""
    cells = [_cell(exercise, "statement", "markdown", f"# {exercise.title}\n\n{exercise.statement}", locked=True)]
    given = 0
    for solved in _pieces(exercise.solved):
        source = solved if solutions else strip(solved).rstrip("\n")
        if BEGIN not in solved:
            given += 1
            cells.append(_cell(exercise, f"given-{given}", "code", source, locked=True))
            continue
        part = ast.parse(solved).body[-1].name  # type: ignore[attr-defined]
        cells.append(_cell(exercise, part, "code", source, solution=True))
        points = sum(check.function == part for check in exercise.checks)
        if points:
            test = (f'import minivit as mv\n\nresult = mv.exercises.check("{exercise.name}", {part})\ndisplay(result)\n'
                    'assert result.verdict == "passed", result.verdict')  # fmt: skip
            cells.append(_cell(exercise, f"check-{part}", "code", test, locked=True, grade=True, points=points))
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "minivit": {"exercise": exercise.name},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _pieces(text: str) -> list[str]:
    """The file without its docstring: every function to fill in by itself, and what stands between them together."""
    lines, (docstring, *body) = text.splitlines(), ast.parse(text).body
    end = docstring.end_lineno or 0
    ranges: list[tuple[int, int, bool]] = []  # of lines, and whether there is something to fill in
    for node in body:
        begin, end = end, node.end_lineno or 0  # with the comments above the node
        while end < len(lines) and lines[end].startswith(" "):  # and those at the end of its body
            end += 1
        solved = isinstance(node, ast.FunctionDef) and any(line.strip() == BEGIN for line in lines[begin:end])
        if ranges and not solved and not ranges[-1][2]:
            begin = ranges.pop()[0]
        ranges.append((begin, end, solved))
    return ["\n".join(lines[begin:end]).strip("\n") for begin, end, _ in ranges]


def _cell(
    exercise: Exercise, what: str, kind: str, source: str, *, locked: bool = False, solution: bool = False, grade: bool = False,
    points: int = 0,
) -> dict[str, Any]:  # fmt: skip
    marks: dict[str, Any] = {"grade": grade, "grade_id": f"{exercise.name}-{what}", "locked": locked, "schema_version": 3,
                             "solution": solution, "task": False}  # fmt: skip
    if grade:
        marks["points"] = points
    cell: dict[str, Any] = {"cell_type": kind, "id": f"{exercise.name}-{what}"[:64],
                            "metadata": {"nbgrader": marks}, "source": source.splitlines(keepends=True)}  # fmt: skip
    return cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []}


def grade(folder: str | os.PathLike[str], exercise: str, part: str, time_limit: float = TIME_LIMIT) -> None:
    """Passes if that part of the exercise, submitted in `folder` as name.py or name.ipynb, is right.

    Raises:
        AssertionError: it is wrong, not done, or not there; the text is what the student would read.
    """
    __tracebackhide__ = True  # pytest shows the text alone
    outcomes = [o for o in _graded(Path(folder).resolve(), exercise, time_limit).outcomes if o.function in (part, "")]
    about = Result(exercise, outcomes)
    if about.verdict != PASSED or not outcomes:
        raise AssertionError(str(about))


@cache
def _graded(folder: Path, exercise: str, time_limit: float) -> Result:
    """Every file is run once, whatever the number of its parts."""
    there = [path for path in (folder / f"{exercise}.ipynb", folder / f"{exercise}.py") if path.is_file()]
    if len(there) == 1:
        return check_file(there[0], exercise, time_limit=time_limit, all_of_them=True)
    title = f"{exercise}.py or {exercise}.ipynb was submitted"
    if there:
        return Result.fault(exercise, title, "missing_function", f"both are in {folder}; which one counts?")
    return Result(exercise, [Outcome(title, "", "wrong", [], f"neither is in {folder}")])

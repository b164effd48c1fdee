"""What a student does: read a statement, start, check. For notebooks and scripts; the command line calls the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minivit.exercises.exercise import MARK, find
from minivit.exercises.result import Result, give_hint, run_checks
from minivit.io import atomic_write

_met: dict[tuple[str, str], int] = {}  # (exercise, code) -> how often it was the first finding in this process


def statement(name: str) -> str:
    """What to do: the title, and the page below it.

    Raises:
        ValueError: there is no such exercise; the message lists them.
    """
    exercise = find(name)
    return f"{exercise.title}\n\n{exercise.statement}"


def start(name: str, folder: str | os.PathLike[str] = ".", force: bool = False) -> Path:
    """Writes `folder/name.py`, to be filled in, and returns its path. The folder is made if there is none.

    Args:
        force: begin again if the file is there; the old one is kept as name.backup1 (2, 3, ...).

    Raises:
        ValueError: there is no such exercise.
        FileExistsError: the file is there, and `force` was not given.
    """
    exercise = find(name)
    path = Path(folder) / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if not force:
            raise FileExistsError(f"{path} is there already, and nothing was written; to begin again and keep it as a backup, "
                                  "use force")  # fmt: skip
        k = next(k for k in range(1, 10_000) if not path.with_suffix(f".backup{k}").exists())
        path.rename(path.with_suffix(f".backup{k}"))
    with atomic_write(path) as file:
        file.write(f"{MARK}{name}    (check it: minivit exercises check {name}.py)\n{exercise.start}".encode())
    return path


def check(name: str, *functions: Callable[..., Any], hint: int | None = None, seed: int = 0) -> Result:
    """Checks your functions, here and now, in this process: an endless loop is yours to interrupt.

        mv.exercises.check("product", product_backward)

    Args:
        name: of the exercise.
        functions: one or more of those to fill in; they are known by their `__name__`, and only they are checked.
        hint: 0 for none, 1 or 2 for the stronger one; None: the first when a mistake is met first, then the stronger.
        seed: of the inputs.

    Returns:
        The result; it shows itself. What a function raises is in it.

    Raises:
        ValueError, TypeError: there is no such exercise, or it has no function of that name.
    """
    exercise = find(name)
    if not functions:
        raise TypeError(f"functions: give at least one of {', '.join(exercise.parts)}")
    given: dict[str, Callable[..., Any]] = {}
    for f in functions:
        if not callable(f):
            raise TypeError(f"functions: expected functions, got {type(f).__name__}")
        called = getattr(f, "__name__", type(f).__name__)
        if called not in exercise.parts:
            raise ValueError(f"functions: {called!r} is not one of {name!r}; expected {', '.join(exercise.parts)}")
        given[called] = f
    if hint not in (None, 0, 1, 2):
        raise ValueError(f"hint: expected 0, 1, 2 or None, got {hint!r}")
    solution = {part: getattr(exercise.module, part) for part in exercise.parts}
    result = run_checks(exercise, {**solution, **given}, seed, only=given)
    if result.failing:
        key = name, result.findings[0].code
        _met[key] = _met.get(key, 0) + 1
        give_hint(result, exercise, _met[key] if hint is None else hint)
    return result

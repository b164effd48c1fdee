"""What of a file is handed out: what stands above `MARKER`, without what stands between nbgrader's marks."""

from __future__ import annotations

import textwrap

MARKER = "# ---- what is checked: not handed out ----"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")


def split(text: str) -> tuple[list[str], list[str]]:
    """The lines of the text with nbgrader's stub in the place of every solution, and those of the solutions.

    Raises:
        ValueError: the marks do not come in pairs.
    """
    outside: list[str] = []
    solution: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.strip() == BEGIN:
            if inside:
                raise ValueError(f"{BEGIN} within a solution")
            inside = True
            outside += [textwrap.indent(stub, line[: len(line) - len(line.lstrip())]) for stub in STUB]
        elif line.strip() == END:
            if not inside:
                raise ValueError(f"{END} without {BEGIN}")
            inside = False
        else:
            (solution if inside else outside).append(line)
    if inside:
        raise ValueError(f"{BEGIN} without {END}")
    return outside, solution

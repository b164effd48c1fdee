"""A traceback cut down to the lines of a student."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_MOST = 6  # lines of the student's that are shown, three from either end of a recursion


def explain_exception(error: BaseException, functions: Iterable[Callable[..., Any]] = (), files: Iterable[str] = ()) -> str:
    """What was raised, in one line, and where, in the lines of the files given and of those the functions are from; never
    in ours, where the solutions stand."""
    wanted = {*files, *(code.co_filename for f in functions if (code := getattr(f, "__code__", None)) is not None)}
    wanted = {file for file in wanted if Path(file).parent != Path(__file__).parent}
    if isinstance(error, SystemExit):
        head = "the code ends the program (sys.exit); leave that out"
    else:
        head = " ".join(f"{type(error).__name__}: {error}".split())
        head = head if len(head) <= 400 else head[:400] + " ..."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in wanted]
    if isinstance(error, SyntaxError) and error.filename in wanted:
        where = [f'  File "{error.filename}", line {error.lineno}', f"    {(error.text or '').strip()}"]
        return "\n".join([head, *where]).rstrip()
    left_out = len(frames) - _MOST
    if left_out > 0:
        frames = frames[: _MOST // 2] + frames[-_MOST // 2 :]
    lines = [head]
    for k, frame in enumerate(frames):
        if left_out > 0 and k == _MOST // 2:
            lines.append(f"  ... {left_out} more calls ...")
        cell = re.search(r"ipykernel_\d+", frame.filename)  # a temporary name, which nobody knows
        file = "A cell of the notebook" if cell else f'File "{frame.filename}"'
        lines += [f"  {file}, line {frame.lineno}, in {frame.name}"]
        lines += [f"    {frame.line}"] * bool(frame.line)  # typed at a prompt: there is no source
    return "\n".join(lines)

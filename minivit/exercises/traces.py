"""A traceback cut down to the lines of a student."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any

_MOST = 6  # lines of the student's that are shown, three from either end of a recursion


def explain_exception(error: BaseException, functions: Iterable[Callable[..., Any]] = (), files: Iterable[str] = ()) -> str:
    """What was raised, in one line, and where, in the lines of the files given and of those the functions are from."""
    wanted = {*files, *(code.co_filename for f in functions if (code := getattr(f, "__code__", None)) is not None)}
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
        lines += [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}', f"    {frame.line}"]
    return "\n".join(lines)

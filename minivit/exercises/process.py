"""Checking a file in a process of its own: it may loop, print, crash or exit, and the answer is still one explanation.

This is a guard against accidents, not a sandbox: the student's code runs with all the rights of the user who checks it.
Grade strangers' files on a machine, or in a container, that has nothing to lose.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

import minivit.exercises.exercise as exercises
from minivit.exercises.result import Result
from minivit.exercises.submission import name_of

TIME_LIMIT = 20.0  # seconds
_KEPT = 1500  # characters of what the code prints
_ROOT = str(Path(__file__).parents[2])
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import minivit; sys.path.pop(0); "
    "from minivit.exercises.runner import main; main(sys.argv[2])"
)


def check_file(
    path: str | os.PathLike[str], exercise: str | None = None, *, seed: int = 0, time_limit: float = TIME_LIMIT,
    all_of_them: bool = False,
) -> Result:  # fmt: skip
    """Runs a student's file, .py or .ipynb, in a process of its own, and checks it.

    Args:
        path: of the file.
        exercise: its name; None: the file says so itself.
        seed: of the inputs.
        time_limit: in seconds, for running the file and all checks.
        all_of_them: goes on after a check that failed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no exercise, or the time limit is not positive.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{str(path)!r} is a folder; give the file to check")
    if not path.is_file():
        guess = f"; did you mean {path}.py?" if Path(f"{path}.py").is_file() else ""
        raise FileNotFoundError(f"there is no file {str(path)!r}{guess}")
    if path.suffix not in (".py", ".ipynb"):
        raise ValueError(f"{path}: expected a .py file or a notebook (.ipynb)")
    if not (math.isfinite(time_limit) and time_limit > 0):
        raise ValueError(f"time_limit: expected seconds above 0, got {time_limit!r}")
    name = exercise or name_of(path)
    if name is None:
        raise ValueError(f"{path}: of which exercise is it? Keep the first line of the file, or name it like the exercise: "
                         f"{', '.join(exercises.names())}")  # fmt: skip
    exercises.find(name)
    with tempfile.TemporaryDirectory() as folder:
        answer, trace = Path(folder, "answer.json"), Path(folder, "trace.txt")
        orders = {"path": str(path), "exercise": name, "seed": seed, "all": all_of_them, "time_limit": time_limit,
                  "answer": str(answer), "trace": str(trace)}  # fmt: skip
        code, printed = _run(json.dumps(orders), time_limit + 10)  # the other process stops itself first, and says where
        try:
            result = Result.from_dict(json.loads(answer.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            result = _no_answer(name, path, code, trace, time_limit)
    result.printed = printed
    return result


def _run(orders: str, seconds: float) -> tuple[int | None, str]:
    """The exit code, None if it had to be stopped, and the beginning of what was printed."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                   "MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START, _ROOT, orders], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=environment, start_new_session=True,
    )  # fmt: skip
    heard: list[bytes] = []
    assert process.stdout is not None
    listener = threading.Thread(target=_listen, args=(process.stdout, heard), daemon=True)
    listener.start()
    try:
        code: int | None = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:  # also after Ctrl-C: nothing that the file started is left behind
        _kill_group(process)
        listener.join(1)
    return code, _shown(b"".join(heard).decode("utf-8", errors="replace"))


def _shown(text: str) -> str:
    """The beginning, without what a terminal would obey; a line that comes again and again only once."""
    lines = ["".join(c for c in line if c.isprintable()).rstrip() for line in text.splitlines()]
    text = "\n".join(line if (n := len(list(same))) == 1 else f"{line}  ({n} times)" for line, same in itertools.groupby(lines))
    return text if len(text) <= _KEPT else text[:_KEPT].rstrip() + "\n..."


def _listen(pipe: IO[bytes], heard: list[bytes]) -> None:
    """Reads to the end, so that the writer never waits, and keeps the beginning."""
    with contextlib.suppress(OSError, ValueError):
        while chunk := os.read(pipe.fileno(), 65536):
            if sum(map(len, heard)) < 4 * _KEPT:
                heard.append(chunk)
    pipe.close()


def _kill_group(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _no_answer(name: str, path: Path, code: int | None, trace: Path, time_limit: float) -> Result:
    where = _where(trace, path)
    if code is None or where:
        return Result.fault(name, f"the file answers within {time_limit:g} s", "time_limit", "\n".join([
            f"no answer after {time_limit:g} s: an endless loop?" + (" It was here:" if where else ""), *where]))  # fmt: skip
    if code < 0:
        with contextlib.suppress(ValueError):
            by = signal.Signals(-code).name
            return Result.fault(name, "the file runs to its end", "exited", f"the process was ended by signal {by}, as happens "
                                "in a crash or for lack of memory")  # fmt: skip
    return Result.fault(name, "the file runs to its end", "exited", f"the process ended (exit code {code}) before it was "
                        "checked; does the file end the program?")  # fmt: skip


def _where(trace: Path, path: Path) -> list[str]:
    """The student's innermost lines of what faulthandler wrote."""
    try:
        text = trace.read_text(encoding="utf-8", errors="replace")
        source = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.suffix == ".py" else []
    except OSError:
        return []
    lines = []
    for file, number, function in re.findall(r'File "(.*?)", line (\d+) in (.*)', text):
        if file == str(path) or file.startswith(f"{path}, cell "):
            lines += [f'  File "{file}", line {number}, in {function}']
            lines += [f"    {text.strip()}" for text in source[int(number) - 1 : int(number)]]
        if len(lines) >= 4:
            break
    return lines

"""The other process: runs a student's file, checks it, writes the answer as JSON into a file, and ends.

Called by `process.py` alone, with one argument: its orders as JSON.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
from pathlib import Path

from minivit.exercises.exercise import find
from minivit.exercises.result import Result, run_checks
from minivit.exercises.submission import read

MEMORY = 4 << 30  # bytes; a list that grows without end must not take the machine with it


def main(orders: str) -> None:
    """`orders`: {"path", "exercise", "seed", "all", "time_limit", "answer", "trace"}."""
    order = json.loads(orders)
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    exercise = find(order["exercise"])  # before the clock starts
    with open(order["trace"], "w") as trace:
        faulthandler.dump_traceback_later(order["time_limit"], file=trace, exit=True)  # says where an endless loop is
        path = Path(order["path"])
        sys.path.append(str(path.parent))  # the student's own modules beside the file, after everything else
        found = read(path, exercise.name)
        if not isinstance(found, Result):
            found = run_checks(exercise, found, order["seed"], all_of_them=order["all"])
        faulthandler.cancel_dump_traceback_later()
    Path(order["answer"]).write_text(json.dumps(found.as_dict()), encoding="utf-8")
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # whatever threads the student's code has left running

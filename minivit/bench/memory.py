"""How much memory a step takes at its height, beyond the weights and images it is given.

Each candidate gets a fresh process of its own. There the same step is first made at the size of a few small images, so that
libraries are loaded and threads started; then the resident memory is read, the row's own step is made three times, and the
highest resident memory since (VmHWM of /proc, what ru_maxrss reports) is compared with it. So everything counts that the step
needs: activations, gradients, work arrays, and what a library keeps for the next step. (To warm up at the row's own size
would hide just that: memory which was kept from the warm-up is no longer growth.)
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from minivit.bench import peers
from minivit.bench.rows import ROWS, ours, pose
from minivit.bench.timing import same_threads


def growth(step: Callable[[], Any], calls: int = 3) -> int:
    """By how many bytes the resident memory of this process rises at most while `step` is called."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # what was freed before goes back, or the step would use it unseen
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the high-water mark falls to the present memory
    except OSError:
        pass  # it stays where importing left it: the result is then an upper bound
    before = _status("VmRSS")
    for _ in range(calls):
        step()
    return max(_status("VmHWM") - before, 0)


def peak(row: str, who: str, threads: int) -> int | None:
    """`growth` of a row's step in a fresh process, by "minivit" or a peer; None where the system does not tell."""
    try:
        _status("VmHWM")
    except OSError:
        return None
    code = f"import sys; sys.path[:] = {sys.path!r}; from minivit.bench.memory import child; child({row!r}, {who!r}, {threads})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{row}: the process that measures the memory of {who} failed: {done.stderr.strip()[-2000:]}")
    return int(done.stdout)


def child(row: str, who: str, threads: int) -> None:
    """What the fresh process does."""
    small = replace(ROWS["train-digits"], what=ROWS[row].what, batch=2)
    make = ours if who == "minivit" else peers.PEERS[who].candidate
    with same_threads(threads, [who]):
        make(pose(small)).step()
        print(growth(make(pose(ROWS[row])).step))


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

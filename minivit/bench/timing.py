"""How things are timed: alternately, with the same threads, after the others have come to rest; and on which machine.

Medians with quartiles, since a mean is at the mercy of one bad round. Candidates take turns, so that a slow spell of the
machine meets all of them, and ratios hold where times drift.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import minivit as mv


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median over the rounds, and the quartiles."""

    median: float
    low: float
    high: float
    rounds: int


def settle(most: float = 0.5, window: float = 0.005) -> None:
    """Waits until this process is quiet, `most` seconds at the longest.

    The threads of OpenBLAS and OpenMP go on for a while after their work, waiting actively for more (up to 0.2 s): they
    would take a core from whoever is timed next. The process is quiet when its processor time, that of all its threads,
    grows by less than a tenth of the time that passes.
    """
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(window)
        if time.process_time() - used < 0.1 * (time.perf_counter() - start):
            return


def alternate(candidates: Mapping[str, Callable[[], Any]], rounds: int = 10, min_seconds: float = 0.2) -> dict[str, Timing]:
    """Times each candidate once per round, each after a warm-up and from a quiet process.

    They take turns, every second round in the opposite order: so nobody always comes after the same one, whose work the
    processor may not have recovered from, and a machine that grows slower does so for all.

    A step is timed as one among others, as in a loop: one that takes less than a second comes after one that is not timed, and
    one that takes less than `min_seconds` is made several times per round. What takes over a second and over four
    times as long as the first candidate is timed in three rounds only, spread over all.
    """
    calls, turns, before, first = {}, {}, {}, 0.0
    for name, call in candidates.items():
        took = _time(call, 1)
        if took < 1:  # the first call may have had to load or to allocate something
            took = _time(call, 1)
        first = first or took
        before[name] = int(took < 1)
        calls[name] = max(1, int(min_seconds / max(took, 1e-9)))
        turns[name] = min(rounds, 3) if took > max(1, 4 * first) else rounds
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates.items())
    for i in range(rounds):
        for name, call in order[:: -1 if i % 2 else 1]:
            if i * turns[name] // rounds < (i + 1) * turns[name] // rounds:
                seconds[name].append(_time(call, calls[name], before[name]))
    quartiles = {name: np.quantile(s, [0.25, 0.5, 0.75]).tolist() for name, s in seconds.items()}
    return {name: Timing(median, low, high, turns[name]) for name, (low, median, high) in quartiles.items()}


def _time(call: Callable[[], Any], calls: int, before: int = 0) -> float:
    """Seconds per call, from a quiet process, after some calls `before` that are not timed."""
    gc.collect()
    settle()
    for _ in range(before):
        call()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


@contextmanager
def same_threads(n: int, peers: Sequence[str] = ()) -> Iterator[None]:
    """minivit, NumPy's BLAS and, if it is among `peers` or behind one, PyTorch run on n threads each."""
    from threadpoolctl import threadpool_limits

    torch: Any = None
    if {"pytorch", "torchattacks", "foolbox"} & set(peers):
        torch = importlib.import_module("torch")
    before = mv.backend.num_threads(), torch and torch.get_num_threads()
    try:
        mv.backend.set_num_threads(n)
        with threadpool_limits(n, "blas"):
            if torch:
                torch.set_num_threads(n)
            yield
    finally:
        mv.backend.set_num_threads(before[0])
        if torch:
            torch.set_num_threads(before[1])


@contextmanager
def cores_of_others() -> Iterator[Callable[[], float | None]]:
    """Gives a function: how many cores other programs kept busy since; None where /proc does not tell."""

    def now() -> tuple[float, float]:
        return time.perf_counter(), _busy_seconds() - sum(os.times()[:4])  # this process and the children it waited for

    try:
        start, before = now()
    except (OSError, ValueError):
        yield lambda: None
        return

    def others() -> float:
        end, after = now()
        return max(after - before, 0.0) / max(end - start, 1e-9)

    yield others


def _busy_seconds() -> float:
    """Processor time of everything since the system started."""
    with open("/proc/stat") as lines:
        user, nice, system, _, _, irq, softirq, *_ = map(int, lines.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


BUSY = 0.1  # cores of other programs, from which on ratios mean little


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    from threadpoolctl import threadpool_info

    blas = ", ".join(f"{i['internal_api']} {i['version']} ({i['num_threads']} threads)" for i in threadpool_info()
                     if i["user_api"] == "blas")  # fmt: skip
    facts = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas or "unknown",
        "kernels": mv.backend.kernel_status(),
    }
    for package in ("torch", "autograd", "mygrad", "torchattacks", "foolbox"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _processor() -> str:
    """Its name, and what the name leaves out: family and model tell generations of one brand apart."""
    try:
        with open("/proc/cpuinfo") as lines:
            info = dict(line.split(":", 1) for line in lines.read().split("\n\n")[0].splitlines() if ":" in line)
        info = {key.strip(): value.strip() for key, value in info.items()}
        features = info.get("flags", "").split()
        vector = "AVX-512" if "avx512f" in features else "AVX2" if "avx2" in features else "no AVX2"
        return f"{info['model name']} (family {info['cpu family']}, model {info['model']}, {vector})"
    except (OSError, KeyError, ValueError):
        return platform.processor() or platform.machine()

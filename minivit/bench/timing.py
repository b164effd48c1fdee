"""How things are timed: alternately, after a warm-up, with medians and their spread, and the machine named."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median over the rounds, and the quartiles."""

    median: float
    low: float
    high: float
    rounds: int


def alternate(candidates: Mapping[str, Callable[[], Any]], rounds: int = 10, min_seconds: float = 0.05) -> dict[str, Timing]:
    """Times each candidate once per round, in turn, so that a slow spell of the machine meets all of them.

    A candidate faster than `min_seconds` is called several times per round.
    """
    calls = {}
    for name, call in candidates.items():
        call()
        start = time.perf_counter()
        call()
        calls[name] = max(1, int(min_seconds / max(time.perf_counter() - start, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            gc.collect()
            start = time.perf_counter()
            for _ in range(calls[name]):
                call()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    quartiles = {name: np.quantile(s, [0.25, 0.5, 0.75]).tolist() for name, s in seconds.items()}
    return {name: Timing(median, low, high, rounds) for name, (low, median, high) in quartiles.items()}


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
    }
    try:
        import torch

        facts["torch"] = f"{torch.__version__} ({torch.get_num_threads()} threads)"
    except ImportError:
        facts["torch"] = "not installed"
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

"""A row from beginning to end: everybody's numbers are compared, then everybody is timed, then memory is measured."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import minivit as mv
from minivit.arguments import meant
from minivit.bench import floor, memory
from minivit.bench.peers import PEERS, choose
from minivit.bench.rows import EPS, ROWS, Task, ours, pose
from minivit.bench.timing import Timing, alternate, cores_of_others, same_threads

ALLOWED = {"train": 1e-3, "infer": 1e-3, "pgd": 0.1}  # how far a peer's numbers may be from ours, see `gap`


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    about: str
    threads: int
    seconds: dict[str, Timing]  # "minivit", peers, "floor, ..."; "minivit, tanh" for those who have no exact GELU
    gaps: dict[str, float]  # peer -> how far its numbers are from minivit's
    peak_bytes: dict[str, int]  # "minivit", "pytorch" -> peak memory of a training step
    others: float | None  # cores that other programs kept busy meanwhile; a busy machine makes ratios worthless

    def ratio(self, peer: str) -> float:
        """How many times as fast as the peer minivit is; NaN if that was not measured."""
        if peer not in self.seconds:
            return math.nan
        mine = _mine(PEERS[peer].gelu)
        return self.seconds[peer].median / self.seconds[mine if mine in self.seconds else "minivit"].median

    @property
    def over_floor(self) -> float:
        """How many times as long as its matrix products alone minivit takes."""
        floors = [timing.median for name, timing in self.seconds.items() if name.startswith("floor")]
        return self.seconds["minivit"].median / min(floors)


def run(
    names: Sequence[str] | None = None,
    rounds: int = 10,
    peers: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Callable[[str], Any] = lambda _: None,
) -> Iterator[Row]:
    """Measures rows, one at a time.

    Args:
        names: of ROWS, or their first words: "train", "infer", "pgd", "tokens", "import"; all by default.
        rounds: how often each candidate is timed.
        peers: of PEERS; by default all that are installed.
        threads: of everybody; by default what minivit would use.
        progress: is told the name of each row as it begins, and which of the peers that were named it has not.

    Raises:
        ValueError: for an unknown row or peer.
        ImportError: for a peer that is not installed.
        RuntimeError: if a peer computes different numbers.
    """
    chosen, asked = chosen_rows(names, ROWS), choose(peers)
    threads = mv.backend.num_threads() if threads is None else threads

    def measured() -> Iterator[Row]:
        for name in chosen:
            missing = [peer for peer in asked if peer not in ROWS[name].peers] if peers is not None else []
            progress(f"{name}, which {' and '.join(missing)} cannot do" if missing else name)
            yield _measure(name, ROWS[name], rounds, [peer for peer in asked if peer in ROWS[name].peers], threads)

    return measured()


def chosen_rows(names: Sequence[str] | None, rows: dict[str, Task]) -> list[str]:
    """The rows by these names or first words, in their order; all if None. Raises ValueError for one that is not there."""
    chosen = []
    for name in list(rows) if names is None else names:
        found = [row for row in rows if name in (row, row.partition("-")[0])]
        if not found:
            raise ValueError(f"unknown row {name!r}; {meant(name, rows)}")
        chosen += found
    return list(dict.fromkeys(chosen))


def _mine(gelu: str) -> str:
    """minivit's name in a row, by the form of its GELU."""
    return "minivit" if gelu == "exact" else f"minivit, {gelu}"


def _measure(name: str, task: Task, rounds: int, asked: list[str], threads: int) -> Row:
    gaps: dict[str, float] = {}
    with same_threads(threads, asked), cores_of_others() as others:
        if task.what == "import":
            timings = alternate(_imports(asked), rounds)
        else:
            steps, gaps = _compared(task, asked)
            timings = alternate({**steps, **floor.candidates(task, threads)}, rounds)
    who = ["minivit", *(peer for peer in asked if peer == "pytorch")] if task.what == "train" else []
    peaks = {candidate: memory.peak(name, candidate, threads) for candidate in who}
    return Row(name, task.about, threads, timings, gaps, _known(peaks), others())


def _known(peaks: dict[str, int | None]) -> dict[str, int]:
    return {who: size for who, size in peaks.items() if size is not None}


def _compared(task: Task, asked: list[str]) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """The steps of minivit and of the peers, and how far the peers' numbers are from ours."""
    steps: dict[str, Callable[[], Any]] = {}
    gaps: dict[str, float] = {}
    for gelu in dict.fromkeys(["exact", *(PEERS[peer].gelu for peer in asked)]):
        problem = pose(task, gelu)
        candidate = ours(problem)
        steps[_mine(gelu)], mine = candidate.step, candidate.read(candidate.step())
        for peer in asked:
            if PEERS[peer].gelu == gelu:
                candidate = PEERS[peer].candidate(problem)
                gaps[peer] = gap(mine, candidate.read(candidate.step()), task.what)
                if not gaps[peer] <= ALLOWED[task.what]:
                    raise RuntimeError(f"{task.about}: minivit and {peer} compute different numbers (they differ by "
                                       f"{gaps[peer]:.1e}); a comparison of their times would mean nothing")
                steps[peer] = candidate.step
    return steps, gaps


def gap(mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray], what: str) -> float:
    """The largest difference in any array over its largest value; for an attack, the share of images that end elsewhere.

    (Where a pixel's gradient is nearly zero its sign differs, and a step goes the other way: pixels cannot be compared
    one by one.)
    """
    if what == "pgd":
        apart = np.abs(mine[0] - theirs[0]).reshape(len(mine[0]), -1).max(axis=1)
        return float(np.mean(apart > EPS / 2))
    apart = [np.abs(a - b).max() / max(np.abs(b).max(), 1e-30) for a, b in zip(mine, theirs, strict=True)]
    return float(np.max(apart))  # NaN if there is one, which Python's max may lose


def _imports(asked: list[str]) -> dict[str, Callable[[], Any]]:
    def running(code: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    # minivit's rooms are loaded when they are used: Tensor brings autograd and NumPy
    return {
        "minivit": running("import minivit; minivit.Tensor"),
        **{peer: running(f"import {PEERS[peer].imports[0]}") for peer in asked},
        "floor, NumPy": running("import numpy"),
    }

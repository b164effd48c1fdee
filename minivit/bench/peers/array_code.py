"""minivit without its compiled kernels: what a machine without a C compiler gets, and what the kernels bring."""

from __future__ import annotations

from typing import Any

from minivit.backend import array_code
from minivit.bench.rows import Candidate, Problem, ours


def candidate(problem: Problem) -> Candidate:
    mine = ours(problem)

    def step() -> Any:
        with array_code():
            return mine.step()

    return Candidate(step, mine.read)

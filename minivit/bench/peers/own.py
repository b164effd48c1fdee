"""minivit itself in three other ways, for what they show.

`whole`: with every row of the last block computed, as its peers do, though the logits are made of the class token's alone.
`unfused`: one operation after the other, as the text of a block says, and not several blocks in one. `arrays`: without
its compiled kernels, as on a machine without a C compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from minivit.backend import array_code
from minivit.bench.rows import Candidate, Problem, ours
from minivit.models.encoder import all_tokens, by_operation


def whole(problem: Problem) -> Candidate:
    return _within(all_tokens, problem)


def unfused(problem: Problem) -> Candidate:
    return _within(by_operation, problem)


def arrays(problem: Problem) -> Candidate:
    return _within(array_code, problem)


def _within(way: Callable[[], AbstractContextManager[None]], problem: Problem) -> Candidate:
    mine = ours(problem)

    def step() -> Any:
        with way():
            return mine.step()

    return Candidate(step, mine.read)

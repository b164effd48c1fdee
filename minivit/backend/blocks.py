"""Walking over a large array in pieces that stay in the processor's cache.

A chain of elementwise passes over a large array reads and writes main memory at every pass. Done block by block, all
passes but the first find their data in the cache. On a GPU there is one block: the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK_BYTES = 1 << 18  # per array in flight; a few of them share a second-level cache of 1 MiB


def blocks(rows: int, row_bytes: int, xp: Any = np) -> Iterator[slice]:
    """Slices that cover `range(rows)`, each of about `BLOCK_BYTES` bytes if a row has `row_bytes`."""
    step = rows if xp is not np else max(1, BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, rows, max(step, 1)):
        yield slice(start, min(start + step, rows))

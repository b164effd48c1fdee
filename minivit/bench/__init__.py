"""Measuring: minivit against PyTorch (where it is installed), on the same weights, alternately, in one process.

Read `rows.py` for what is timed and `timing.py` for how.
"""

from minivit.bench.rows import ROWS, Row, run
from minivit.bench.timing import Timing, alternate, machine

__all__ = ["ROWS", "Row", "Timing", "alternate", "machine", "run"]

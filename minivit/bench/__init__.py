"""Measuring: minivit against PyTorch (where it is installed), on the same weights, alternately, in one process.

Read `rows.py` for what is timed, `timing.py` for how, `table.py` for what is printed.
"""

from minivit.bench.rows import ROWS, Row, run
from minivit.bench.table import as_json, as_text
from minivit.bench.timing import Timing, alternate, machine

__all__ = ["ROWS", "Row", "Timing", "alternate", "as_json", "as_text", "machine", "run"]

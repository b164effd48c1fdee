"""Measuring: minivit, other libraries and the machine's limit, on the same weights, alternately, in one process.

    for row in mv.bench.run(["train-digits"]):
        print(row.ratio("pytorch"), row.over_floor)

or `minivit bench` on the command line. Read `rows.py` for what is timed, `peers/` for whom it is timed against, `floor.py`
for the limit, `timing.py` and `memory.py` for how, `measure.py` for the whole, `table.py` and `plot.py` for what is shown.
"""

from minivit.bench.measure import Row, run
from minivit.bench.peers import PEERS, torch_vit
from minivit.bench.plot import figure
from minivit.bench.rows import ROWS, Task
from minivit.bench.table import as_json, as_text
from minivit.bench.timing import Timing, alternate, machine

__all__ = ["PEERS", "ROWS", "Row", "Task", "Timing", "alternate", "as_json", "as_text", "figure", "machine", "run", "torch_vit"]

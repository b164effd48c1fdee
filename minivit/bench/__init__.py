"""Measuring: minivit, other libraries and the machine's limit, on the same weights, alternately, in one process.

    for row in mv.bench.run(["train-digits"]):
        print(row.ratio("pytorch"), row.over_floor)

or `minivit bench` on the command line. Read `rows.py` for what is timed, `peers/` for whom it is timed against, `floor.py`
for the limit, `timing.py` and `memory.py` for how, `measure.py` for the whole, `table.py` and `plot.py` for what is shown,
`gpu.py` for the same on a GPU.
"""

from minivit.bench import gpu
from minivit.bench.gpu import run_on_gpu
from minivit.bench.measure import Row, run
from minivit.bench.peers import PEERS, torch_vit
from minivit.bench.plot import figure
from minivit.bench.rows import GPU_ROWS, ROWS, Task
from minivit.bench.table import as_json, as_text
from minivit.bench.timing import Timing, alternate, machine

__all__ = [
    "GPU_ROWS", "PEERS", "ROWS", "Row", "Task", "Timing", "alternate", "as_json", "as_text", "figure", "gpu", "machine", "run",
    "run_on_gpu", "torch_vit",
]  # fmt: skip

"""The lecture's pictures, each one function that returns a matplotlib figure; and the report that gathers them.

    fig = mv.viz.attention(model, image)        # shows itself at the end of a notebook's cell
    fig.savefig("attention.png")

Read `style.py` first: what all pictures share. Then `sequence.py` (image to patches), `positions.py`, `maps.py`
(attention), `examples.py` (adversarial images), `curves.py`, `computation.py` (the autograd graph), `gallery.py`,
`report.py`. Matplotlib is loaded by the first picture, its global settings stay as they are, and figures belong to
whoever holds them: nothing is opened, so nothing needs closing.
"""

from minivit.viz.computation import graph
from minivit.viz.curves import robust_accuracy, training
from minivit.viz.examples import adversarial
from minivit.viz.gallery import confusion, images
from minivit.viz.maps import attention, rollout
from minivit.viz.positions import position_similarity, positions
from minivit.viz.report import Figure, Table, Text, report
from minivit.viz.sequence import patches

__all__ = [
    "Figure",
    "Table",
    "Text",
    "adversarial",
    "attention",
    "confusion",
    "graph",
    "images",
    "patches",
    "position_similarity",
    "positions",
    "report",
    "robust_accuracy",
    "rollout",
    "training",
]

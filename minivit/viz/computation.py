"""The graph that the engine records, drawn: what `backward` walks, from the bottom up.

    x = mv.Tensor(np.ones(3), requires_grad=True)
    fig = mv.viz.graph((x * x).sum(), names={"x": x})

Every value stands below all that it was computed from (its row is the longest way from a leaf), so a walk from the last
row to the first never meets a value before all of its uses: the order that backward needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minivit.autograd import Tensor
from minivit.autograd import graph as computation
from minivit.viz.style import BLUE, literal, new_figure, picture

MOST = 150  # vertices; more cannot be read
ROW, GAP, LETTER = 0.72, 0.3, 0.077  # inches: from row to row, between neighbors, a letter's width


@picture
def graph(y: Tensor, names: Mapping[str, Tensor] | None = None) -> Any:
    """The graph of y: boxes are leaves, with their shapes, ellipses operations; an arrow is a use; beside the first the shape.

    Args:
        y: a result that needs a gradient; draw it before `backward` frees the graph.
        names: what to call some of the Tensors, by name: `dict(model.named_parameters())`.
    """
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.patheffects import withStroke

    vertices, edges = computation.graph(y, names)
    if len(vertices) > MOST:
        raise ValueError(f"y: its graph has {len(vertices):,} vertices, at most {MOST} can be drawn and read; draw a smaller "
                         "part, one layer say")
    texts = [v.label if v.kind == "operation" else f"{v.label}\n{v.shape}".strip() for v in vertices]
    widths = [LETTER * max(map(len, text.split("\n"))) + 0.4 for text in texts]
    place, ways = _layout([v.depth for v in vertices], [(e.source, e.target) for e in edges], widths)
    ends = [x + side * (w / 2 + 0.2) for (x, _), w in zip(place, widths) for side in (-1, 1)]
    ends += [x + aside for way in ways for x in way[:, 0] for aside in (-0.5, 0.7)]  # to the right stands a shape
    low, high = min(ends), max(ends)
    top, bottom = -0.45, place[:, 1].max() + 0.45
    fig = new_figure(high - low, bottom - top)
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1), xlim=(low, high), ylim=(bottom, top))  # in inches, downward
    ax.axis("off")
    boxes = []
    for (x, row), v, text in zip(place, vertices, texts):
        box = {"boxstyle": "square,pad=0.35", "edgecolor": BLUE, "facecolor": "#DCEBF7"} if v.kind == "leaf" else \
              {"boxstyle": "ellipse,pad=0.25", "edgecolor": "black", "facecolor": "white"}
        boxes.append(ax.text(x, row, literal(text), ha="center", va="center", fontsize=9, color="black", zorder=3, bbox=box))
    uses: dict[tuple[int, int], int] = {}
    said: set[int] = set()  # a value's shape is written once
    for (source, target, shape), way in zip(edges, ways):
        again = uses[source, target] = uses.get((source, target), -1) + 1  # x * x: the second arrow bends aside
        ax.plot(way[:-1, 0], way[:-1, 1], color="0.3", linewidth=1.1, zorder=1)
        ax.add_patch(FancyArrowPatch(  # drawn after the boxes, whose outlines, at which it ends, are known only then
            tuple(way[-2]), tuple(way[-1]), arrowstyle="-|>", mutation_scale=11, linewidth=1.1, color="0.3", zorder=4,
            patchA=boxes[source].get_bbox_patch() if len(way) == 2 else None, patchB=boxes[target].get_bbox_patch(),
            shrinkA=0, shrinkB=1, connectionstyle=f"arc3,rad={0.4 * again}"))
        if shape is not None and vertices[source].kind == "operation" and source not in said:
            said.add(source)
            x, row = 0.5 * (way[0] + way[1])
            ax.text(x + 0.06, row, f"{shape}", fontsize=7.5, ha="left", va="center", color="0.3", zorder=5,
                    path_effects=[withStroke(linewidth=2.5, foreground="white")])
    return fig


def _layout(
    depths: list[int], edges: list[tuple[int, int]], widths: list[float]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Where each vertex goes, (n, 2) in inches, and the points that each edge passes.

    After Sugiyama et al. (1981). Rows by depth, leaves just above their first use. An edge that crosses rows gets an
    invisible vertex in each, so that it leads around what stands there. Then every row is sorted by the mean place of its
    neighbors, down and up by turns, which takes most crossings away.
    """
    fed = {t for _, t in edges}
    row = [d if i in fed else min((depths[t] for s, t in edges if s == i), default=1) - 1 for i, d in enumerate(depths)]
    widths = list(widths)
    chains: list[list[int]] = []
    links: list[tuple[int, int]] = []
    for s, t in edges:
        passed = list(range(len(row), len(row) + row[t] - row[s] - 1))
        row += range(row[s] + 1, row[t])
        widths += [0.3] * len(passed)
        chains.append([s, *passed, t])
        links += zip(chains[-1], chains[-1][1:])
    near: list[list[list[int]]] = [[[] for _ in row], [[] for _ in row]]
    for s, t in links:
        near[0][t].append(s)
        near[1][s].append(t)
    rows = [[i for i in range(len(row)) if row[i] == r] for r in range(max(row) + 1)]
    x = np.zeros(len(row))
    for layer in rows:
        x[layer] = _spread(np.zeros(len(layer)), [widths[i] for i in layer])
    for sweep in range(12):
        side = near[sweep % 2]
        for layer in rows[:: -1 if sweep % 2 else 1]:
            wish = {i: float(np.mean(x[side[i]])) if side[i] else float(x[i]) for i in layer}
            layer.sort(key=wish.__getitem__)
            x[layer] = _spread(np.array([wish[i] for i in layer]), [widths[i] for i in layer])
    place = np.column_stack([x, ROW * np.array(row)])
    return place[: len(depths)], [place[chain] for chain in chains]


def _spread(wishes: np.ndarray, widths: list[float]) -> np.ndarray:
    """Places in the order given that do not overlap, near the wishes (ascending)."""
    x = wishes.astype(float)
    for i in range(1, len(x)):
        x[i] = max(x[i], x[i - 1] + (widths[i - 1] + widths[i]) / 2 + GAP)
    return x + (wishes - x).mean()

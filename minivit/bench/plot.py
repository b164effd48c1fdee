"""The figure of a run: how many times as fast minivit is, row by row, and how time and memory grow with the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minivit.bench.measure import Row
from minivit.bench.peers import PEERS
from minivit.bench.timing import BUSY, machine
from minivit.viz.style import line, new_figure, picture


@picture
def figure(rows: Sequence[Row]) -> Any:
    """A matplotlib figure of what `run` measured: ratios on a logarithmic scale, growth on two."""
    growth = sorted((row for row in rows if row.name.startswith("tokens-")), key=_tokens)
    others = [row for row in rows if row not in growth]
    if not rows:
        raise ValueError("rows: nothing was measured, so there is nothing to draw")
    fig = new_figure(6.4 * bool(others) + 3.6 * bool(growth), max(2.6 + 0.3 * len(others), 6.0 if growth else 0))
    fig.suptitle(_about(rows), fontsize=9)
    panels = fig.subfigures(1, 2, width_ratios=[6.4, 3.6]) if others and growth else [fig, fig]
    if others:
        _ratios(panels[0].subplots(), others)
    if growth:
        time, memory = panels[1].subplots(2, 1, sharex=True)
        _growth(time, growth, "ms per training step", lambda row: {w: 1e3 * t.median for w, t in row.seconds.items()})
        _growth(memory, growth, "peak MB of a training step", lambda row: {w: b / 1e6 for w, b in row.peak_bytes.items()})
        time.set_title("one image, D192, 2 blocks")
        memory.set_xlabel("tokens")
        time.legend()
    return fig


def _about(rows: Sequence[Row]) -> str:
    """The machine, and what the table says below: whether the ratios can be trusted."""
    parts = [f"{machine()['processor']}; {rows[0].threads} threads"]
    if not any(peer in row.seconds for row in rows for peer in PEERS):
        parts.append("no peer was timed")
    busy = max((row.others or 0.0 for row in rows), default=0.0)
    if busy > BUSY:
        parts.append(f"other programs kept up to {busy:.1f} cores busy:\ntoo much for ratios to be trusted")
    return "\n".join(parts)


def _ratios(ax: Any, rows: Sequence[Row]) -> None:
    ax.axvline(1, color="0.5", linewidth=1)
    for i, peer in enumerate(PEERS):
        points = [(y, row) for y, row in enumerate(rows) if peer in row.seconds]
        if not points:
            continue
        x = [row.ratio(peer) for _, row in points]
        spread = [[r * (1 - row.seconds[peer].low / row.seconds[peer].median) for r, (_, row) in zip(x, points)],
                  [r * (row.seconds[peer].high / row.seconds[peer].median - 1) for r, (_, row) in zip(x, points)]]
        style = line(i) | {"linestyle": "none"}
        ax.errorbar(x, [y for y, _ in points], xerr=spread, capsize=2, label=peer, **style)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}×" if f"{value:e}"[0] in "25" else "")
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    ax.invert_yaxis()
    ax.set(xlabel="their time over minivit's (right of 1: minivit is faster)",
           title="how many times as fast; bars: quartiles of their times")
    ax.grid(axis="x", which="both", alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend()


def _growth(ax: Any, rows: Sequence[Row], label: str, values: Any) -> None:
    for i, who in enumerate(("minivit", "pytorch")):
        points = [(_tokens(row), values(row)[who]) for row in rows if who in values(row)]
        if points:
            ax.plot(*zip(*points), label=who, **line(i))
    ax.set(xscale="log", yscale="log", ylabel=label)
    ax.set_xticks([_tokens(row) for row in rows], [f"{_tokens(row):,}" for row in rows], minor=False)
    ax.minorticks_off()
    ax.grid(alpha=0.3)


def _tokens(row: Row) -> int:
    return int(row.name.partition("-")[2])

"""What is printed: tables for people, JSON for programs; always with the machine."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from minivit.bench.measure import Row
from minivit.bench.peers import PEERS, installed
from minivit.bench.timing import BUSY, machine, same_threads

_READ = """\
"ms": minivit's time. Under a peer's name: its time over that, so above 1 minivit is faster. "floor": minivit's time
over that of its matrix products alone (of import: over NumPy's). "MB": peak memory of a training step, beyond weights
and images. "numbers differ": by so much of the largest value; in an attack, on this share of the images."""


def as_text(rows: Sequence[Row]) -> str:
    """One line per row, then one per measurement, then the machine."""
    peers = [peer for peer in PEERS if any(peer in row.seconds for row in rows)]
    memory = [who for who in ("minivit", *PEERS) if any(who in row.peak_bytes for row in rows)]
    short = [["row", "ms", *peers, "floor", *("MB" if who == "minivit" else f"MB {who}" for who in memory)]]
    for row in rows:
        ratios = [number(row.ratio(peer), 2) for peer in peers]
        peaks = [number(row.peak_bytes.get(who, math.nan) / 1e6, 1) for who in memory]
        short.append([row.name, number(1e3 * row.seconds["minivit"].median, 1), *ratios, number(row.over_floor, 2), *peaks])
    long = [["row", "who", "ms", "quartiles", "rounds", "numbers differ"]]
    for row in rows:
        for i, (who, t) in enumerate(row.seconds.items()):
            gap = f"{row.gaps[who]:.1e}" if who in row.gaps else "-"
            median, low, high = (number(1e3 * seconds, 1) for seconds in (t.median, t.low, t.high))
            long.append([row.name if i == 0 else "", who, median, f"{low} to {high}", str(t.rounds), gap])
    facts = [[name, value] for name, value in _facts(rows).items()]
    parts = [aligned(short, 1), _READ, *_left_out(), "", aligned(long, 2), "", aligned(facts, 2)]
    return "\n".join(parts)


def as_json(rows: Sequence[Row]) -> str:
    """All that was measured, as JSON."""
    data = [
        {**dataclasses.asdict(row), "ratios": {peer: row.ratio(peer) for peer in PEERS if peer in row.seconds},
         "over_floor": row.over_floor}
        for row in rows
    ]  # fmt: skip
    return json.dumps({"rows": data, "machine": _facts(rows)}, indent=2)


def _left_out() -> list[str]:
    """Why a column or a field is empty."""
    missing = [peer for peer in PEERS if peer not in installed() and PEERS[peer].here()]
    lines = [
        "whole is minivit with all rows of the last block computed, as its peers do; it leaves out those that nobody reads.",
        "unfused is minivit one operation after the other; in small models it computes several blocks in one.",
        "arrays is minivit without its compiled kernels: what a machine without a C compiler gets.",
        "mygrad has no erf: it and, for its ratio, minivit run the tanh form of GELU.",
        '"-": not measured. autograd and mygrad are timed up to ViT-Ti, beyond which a step of theirs takes many seconds.',
    ]
    return lines + ([f"Not installed: {', '.join(missing)} (pip install 'minivit[bench]')."] if missing else [])


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    with same_threads(rows[0].threads):
        facts = {"threads": f"{rows[0].threads}, the same for all", **machine()}
    busy = max((row for row in rows if row.others is not None), key=lambda row: row.others or 0.0, default=None)
    if busy is not None and busy.others is not None:
        facts["other programs"] = f"kept at most {busy.others:.2f} cores busy ({busy.name})"
        if busy.others > BUSY:
            facts["other programs"] += ": too much for ratios to be trusted, measure again on a quiet machine"
    return facts


def number(value: float, decimals: int) -> str:
    """So many decimals, none from 100 on; "-" for what was not measured."""
    return "-" if math.isnan(value) else f"{value:,.{0 if value >= 100 else decimals}f}"


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """Columns of one width each, the first `left` of them flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    cells = [[f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths))] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in cells)

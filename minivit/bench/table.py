"""What is printed: a table for people, JSON for programs; always with the machine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from minivit.bench.rows import Row
from minivit.bench.timing import Timing, machine


def as_text(rows: Sequence[Row]) -> str:
    lines = ["row            minivit, ms (quartiles)     peer, ms (quartiles)           times as fast   numbers differ by"]
    for row in rows:
        peers = [(name, t) for name, t in row.seconds.items() if name != "minivit"]
        peer = f"{peers[0][0]} {_ms(peers[0][1])}" if peers else "none installed"
        ratio = f"{row.ratio:.2f}" if row.ratio else "-"
        gap = "-" if row.gap is None else f"{row.gap:.1e}"
        lines.append(f"{row.name:14} {_ms(row.seconds['minivit']):27} {peer:30} {ratio:15} {gap}")
    facts = machine()
    width = max(map(len, facts))
    return "\n".join([*lines, "", *(f"{name:{width}}  {value}" for name, value in facts.items())])


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps({"rows": [{**dataclasses.asdict(r), "ratio": r.ratio} for r in rows], "machine": machine()}, indent=2)


def _ms(t: Timing) -> str:
    return f"{1e3 * t.median:.4g} ({1e3 * t.low:.4g} to {1e3 * t.high:.4g})"

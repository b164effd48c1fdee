"""The report: one HTML file that holds everything, pictures included, and can be mailed, printed and read offline.

    mv.viz.report("report.html", "Digits", [
        mv.viz.Text("What was done", "A small Vision Transformer was trained and attacked."),
        mv.viz.Table("Accuracy", ["model", "clean", "PGD-20"], [["natural", "98.1 %", "0.6 %"]]),
        mv.viz.Figure("Curves", mv.viz.training(history), alt="The loss falls from 2.3 to 0.1 within 20 epochs."),
    ], config={"seed": 0, "eps": 0.15})

No script, no link to anything outside, and every text is escaped, so a class may be called <b>.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minivit.io import atomic_write
from minivit.viz.style import png


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by blank lines."""

    heading: str
    text: str


@dataclass(frozen=True)
class Table:
    """Column names, and rows of as many values; numbers are set to the right. `note` stands below."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A matplotlib figure; `alt` says what it shows to who cannot see it, `caption` stands below."""

    heading: str
    figure: Any
    alt: str
    caption: str = ""


CSS = """
:root { color-scheme: light dark; --text: #1b1b1b; --faint: #5c5c5c; --page: #ffffff; --line: #d0d0d0; --band: #f4f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --faint: #a8a8a8; --page: #16181b; --line: #3c4046; --band: #202429 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--text); background: var(--page);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
figure { margin: 0 } img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px }
figcaption, .note { color: var(--faint); font-size: .9em; margin-top: .4rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
thead th { border-bottom: 2px solid var(--faint) } .number { text-align: right }
tbody tr:nth-child(even) { background: var(--band) }
summary { cursor: pointer } pre { overflow-x: auto; padding: .8rem; background: var(--band); font-size: .85rem }
@media print {
  :root { --text: #000; --faint: #333; --page: #fff; --line: #999; --band: #fff }
  body { max-width: none; padding: 0; font-size: 10pt } section { break-inside: avoid } h2 { break-after: avoid }
  pre { white-space: pre-wrap }
}
"""


def report(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Text | Table | Figure],
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report to `path`, atomically: an older one survives a failure.

    Args:
        path: the .html file; its folder must exist.
        title: the heading of the page.
        sections: in the order in which they are read.
        config: settings, shown folded away at the end.

    Raises:
        TypeError, ValueError: for a section that is none, a row of another length, a figure without `alt`.
        OSError: if the file cannot be written.
    """
    body = "\n".join(_section(i, section) for i, section in enumerate(sections))
    if config is not None:
        text = json.dumps(config, indent=2, ensure_ascii=False, default=_as_plain)
        body += f"\n<details>\n<summary>Settings</summary>\n<pre>{_safe(text)}</pre>\n</details>"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_safe(title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{_safe(title)}</h1>
{body}
</body>
</html>
"""
    with atomic_write(path) as file:
        file.write(page.encode("utf-8"))


def _section(i: int, section: Any) -> str:
    if isinstance(section, Text):
        content = "\n".join(f"<p>{_safe(part.strip())}</p>" for part in section.text.split("\n\n") if part.strip())
    elif isinstance(section, Table):
        content = _table(i, section)
    elif isinstance(section, Figure):
        content = _figure(i, section)
    else:
        raise TypeError(f"sections[{i}]: expected a Text, Table or Figure of minivit.viz, got {type(section).__name__}")
    return f"<section>\n<h2>{_safe(section.heading)}</h2>\n{content}\n</section>"


def _table(i: int, table: Table) -> str:
    for j, row in enumerate(table.rows):
        if isinstance(row, str) or len(row) != len(table.columns):
            raise ValueError(f"sections[{i}]: row {j} of {table.heading!r} is {row!r}, expected {len(table.columns)} values")
    columns = [[row[k] for row in table.rows if row[k] not in ("-", "–", "")] for k in range(len(table.columns))]
    right = [bool(column) and all(map(_is_number, column)) for column in columns]
    kind = [' class="number"' if numbers else "" for numbers in right]
    head = "".join(f'<th scope="col"{k}>{_safe(name)}</th>' for name, k in zip(table.columns, kind))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{k}>{_safe(_written(value))}</td>" for value, k in zip(row, kind)) + "</tr>" for row in table.rows
    )
    note = f'\n<p class="note">{_safe(table.note)}</p>' if table.note else ""
    return f'<div class="scroll">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>{note}'


def _figure(i: int, section: Figure) -> str:
    if not hasattr(section.figure, "savefig"):
        raise TypeError(f"sections[{i}]: expected a matplotlib figure, got {type(section.figure).__name__}")
    if not section.alt.strip():
        raise ValueError(f"sections[{i}]: {section.heading!r} lacks alt; say in a sentence what the figure shows")
    data = base64.b64encode(png(section.figure)).decode("ascii")
    caption = f"\n<figcaption>{_safe(section.caption)}</figcaption>" if section.caption else ""
    return f'<figure>\n<img alt="{_safe(section.alt)}" src="data:image/png;base64,{data}">{caption}\n</figure>'


def _as_plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic) else str(value)


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _is_number(value: Any) -> bool:
    """A number, or a text that begins as one: "98.1 %"."""
    text = _written(value).split()
    try:
        float(text[0].replace(",", "").rstrip("%")) if text else float("")
    except ValueError:
        return False
    return True


def _safe(text: Any) -> str:
    """Text as HTML text or attribute. Characters that no HTML file may hold become U+FFFD."""
    clean = "".join("\ufffd" if (ord(c) < 32 and c not in "\n\t") or 0xD800 <= ord(c) < 0xE000 else c for c in str(text))
    return html.escape(clean, quote=True)

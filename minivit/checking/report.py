"""The report of a gradient check: for a reader at a terminal, for a notebook, and for a program.

    report.verdict      "right", "wrong" or "inconclusive"
    report.findings     what is the matter, the surest first, each with a stable code; empty when right
    print(report)       the same in 80 columns, with the worst elements in numbers
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# code -> what it means; the codes are stable, programs may rely on them
CODES = {
    "raised": "the backward raised an exception",
    "wrong_count": "another number of gradients than inputs",
    "wrong_shape": "a gradient whose shape is not its input's",
    "wrong_dtype": "a gradient whose dtype is not its input's",
    "not_finite": "NaN or infinity where the derivative is finite",
    "mutated_input": "the backward changed its inputs or its cotangent",
    "overwritten": "the backward used a value that was overwritten since",
    "reused_result": "the backward returns the same array each time, and overwrites what it returned before",
    "nondeterministic": "the backward answers differently each time",
    "missing_broadcast_sum": "not summed over an axis along which the input was broadcast",
    "zero_gradient": "zero although the derivative is not",
    "cotangent_ignored": "does not depend on the cotangent",
    "wrong_sign": "exactly minus the right one",
    "mean_vs_sum": "off by the length of a reduced axis, or its inverse",
    "missing_factor": "the cotangent passed through without the local derivative",
    "constant_factor": "off by a constant factor",
    "softmax_off_diagonal": "the softmax's derivative without its off-diagonal part",
    "layer_norm_term": "layer norm's mean or variance term forgotten",
    "transposed": "right numbers in the transposed place",
    "permuted": "right numbers, axes reversed, rolled or permuted",
    "swapped_inputs": "right numbers under another input's name",
    "assigned_not_added": "wrong only where several contributions should add up",
    "misplaced": "right numbers in other places",
    "missing_term": "right but for an added term",
    "kink": "the function has no derivative here",
    "float32_noise": "the function or the gradient is computed in float32",
    "inconclusive": "the differences are not precise enough to decide",
    "unexplained": "wrong, and the numbers support no cause above",
}


class Finding(NamedTuple):
    """One thing that is the matter.

    Attributes:
        code: one of `CODES`.
        message: a sentence for a reader.
        evidence: the numbers behind it, by name.
    """

    code: str
    message: str
    evidence: dict[str, Any]


class Row(NamedTuple):
    """One element of a gradient. `numeric` is known to ± `bar`."""

    element: tuple[int, ...]
    x: float
    analytic: float
    numeric: float
    bar: float

    @property
    def error(self) -> float:
        return abs(self.analytic - self.numeric)

    @property
    def relative(self) -> float:
        return self.error / abs(self.numeric) if self.numeric else (float("inf") if self.error else 0.0)

    @property
    def ratio(self) -> float:
        return self.analytic / self.numeric if self.numeric else float("nan")

    def cells(self) -> list[str]:
        index = "[" + ",".join(map(str, self.element)) + "]"
        return [index, f"{self.x:.4g}", f"{self.analytic:.5e}", f"{self.numeric:.5e} ±{self.bar:.0e}",
                f"{self.error:.1e}", f"{self.relative:.1e}", ratio_text(self.ratio, 4)]  # fmt: skip


def ratio_text(ratio: float, digits: int = 6) -> str:
    """To so many digits; of a ratio that would be rounded to 1, what it is off by: 1+3e-07."""
    off = ratio - 1
    return f"1{off:+.0e}" if 1e-9 < abs(off) < 0.5 * 10.0 ** (1 - digits) else f"{ratio:.{digits}g}"


_HEADER = ["element", "x", "analytic", "numeric ± bar", "abs err", "rel err", "ratio"]
_WIDTHS = [9, 9, 12, 20, 7, 7, 8]  # with the spaces between them, 78 columns


@dataclass(repr=False)
class Report:
    """What a gradient check found.

    Attributes:
        verdict: "right", "wrong" or "inconclusive".
        findings: the surest first; empty when right.
        order: the order of derivative that the report is about: the first at which something was the matter, or the
            highest that was asked for.
        name: of the function.
        input, shape: the name and shape of the input whose gradient is wrong; None when right.
        rows: its worst elements, or those of all inputs when right.
        counts: of elements: "checked", "total", "wrong"; of a whole model also "directions", the random directions through
            all elements along which it was compared.
        passed: what else was looked at and found in order.
        opinions: what other methods say, in words.
        analytic, numeric, bars: the arrays compared, one per input; None where not every element was looked at.
        seed: reproduces the check.
    """

    verdict: str
    findings: list[Finding]
    order: int
    name: str
    seed: int
    input: str | None = None
    shape: tuple[int, ...] | None = None
    rows: list[Row] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    opinions: list[str] = field(default_factory=list)
    analytic: Sequence[Any] = ()
    numeric: Sequence[Any] = ()
    bars: Sequence[Any] = ()

    def _head(self) -> str:
        where = f", {self.input} of shape {self.shape}" if self.input else ""
        return f"gradcheck {self.verdict.upper()}: {self.name}{where}, order {self.order}"

    def _counted(self) -> str:
        checked, total = self.counts.get("checked", 0), self.counts.get("total", 0)
        looked = f"all {total} elements" if checked >= total else f"{checked} of {total} elements and random directions"
        if "directions" in self.counts:  # a whole model
            looked = f"{self.counts['directions']} random directions through all {total:,} elements"
        if self.verdict == "right":
            worst = f"; largest error {max(row.error for row in self.rows):.1e}" if self.rows else ""
            return f"{looked} agree with finite differences{worst}"
        wrong = self.counts.get("wrong", 0)
        if wrong:
            return f"{wrong} element{'s differ' if wrong > 1 else ' differs'}; looked at {looked}"
        return f"looked at {looked}" if self.rows else ""

    def _tail(self) -> list[str]:
        lines = [*self.opinions]
        if self.passed:
            lines.append("in order: " + ", ".join(self.passed))
        if self.verdict != "right":
            lines.append(f"reproduce: seed={self.seed}, order={self.order}")
        return lines

    def __str__(self) -> str:
        lines = textwrap.wrap(self._head(), 79, subsequent_indent="  ")
        if self.counts and self._counted():
            lines += textwrap.wrap(self._counted(), 79, initial_indent="  ", subsequent_indent="  ")
        for k, finding in enumerate(self.findings, 1):
            lines += textwrap.wrap(f"{k}. {finding.code}: {finding.message}", 79, initial_indent="  ",
                                   subsequent_indent="     ")  # fmt: skip
        if self.rows and self.verdict != "right":
            for cells in (_HEADER, *(row.cells() for row in self.rows)):
                first, *rest = (cell.rjust(width) for cell, width in zip(cells, _WIDTHS))
                lines.append(" ".join([cells[0].ljust(len(first)), *rest]))
        for line in self._tail():
            lines += textwrap.wrap(line, 79, initial_indent="  ", subsequent_indent="    ")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag} style='text-align:right'>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        parts = [f"<p><b>{html.escape(self._head())}</b><br>{html.escape(self._counted() if self.counts else '')}</p>"]
        if self.findings:
            items = (f"<li><code>{f.code}</code>: {html.escape(f.message)}</li>" for f in self.findings)
            parts.append("<ol>" + "".join(items) + "</ol>")
        if self.rows:
            body = "".join(row(r.cells(), "td") for r in self.rows)
            parts.append(f"<table>{row(_HEADER, 'th')}{body}</table>")
        parts.append("<p>" + "<br>".join(map(html.escape, self._tail())) + "</p>")
        return "".join(parts)


class GradcheckError(AssertionError):
    """A gradient is wrong. `report` says which, where and, where the numbers show it, why."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report

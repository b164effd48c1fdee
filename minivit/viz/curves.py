"""Curves: how training went, and how accuracy falls as the adversary's reach grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minivit.viz.style import line, literal, new_figure, picture, radius

NAMES = {"linf": "L∞", "l2": "L2", "l1": "L1"}


@picture
def robust_accuracy(curves: Any) -> Any:
    """Accuracy against eps, with 95 % intervals.

    Args:
        curves: from `mv.attacks.robust_accuracy`, or several of them by name: {"natural": a, "robust": b}. Used are
            their arrays `eps`, `accuracy`, `low`, `high`, `n` and their `norm` and `attack`.
    """
    named = dict(curves) if isinstance(curves, Mapping) else {"": curves}
    if not named:
        raise ValueError("curves: expected one curve or more, got none")
    for name, curve in named.items():
        lengths = {len(getattr(curve, part, ())) for part in ("eps", "accuracy", "low", "high")}
        if len(lengths) != 1 or lengths == {0}:
            raise TypeError(f"curves: {name or 'the curve'} is a {type(curve).__name__}; expected what "
                            "mv.attacks.robust_accuracy returns: eps, accuracy, low, high, of one length")
    norms = {getattr(curve, "norm", "linf") for curve in named.values()}
    if len(norms) > 1:
        raise ValueError(f"curves: their eps are measured in different norms ({', '.join(sorted(norms))}); one picture each")

    fig = new_figure(6.4, 4.2)
    ax = fig.subplots()
    drawn = []
    for i, (_, curve) in enumerate(named.items()):
        order = np.argsort(curve.eps)
        eps, accuracy, low, high = (np.asarray(a, float)[order] for a in (curve.eps, curve.accuracy, curve.low, curve.high))
        style = line(i)
        ax.fill_between(eps, 100 * low, 100 * high, color=style["color"], alpha=0.15, linewidth=0)
        drawn.append(ax.errorbar(eps, 100 * accuracy, yerr=100 * np.stack([accuracy - low, high - accuracy]).clip(0),
                                 capsize=3, **style))  # fmt: skip
    every = np.unique(np.concatenate([np.asarray(curve.eps, float) for curve in named.values()]))
    labels = [radius(e) if e else "0" for e in every]
    if len(every) > 1 and np.diff(every).min() > 0.07 * np.ptp(every):  # room for a label at each
        ax.set_xticks(every, labels)
    norm = norms.pop()
    attacks = {a: None for curve in named.values() if (a := getattr(curve, "attack", ""))}
    counts = sorted({int(np.max(curve.n)) for curve in named.values() if hasattr(curve, "n")})
    about = [f"attack: {', '.join(attacks)}"] if attacks else []
    about += [f"{' or '.join(f'{n:,}' for n in counts)} images"] if counts else []
    ax.set(ylim=(-2, 102), xlabel=f"ε ({NAMES.get(norm, norm)}), pixels in [0, 1]", ylabel="accuracy under attack (%)",
           title=literal("; ".join(["robust accuracy, 95 % intervals", *about])))
    ax.grid(axis="y", alpha=0.3)
    if any(named):
        ax.legend(drawn, [literal(str(name)) for name in named])
    return fig


@picture
def training(history: Any) -> Any:
    """Loss, accuracy and learning rate over the epochs.

    Args:
        history: what `mv.train.fit` returns; or other rows with such names, one dict per epoch, for instance those of a
            run, `mv.io.read_jsonl("runs/.../metrics.jsonl")`.
    """
    from matplotlib.ticker import MaxNLocator

    rows = list(history)
    if not rows:
        raise ValueError("history: there are no epochs in it yet")
    if not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(f"history: expected rows, one dict per epoch, got {type(rows[0]).__name__}")
    epochs = _column(rows, "epoch")
    if np.isnan(epochs).any():
        epochs = np.arange(1.0, len(rows) + 1)
    panels = [("loss", "cross-entropy (nats)", 1), ("accuracy", "images classified correctly (%)", 100),
              ("lr", "learning rate", 1)]
    curves = {what: _curves(rows, what) for what, _, _ in panels}
    panels = [panel for panel in panels if curves[panel[0]]]
    if not panels:
        raise ValueError(f"history: its rows have no loss, accuracy or lr, only {', '.join(map(str, rows[0]))}")

    fig = new_figure(3.7 * len(panels), 3.3)
    for ax, (what, label, scale) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels):
        for part, values in curves[what].items():
            alone = len(curves[what]) == 1  # as the learning rate is
            style = line(PARTS.index(part) if part in PARTS else 0 if alone else len(PARTS)) | {"markersize": 3.5}
            if len(rows) > 40:
                style["marker"] = ""
            ax.plot(epochs, scale * values, label=part, **style)
        ax.set(title=what.replace("lr", "learning rate"), xlabel="epoch", ylabel=label)
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if what != "lr":
            ax.legend()
    return fig


PARTS = ("train", "validation", "test")


def _curves(rows: list[Mapping[str, Any]], what: str) -> dict[str, np.ndarray]:
    """part -> values, for "loss": {"train": ..., "test": ...}; parts without a number are left out."""
    names = ["lr"] if what == "lr" else [f"{part}_{what}" for part in PARTS] + [what]
    found = {name.removesuffix(f"_{what}"): _column(rows, name) for name in names}
    return {part: values for part, values in found.items() if np.isfinite(values).any()}


def _column(rows: list[Mapping[str, Any]], name: str) -> np.ndarray:
    """A value per row, NaN where there is none (JSON's null is a NaN, too)."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=float)

"""What came of a training: one row per epoch, and the curves."""

from __future__ import annotations

from typing import Any

import numpy as np

# Okabe and Ito's colors, which the color-blind can tell apart; each curve has its own dashes as well
_CURVES = {"train": ("#0072B2", "-"), "validation": ("#E69F00", "--"), "test": ("#009E73", "-.")}


class History(list[dict[str, Any]]):
    """A list of rows, one dict per epoch.

    Its names: epoch (from 1), step (from the start of training), lr, train_loss, train_accuracy (over the epoch's
    batches as they were trained on: augmented, attacked, with dropout), validation_loss, validation_accuracy, test_loss,
    test_accuracy where there are such sets, seconds, images_per_second.
    """

    def column(self, name: str) -> np.ndarray:
        """One value per epoch, NaN where a row has none: `history.column("test_accuracy")`."""
        return np.array([row.get(name, np.nan) for row in self], dtype=float)

    def plot(self) -> Any:
        """Loss and accuracy against epochs, a matplotlib figure."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(9, 3.4), layout="constrained")
        epochs = self.column("epoch")
        for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy")):
            scale = 100 if quantity == "accuracy" else 1
            for part, (color, dashes) in _CURVES.items():
                values = scale * self.column(f"{part}_{quantity}")
                if np.isfinite(values).any():
                    dot = "o" if len(self) == 1 else ""
                    axes.plot(epochs, values, dashes, color=color, marker=dot, label=part)
            axes.set_xlabel("epoch")
            axes.set_ylabel("cross-entropy" if quantity == "loss" else "accuracy (%)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend()
        return figure

    def __repr__(self) -> str:
        if not self:
            return "History(no epochs)"
        shown = {name: value for name, value in self[-1].items() if name.endswith(("loss", "accuracy"))}
        return f"History({len(self)} epochs; the last: {', '.join(f'{k} {v:.4g}' for k, v in shown.items())})"

"""What came of a training: one row per epoch, and the curves."""

from __future__ import annotations

from typing import Any

import numpy as np


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
        """The curves, a matplotlib figure: `mv.viz.training(history)`."""
        from minivit.viz import training

        return training(self)

    def __repr__(self) -> str:
        if not self:
            return "History(no epochs)"
        shown = {name: value for name, value in self[-1].items() if name.endswith(("loss", "accuracy"))}
        return f"History({len(self)} epochs; the last: {', '.join(f'{k} {v:.4g}' for k, v in shown.items())})"

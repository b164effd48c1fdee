"""What a training says while it runs, on stderr: a bar where somebody watches, one plain line per epoch elsewhere."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Args: `total` steps, `done` of them already, `epochs`; with enabled=False it is silent."""

    def __init__(self, total: int, done: int, epochs: int, enabled: bool) -> None:
        self.epochs = epochs
        self.lines = enabled and sys.stderr is not None and not _somebody_watches()
        self.bar: Any = None
        if enabled and _somebody_watches():
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)

    def step(self, epoch: int, loss: float, accuracy: float, lr: float, images_per_second: float) -> None:
        """After each step: loss and accuracy are those of the epoch so far."""
        if self.bar is not None:
            self.bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)
            self.bar.set_postfix_str(
                f"loss {loss:.3f}, acc {accuracy:.1%}, lr {lr:.1e}, {images_per_second:,.0f} img/s", refresh=False
            )
            self.bar.update()

    def epoch(self, row: dict[str, Any]) -> None:
        """After each epoch."""
        parts = [
            f"{part} loss {row[f'{part}_loss']:.4f} acc {row[f'{part}_accuracy']:.2%}"
            for part in ("train", "validation", "test")
            if f"{part}_loss" in row
        ]
        line = f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  {'  '.join(parts)}  lr {row['lr']:.1e}  " \
               f"{row['images_per_second']:,.0f} img/s"
        if self.lines:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _somebody_watches() -> bool:
    """Whether stderr is a terminal, or the output of a notebook's cell."""
    return sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in type(sys.stderr).__module__)

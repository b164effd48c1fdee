"""Where a patch stood (lecture, "Position Embedding"): without it a transformer sees a bag of patches.

Four kinds: fixed sinusoids of the position (`sinusoidal`), or of row and column (`sinusoidal_2d`), a learned table
(the ViT's default, in `vit.py`), and a learned bias on the attention scores for every relative offset
(`RelativePositionBias`). On the digits the three that are added to tokens do about equally well, and offsets alone hardly
better than none: the digits are centered, so it is the absolute place that counts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minivit.autograd import ops
from minivit.nn import Module, Parameter


def sinusoidal(num_positions: int, dim: int) -> np.ndarray:
    """PE(pos, 2j) = sin(pos / 10000^(2j/D)), PE(pos, 2j+1) = cos(pos / 10000^(2j/D)).

    Lecture, "Position Embedding"; Vaswani et al. 2017, section 3.5.

    Returns:
        (num_positions, dim) float64. dim must be even.
    """
    if dim % 2:
        raise ValueError(f"dim: sinusoids come in pairs, so it must be even, got {dim}")
    position = np.arange(num_positions)[:, None]
    frequency = 10000.0 ** (-np.arange(0, dim, 2) / dim)  # (D/2,)
    table = np.empty((num_positions, dim))
    table[:, 0::2] = np.sin(position * frequency)
    table[:, 1::2] = np.cos(position * frequency)
    return table


def sinusoidal_2d(grid: tuple[int, int], dim: int) -> np.ndarray:
    """Half of the dimensions encode a patch's row, half its column, each as `sinusoidal` does.

    Returns:
        (rows · columns, dim) float64, in the order of im2col. dim must be divisible by 4.
    """
    if dim % 4:
        raise ValueError(f"dim: row and column take pairs of sinusoids each, so it must be divisible by 4, got {dim}")
    rows, columns = grid
    by_row = np.repeat(sinusoidal(rows, dim // 2), columns, axis=0)
    by_column = np.tile(sinusoidal(columns, dim // 2), (rows, 1))
    return np.concatenate([by_row, by_column], axis=1)


class RelativePositionBias(Module):
    """A learned number per head for every offset (Δrow, Δcolumn), added to the attention scores.

    As in Swin (Liu et al. 2021), with three more entries where there is a class token: from it, to it, and to itself
    (Bao et al. 2022, BEiT).
    """

    def __init__(self, grid: tuple[int, int], num_heads: int, class_token: bool) -> None:
        super().__init__()
        rows, columns = grid
        offsets = (2 * rows - 1) * (2 * columns - 1)
        self.table = Parameter(np.zeros((offsets + 3 * class_token, num_heads), np.float32))
        self.index = _index(rows, columns, class_token)

    def forward(self) -> Any:
        return ops.transpose(self.table[self.index], axes=(2, 0, 1))  # (N, N, h) -> (h, N, N)

    def describe(self) -> str:
        return f"{self.index.shape[0]} tokens"


@lru_cache(maxsize=1)  # the blocks of a model share it
def _index(rows: int, columns: int, class_token: bool) -> np.ndarray:
    """Which row of a `RelativePositionBias`'s table is between each two tokens, (N, N)."""
    row, column = np.divmod(np.arange(rows * columns, dtype=np.int32), np.int32(columns))
    d_row = row[:, None] - row[None, :] + rows - 1  # (N, N), from 0
    d_column = column[:, None] - column[None, :] + columns - 1
    index = d_row * (2 * columns - 1) + d_column
    if class_token:
        offsets = (2 * rows - 1) * (2 * columns - 1)
        index = np.pad(index, ((1, 0), (1, 0)))
        index[0, :], index[:, 0], index[0, 0] = offsets, offsets + 1, offsets + 2
    index.flags.writeable = False
    return index

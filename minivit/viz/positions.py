"""Position embeddings (lecture, "Position Embedding"): the table itself, and what it says about who is near whom."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivit.viz.style import AMOUNT, as_array, mosaic, new_figure, picture


@picture
def positions(model_or_table: Any) -> Any:
    """A table of position embeddings as a heat map: position downward, dimension to the right.

    Args:
        model_or_table: (N, D), e.g. `mv.models.sinusoidal(64, 128)`, or a model that has one.
    """
    table, _ = _table(model_or_table)
    limit = float(np.abs(table).max()) or 1.0
    fig = new_figure(8, 4.2)
    ax = fig.subplots()
    shown = ax.imshow(table, cmap=AMOUNT, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.set(title=f"position embeddings, {table.shape[0]} positions of {table.shape[1]} dimensions",
           xlabel="dimension", ylabel="position")
    fig.colorbar(shown, ax=ax, label="value")
    return fig


@picture
def position_similarity(model_or_table: Any, grid: tuple[int, int] | None = None) -> Any:
    """For each position, the cosine similarity of its embedding to those of all positions, as a tile of a grid.

    The ViT paper's figure 7, center (Dosovitskiy et al. 2021). Where positions have been learned, or made, well, each
    tile is brightest at its own place, and often along its own row and column.

    Args:
        model_or_table: a model with absolute positions, or a table (N, D) without a class token.
        grid: (rows, columns) of patches; of a table by default a square.
    """
    table, of_model = _table(model_or_table)
    N = len(table)
    if grid is None:
        grid = of_model or (math.isqrt(N), math.isqrt(N))
    rows, columns = grid
    if rows * columns != N:
        raise ValueError(f"grid: {rows}×{columns} is not {N}, the number of positions; give grid=(rows, columns) of the "
                         "patches, and a table without the class token's row, table[1:]")
    length = np.linalg.norm(table, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"table: the embedding of position {int(length.argmin())} is zero, which has no direction; "
                         "leave the class token's row out, table[1:]")
    unit = table / length
    similarity = (unit @ unit.T).reshape(rows, columns, rows, columns)  # (N, D) @ (D, N)
    whole, y, x = mosaic(similarity)

    fig = new_figure(6.4, 5.6 * min(max(rows / columns, 0.4), 2), compressed=True)
    ax = fig.subplots()
    shown = ax.imshow(whole, cmap=AMOUNT, vmin=-1 if similarity.min() < 0 else 0, vmax=1, interpolation="nearest")
    ax.set_xticks(x, [str(i + 1) for i in range(columns)])
    ax.set_yticks(y, [str(i + 1) for i in range(rows)])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(title="similarity of position embeddings", xlabel="column of the patch", ylabel="row of the patch")
    fig.colorbar(shown, ax=ax, label="cosine similarity to each position")
    return fig


def _table(source: Any) -> tuple[np.ndarray, tuple[int, int] | None]:
    """The table (N, D) in float64, without prefix tokens, and the model's grid of patches if `source` is a model."""
    grid = None
    if hasattr(source, "patch_embed"):
        if getattr(source, "pos_embed", None) is None:
            raise ValueError("model: it has no table of absolute positions (position 'relative' or 'none')")
        grid = source.patch_embed.grid
        table = as_array(source.pos_embed)[0, source.num_prefix :]  # (1, prefix + N, D) -> (N, D)
    else:
        table = as_array(source)
    if table.ndim != 2 or 0 in table.shape or table.dtype.kind not in "fiu":
        raise ValueError(f"table: expected (positions, dimensions), got {table.dtype} of shape {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("table: there are NaN or infinite values")
    return table.astype(np.float64), grid

"""Where a Vision Transformer looks: attention as a picture (lecture, "Visual Attention").

A row of an attention matrix says how much one token takes from each. Shown is the row of the class token, from which
the answer is read; of a model that averages its patches instead, the mean over all rows. The prefix (class token) is
left out of the map and the rest laid on the grid of patches.

Pictures of attention are a help, not an explanation: what a token carries by then is a mixture already.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minivit.attacks.victim import home
from minivit.backend import to_device
from minivit.models import attention_maps, attention_rollout
from minivit.viz.style import AMOUNT, mosaic, new_figure, one_image, picture, show_image


@picture
def attention(model: Any, image: Any, layer: int | None = None, head: int | None = None) -> Any:
    """The attention of each layer (downward) and head (to the right), on one color scale, beside the image.

    Args:
        model: a ViT, or another whose forward takes `intermediates` and that has `patch_embed.grid` and `num_prefix`.
        image: (H, W, C) in [0, 1], of the model's size.
        layer, head: only this one, counted from 0 (negative from the end); with both, the map is laid over the image.
    """
    image = one_image(image)
    maps = _maps(model, image)
    tiles = np.stack([_on_grid(model, a[0]) for a in maps])  # (L, h, rows, columns)
    layers = _chosen("layer", layer, tiles.shape[0])
    heads = _chosen("head", head, tiles.shape[1])
    tiles = tiles[layers][:, heads]
    if layer is not None and head is not None:
        return _beside(image, tiles[0, 0], f"attention of {_who(model)}, layer {layers[0]}, head {heads[0]}",
                       "share of the attention")

    whole, y, x = mosaic(tiles)
    width, height = _fit(whole.shape[1] / whole.shape[0], 6.5, 6.5)
    fig = new_figure(width + 3.5, max(height, 2.0) + 1.2)
    left, right = fig.subplots(1, 2, width_ratios=[2.2, width + 1])
    show_image(left, image, "image")
    top, usual = float(tiles.max()), 2 * float(np.quantile(tiles, 0.995))
    tokens = maps[0].shape[-1]
    most = max(min(top, usual), 1 / tokens)  # where the class token keeps nearly all to itself, patches get less than that
    shown = right.imshow(whole, cmap=AMOUNT, vmin=0, vmax=most, interpolation="nearest")
    right.set_xticks(x, [str(i) for i in heads])
    right.set_yticks(y, [str(i) for i in layers])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    right.set(xlabel="head", ylabel="layer", title=f"one color scale; dashed: uniform attention, 1/{tokens}")
    bar = fig.colorbar(shown, cax=right.inset_axes((1.03, 0, 0.25 / width, 1)), label="share of the attention",
                       extend="max" if top > most else "neither")  # a few outliers must not darken the rest
    bar.ax.axhline(1 / tokens, color="white", linewidth=1.5)
    bar.ax.axhline(1 / tokens, color="black", linewidth=1.5, linestyle=(0, (2, 2)))
    fig.suptitle(f"attention of {_who(model)} to the patches")
    return fig


@picture
def rollout(model: Any, image: Any) -> Any:
    """The image, its attention rollout (Abnar and Zuidema 2020) and one laid over the other.

    Rollout follows attention through all layers, half of every token staying where it is (the residual connection). It
    is qualitative: values and MLPs are left out.
    """
    image = one_image(image)
    rolled = attention_rollout(_maps(model, image))  # (1, N, N)
    return _beside(image, _on_grid(model, rolled[0]), f"attention rollout, from the patches to {_who(model)}", "share")


def _beside(image: np.ndarray, tile: np.ndarray, title: str, label: str) -> Any:
    """Image, heat map, and the map over the image; the map keeps its resolution, one value a patch."""
    H, W, _ = image.shape
    extent = (-0.5, W - 0.5, H - 0.5, -0.5)  # the map covers the image's pixels
    fig = new_figure(9.5, 2.7 * H / W + 0.9, compressed=True)
    axes = fig.subplots(1, 3)
    show_image(axes[0], image, "image")
    show_image(axes[2], image.mean(axis=-1, keepdims=True), "map over image")
    scale: dict[str, Any] = {"cmap": AMOUNT, "vmin": 0, "vmax": float(tile.max()), "interpolation": "nearest", "extent": extent}
    heat = axes[1].imshow(tile, **scale)
    axes[2].imshow(tile, alpha=0.55, **scale)
    axes[1].set_title(f"{tile.shape[0]}×{tile.shape[1]} patches")
    axes[1].axis("off")
    fig.colorbar(heat, ax=axes[1], label=label, shrink=0.85)
    fig.suptitle(title)
    return fig


def _maps(model: Any, image: np.ndarray) -> list[np.ndarray]:
    return attention_maps(model, to_device(image[None], home(model, image)))


def _on_grid(model: Any, a: np.ndarray) -> np.ndarray:
    """Attention (..., N, N) -> (..., rows, columns): the row of the class token, else the mean of all rows."""
    rows, columns = model.patch_embed.grid
    prefix = model.num_prefix
    if a.shape[-1] != prefix + rows * columns:
        raise ValueError(f"model: attends to {a.shape[-1]} tokens, not to {prefix} + {rows}×{columns} patches; its maps do "
                         "not lie on one grid")
    row = a[..., 0, :] if prefix else a.mean(axis=-2)
    return row[..., prefix:].reshape(*a.shape[:-2], rows, columns)


def _who(model: Any) -> str:
    return "the class token" if model.num_prefix else "the mean patch"


def _chosen(name: str, index: int | None, n: int) -> list[int]:
    if index is None:
        return list(range(n))
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not -n <= index < n:
        raise ValueError(f"{name}: expected 0 to {n - 1}, got {index!r}; the model has {n} {name}s")
    return [int(index) % n]


def _fit(ratio: float, width: float, height: float) -> tuple[float, float]:
    """The largest (w, h) with w / h = ratio that fits into width × height inches."""
    return (width, width / ratio) if ratio * height > width else (ratio * height, height)

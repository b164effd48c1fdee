"""Plain looks at data and answers: a grid of labelled images, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minivit.arguments import integer
from minivit.viz.style import AMOUNT, as_array, literal, new_figure, picture, shortened, show_image, some_images


@picture
def images(dataset: Any, limit: int = 24) -> Any:
    """The first images of a data set with their labels.

    Args:
        dataset: a `Dataset`, or anything with `images` (n, H, W, C), `labels` (n,) and `classes`; `data.shuffled()[:24]`
            for a mixture.
        limit: how many at most.
    """
    shown = some_images(dataset.images[: integer("limit", limit, least=1)], "dataset.images")
    n = len(shown)
    across = min(n, 8 if n > 12 else max(4, math.ceil(n / 2)))
    down = -(-n // across)
    fig = new_figure(max(1.25 * across, 3), 1.5 * down * shown.shape[1] / shown.shape[2] + 0.5)
    axes = fig.subplots(down, across, squeeze=False).ravel()
    for ax, image, label in zip(axes, shown, dataset.labels):
        show_image(ax, image, shortened(dataset.classes[label], 14))
    for ax in axes[n:]:
        ax.axis("off")
    fig.suptitle(f"{n} of {len(dataset.images):,} images, {'×'.join(map(str, shown.shape[1:]))}")
    return fig


@picture
def confusion(labels: Any, predictions: Any, classes: Sequence[str] | None = None) -> Any:
    """How often each true class (row) was taken for each class (column): counts, shaded by the share of the row.

    Args:
        labels, predictions: (n,) integers.
        classes: names; default the numbers up to the largest.
    """
    labels, predictions = as_array(labels), as_array(predictions)
    for name, given in (("labels", labels), ("predictions", predictions)):
        if given.ndim != 1 or given.size == 0 or given.dtype.kind not in "iu" or given.min() < 0:
            hint = "; of logits take .argmax(axis=1)" if given.ndim == 2 else ""
            raise ValueError(f"{name}: expected class numbers (n,), got {given.dtype} of shape {given.shape}{hint}")
    if len(labels) != len(predictions):
        raise ValueError(f"predictions: expected one per label, {len(labels)}, got {len(predictions)}")
    most = int(max(labels.max(), predictions.max()))
    names = [str(i) for i in range(most + 1)] if classes is None else [str(name) for name in classes]
    shown_names = [literal(shortened(name)) for name in names]
    k = len(names)
    if most >= k:
        raise ValueError(f"classes: there are {k} names, but class {most} occurs")
    counts = np.bincount(labels.astype(np.int64) * k + predictions.astype(np.int64), minlength=k * k).reshape(k, k)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    size = min(max(0.5 * k, 3.0), 12.0)
    fig = new_figure(size + 1.8, size + 1)
    ax = fig.subplots()
    shown = ax.imshow(share, cmap=AMOUNT, vmin=0, vmax=1, interpolation="nearest")
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    some = range(0, k, max(1, math.ceil(k / 50)))  # of many classes every so many has its name
    ax.set_xticks(some, [shown_names[i] for i in some], **turned)
    ax.set_yticks(some, [shown_names[i] for i in some])
    ax.spines[:].set_visible(False)
    if k <= 25:
        for r, c in zip(*np.nonzero(counts)):
            ax.text(c, r, f"{counts[r, c]}", ha="center", va="center", fontsize=9,
                    color="black" if share[r, c] > 0.6 else "white")
    right = float((labels == predictions).mean())
    ax.set(xlabel="predicted class", ylabel="true class", title=f"accuracy {100 * right:.2f} % of {len(labels):,} images")
    fig.colorbar(shown, ax=ax, label="share of the true class", shrink=0.8)
    return fig

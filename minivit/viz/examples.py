"""Adversarial examples as a picture (lecture, "Adversarial Machine Learning"): the image, what was added, the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minivit.arguments import integer
from minivit.attacks import norms
from minivit.attacks.victim import home, logits_of
from minivit.autograd import ops
from minivit.backend import to_device, to_numpy
from minivit.nn.module import evaluating
from minivit.viz.style import (
    BLUE,
    SIGNED,
    VERMILION,
    as_array,
    bare,
    literal,
    new_figure,
    percent,
    picture,
    radius,
    shortened,
    show_image,
    some_images,
)

NAMES = {"linf": "L∞", "l2": "L2", "l1": "L1"}


@picture
def adversarial(
    model: Any, x: Any, result: Any, y: Any, classes: Sequence[str] | None = None, limit: int = 6
) -> Any:
    """Three rows, clean, perturbation, adversarial, with the model's answers and how sure it is of them.

    The perturbation is signed and amplified: gray is 0, and of gray images yellow adds and blue takes away. One scale for
    all columns, stated. The images are the first ones, not the best ones.

    Args:
        model: from images to logits; asked here again, so it may be another than the one attacked.
        x: (n, H, W, C) in [0, 1], as given to the attack.
        result: what the attack returned; used are `x_adv` and, where they are there, `attack`, `norm` and `eps`.
        y: (n,) the true labels.
        classes: their names; default the numbers.
        limit: how many images at most, a column each.
    """
    images, attacked = some_images(x, "x"), some_images(result.x_adv, "result.x_adv")
    labels = as_array(y)
    if attacked.shape != images.shape:
        raise ValueError(f"result: its x_adv has shape {attacked.shape}, x has {images.shape}; give the x that was attacked")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(f"y: expected {len(images)} integer labels, one per image, got {labels.dtype} of shape {labels.shape}")
    n = min(integer("limit", limit, least=1), len(images))
    total = len(images)
    images, attacked, labels = images[:n], attacked[:n], labels[:n]
    before, sure_before, count = _answers(model, images)
    after, sure_after, _ = _answers(model, attacked)
    names = [str(i) for i in range(count)] if classes is None else [shortened(str(name)) for name in classes]
    if len(names) < count or labels.max() >= count or labels.min() < 0:
        raise ValueError(f"classes, y: the model has {count} classes, there are {len(names)} names and labels from "
                         f"{labels.min()} to {labels.max()}")
    added = attacked.astype(np.float64) - images
    limit_ = float(np.abs(added).max()) or 1.0
    gray = images.shape[-1] == 1

    wide = max(1.45, 0.085 * (8 + max(len(names[i]) for i in {*labels, *before, *after})))  # room for "name (100 %)"
    width = max(wide * n + 1.2, 5.5)
    fig = new_figure(width, 3 * 1.45 + 1.7)
    axes = fig.subplots(3, n, squeeze=False)
    for i in range(n):
        show_image(axes[0, i], images[i], f"true: {names[labels[i]]}")
        _says(axes[0, i], names[before[i]], sure_before[i], before[i] == labels[i], "right", "wrong")
        if gray:
            shown = axes[1, i].imshow(added[i, ..., 0], cmap=SIGNED, vmin=-limit_, vmax=limit_, interpolation="nearest")
        else:
            axes[1, i].imshow(0.5 + added[i] / (2 * limit_), interpolation="nearest")
        bare(axes[1, i])
        axes[1, i].set_xlabel(_size(added[i], result))
        show_image(axes[2, i], attacked[i])
        _says(axes[2, i], names[after[i]], sure_after[i], after[i] == labels[i], "not fooled",
              "fooled" if before[i] == labels[i] else "still wrong")
    factor = 1 / (2 * limit_)
    for ax, name in zip(axes[:, 0], ("clean", f"perturbation\n× {factor:.3g}, gray is 0", "adversarial")):
        ax.set_ylabel(name, fontsize=11)
    if gray:
        fig.colorbar(shown, ax=axes, label="added", shrink=0.3, aspect=12, ticks=[-limit_, 0, limit_],
                     format=lambda v, _: f"{v:+.2g}" if v else "0")
    title = _title(result, n, total)
    fig.suptitle(literal(title if 0.1 * len(title) < width else title.replace("; ", "\n")))
    return fig


def _answers(model: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The model's classes, their probabilities, and how many classes there are; its modes stay as they were."""
    with evaluating(model):
        logits = to_numpy(logits_of(model, to_device(images, home(model, images))))
    p = ops.softmax(logits.astype(np.float64), axis=-1)
    return p.argmax(axis=1), p.max(axis=1), p.shape[1]


def _says(ax: Any, name: str, sure: float, right: bool, yes: str, no: str) -> None:
    ax.set_xlabel(f"{literal(name)} ({percent(sure)})\n{yes if right else no}", color=BLUE if right else VERMILION,
                  fontweight="normal" if right else "bold")


def _size(added: np.ndarray, result: Any) -> str:
    norm = getattr(result, "norm", "linf")
    distance = float(norms.distance(added[None], np.zeros_like(added[None]), norm)[0])
    return f"{NAMES.get(norm, norm)} {distance:.3g}"


def _title(result: Any, n: int, total: int) -> str:
    parts = [getattr(result, "attack", "")]
    if hasattr(result, "eps"):
        parts.append(f"{NAMES.get(result.norm, result.norm)}, ε = {radius(result.eps)}")
    parts.append(f"first {n} of {total:,} images" if n < total else f"{n} image{'s' * (n > 1)}")
    success = getattr(result, "success", None)
    title = ", ".join(filter(None, parts))
    if success is None:
        return title
    what = "sent to their targets" if getattr(result, "targeted", False) else "misclassified"
    return f"{title}; {int(np.sum(success)):,} of {total:,} {what}"

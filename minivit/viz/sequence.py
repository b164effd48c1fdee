"""From an image to a sequence (lecture, "Image to Patches"): N = HW / P² patches, numbered as the model reads them."""

from __future__ import annotations

from typing import Any

from minivit.arguments import integer
from minivit.autograd import ops
from minivit.viz.style import BLACK, VERMILION, YELLOW, new_figure, one_image, picture, show_image

SHOWN = 32  # so many patches of the sequence are drawn; of a longer one the first, and the last


@picture
def patches(image: Any, patch_size: int) -> Any:
    """The image, its patches numbered in the order of im2col (row by row, from 1), and the sequence they become.

    Args:
        image: (H, W, C) in [0, 1].
        patch_size: P, in pixels; must divide H and W.

    Returns:
        The matplotlib figure.
    """
    image = one_image(image)
    P = integer("patch_size", patch_size, least=1)
    H, W, C = image.shape
    if H % P or W % P:
        raise ValueError(f"patch_size {P} does not divide the image size {H}×{W}; choose a divisor of both, or crop the image")
    rows, columns = H // P, W // P
    N = rows * columns
    sequence = ops.im2col(image[None], patch_size=P)[0].reshape(N, P, P, C)  # (N, P²C) -> (N, P, P, C)

    wide = W > 2.5 * H  # such pictures one below the other
    tall = min(16 * H / W + 0.9 if wide else 4 * H / W, 8)  # inches
    fig = new_figure(8, tall + (2.2 if N > 16 else 1.5))
    top, bottom = fig.subfigures(2, 1, height_ratios=[tall, 1.7 if N > 16 else 1])
    left, right = top.subplots(*((2, 1) if wide else (1, 2)))
    show_image(left, image, f"image x, {H}×{W}×{C}")
    show_image(right, image, f"{rows}×{columns} patches of {P}×{P}")
    for r in range(1, rows):
        right.axhline(r * P - 0.5, color=YELLOW, linewidth=1)
    for c in range(1, columns):
        right.axvline(c * P - 0.5, color=YELLOW, linewidth=1)
    size = min(14.0, (220 if wide else 110) / max(columns, rows))  # points: a patch is about 250 / columns points wide
    step = 1 if size >= 6 else 0
    for i in range(N):
        r, c = divmod(i, columns)
        if step or c in (0, columns - 1):  # too small for all: the first and the last of each row
            right.text((c + 0.5) * P - 0.5, (r + 0.5) * P - 0.5, str(i + 1), ha="center", va="center", color=BLACK,
                       fontsize=max(size, 5), bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75,
                                                    "linewidth": 0})

    numbers = list(range(N)) if N <= SHOWN else [*range(SHOWN - 2), None, N - 1]
    across = min(len(numbers), 16)
    axes = bottom.subplots(-(-len(numbers) // across), across, squeeze=False).ravel()
    for ax, i in zip(axes, numbers):
        if i is None:
            ax.text(0.5, 0.5, "…", ha="center", va="center", fontsize=14, color=VERMILION)
            ax.axis("off")
        else:
            show_image(ax, sequence[i], str(i + 1))
            ax.spines[:].set(visible=True, color="0.6", linewidth=0.8)  # a white patch on white paper
    for ax in axes[len(numbers):]:
        ax.axis("off")
    bottom.suptitle(f"sequence p: N = {N} patches, each flattened to P²C = {P * P * C} numbers", fontsize=10)
    return fig

"""What all pictures share: colors that survive color blindness and print, axes for images, and checked inputs.

Colors are those of Okabe and Ito ("Color Universal Design", 2008) for lines, viridis for amounts, and cividis, gray
at 0, for what has a sign: its dark blue and light yellow remain dark and light in print. No meaning rests on color alone:
lines differ in marker and dash, too.

Pictures are made with matplotlib's objects, not with pyplot: no global figure list, no window, no setting changed.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from minivit.autograd import Tensor
from minivit.backend import to_numpy

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, YELLOW, BLACK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000", "#8C8C8C",
)  # fmt: skip
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)  # yellow is too faint for a line on white
MARKERS, DASHES = "osD^vPX*", ("-", "--", "-.", ":")
AMOUNT, SIGNED = "viridis", "cividis"  # names of color maps
STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "figure.titlesize": 12.0,
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "savefig.dpi": 150,
}

P = ParamSpec("P")
R = TypeVar("R")


def picture(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: `function` runs under STYLE, and matplotlib's settings are afterwards what they were."""

    @functools.wraps(function)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return styled


@functools.cache
def _figure_class() -> Any:
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that pyplot does not know of and that notebooks can show all the same."""

        def _repr_png_(self) -> bytes:
            return png(self, dpi=100)

    return Picture


def new_figure(width: float, height: float, compressed: bool = False) -> Any:
    """An empty matplotlib Figure of that size in inches, in constrained layout; compressed: for images side by side."""
    fig = _figure_class()(figsize=(width, height), layout="compressed" if compressed else "constrained")
    fig.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    return fig


def png(figure: Any, dpi: float = 150) -> bytes:
    """A matplotlib figure as the bytes of a PNG file, which hold nothing but the picture: no date, no version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def line(i: int) -> dict[str, Any]:
    """Color, marker and dash of the i-th line of a picture."""
    dash = DASHES[(i + i // 8) % 4]  # the ninth has the color of the first, and another dash
    return {"color": COLORS[i % 8], "marker": MARKERS[i % 8], "linestyle": dash, "markersize": 5, "linewidth": 1.6}


def show_image(ax: Any, image: np.ndarray, title: str = "") -> Any:
    """Draws an image (H, W, 1 or 3) in [0, 1], one pixel a square, without ticks."""
    shown = np.clip(image[..., 0] if image.shape[-1] == 1 else image, 0, 1)
    artist = ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    bare(ax)
    ax.set_title(literal(title))
    return artist


def bare(ax: Any) -> None:
    """Takes ticks and frame away, and leaves labels."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def mosaic(tiles: np.ndarray, gap: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles (rows, columns, h, w) side by side in one array, NaN between them.

    Returns:
        the array (rows (h + gap) - gap, columns (w + gap) - gap), and the centers of the tiles along y (rows,) and x.
    """
    rows, columns, h, w = tiles.shape
    padded = np.full((rows, columns, h + gap, w + gap), np.nan)
    padded[:, :, :h, :w] = tiles
    whole = padded.transpose(0, 2, 1, 3).reshape(rows * (h + gap), columns * (w + gap))
    y, x = np.arange(rows) * (h + gap) + (h - 1) / 2, np.arange(columns) * (w + gap) + (w - 1) / 2
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap], y, x


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 0.995 or share == 1 else f"{100 * share:.1f} %"


def literal(name: str) -> str:
    """Somebody's text for a picture as it is: a dollar in it begins no formula."""
    return name.replace("$", r"\$")


def shortened(name: str, most: int = 20) -> str:
    """A class's name, cut where it is too long to stand under an image."""
    return name if len(name) <= most else name[: most - 1].rstrip(" ,") + "…"


def radius(eps: float) -> str:
    """eps as people write it: 0.15 where two decimals say it, 8/255 where it is so many gray levels, else four digits."""
    levels = round(eps * 255)
    whole = levels > 0 and abs(eps * 255 - levels) < 1e-6
    return f"{levels}/255" if whole and abs(round(eps, 2) - eps) > 1e-9 else f"{eps:.4g}"


def as_array(value: Any) -> np.ndarray:
    """A Tensor's or a GPU's values as a NumPy array; not a copy where none is needed."""
    return np.asarray(to_numpy(value.data if isinstance(value, Tensor) else value))


def one_image(image: Any) -> np.ndarray:
    """`image` as a checked (H, W, C) array of floats in [0, 1]."""
    array = as_array(image)
    if array.ndim == 4:
        raise ValueError(f"image: expected one image (H, W, C), got shape {array.shape}; choose one, images[0]")
    if array.ndim == 2:
        raise ValueError(f"image: expected (H, W, C), got shape {array.shape}; add the channel axis, image[..., None]")
    return some_images(array[None], "image")[0]


def some_images(images: Any, name: str) -> np.ndarray:
    """`images` as a checked (n, H, W, C) array of floats in [0, 1] with 1 or 3 channels."""
    array = as_array(images)
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        got = array.shape if name != "image" else array.shape[1:]
        raise ValueError(f"{name}: expected {'(H, W, C)' if name == 'image' else '(n, H, W, C)'} with 1 or 3 channels, "
                         f"channels last, got shape {got}")
    if array.dtype.kind != "f":
        raise TypeError(f"{name}: expected floats in [0, 1], got {array.dtype}; divide by 255")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name}: there are NaN or infinite pixels")
    if low < -1e-5 or high > 1 + 1e-5:
        raise ValueError(f"{name}: expected pixels in [0, 1], got values from {low:g} to {high:g}")
    return array

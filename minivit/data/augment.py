"""Augmentation: a digit that is moved by two pixels is still that digit, and a new image to the model.

A convolution knows this by construction; a Vision Transformer has to learn it from data, which is what the lecture
means by "less inductive biases" ("ViTs are Effective at Scale").
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minivit.arguments import integer
from minivit.data.dataset import SHIFT, stream


def shift(images: np.ndarray, max_shift: int, seed: int, step: int) -> np.ndarray:
    """Move each image by its own whole number of pixels, up to `max_shift` down or up and right or left; zeros come in.

    Args: images (B, H, W, C), any dtype; max_shift 0 to min(H, W) - 1. Returns a new array (B, H, W, C).
    Each of the (2 max_shift + 1)^2 moves is equally likely. Which image moves how is a function of (seed, step) and its
    place in the batch, so that a resumed run sees the same images.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (B, height, width, channels), not {images.shape}")
    batch, height, width, channels = images.shape
    m = integer("max_shift", max_shift)
    if m >= min(height, width):
        raise ValueError(f"max_shift must be below the image's sides {height}x{width}, or nothing may be left, not {m}")
    padded = np.zeros((batch, height + 2 * m, width + 2 * m, channels), images.dtype)
    padded[:, m : m + height, m : m + width] = images
    # all places that the window can take, as a view: (B, 2m+1, 2m+1, 1, H, W, C)
    windows = sliding_window_view(padded, (height, width, channels), axis=(1, 2, 3))
    top, left = stream(seed, step, SHIFT).integers(0, 2 * m + 1, size=(2, batch))  # m - top, m - left: the moves
    return windows[np.arange(batch), top, left, 0]  # (B, H, W, C)

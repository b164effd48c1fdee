"""From an image to a sequence of embedded patches (lecture, "Image to Patches" and "Linear Projection")."""

from __future__ import annotations

from typing import Any

import numpy as np

from minivit.autograd import Tensor, ops
from minivit.backend import array_module, device_of
from minivit.nn import Linear, Module


class Normalize(Module):
    """(x - mean) / std, per channel. As the model's first layer it keeps attacks in pixels: eps means what it says."""

    def __init__(self, mean: float | tuple[float, ...] = 0.5, std: float | tuple[float, ...] = 0.5) -> None:
        super().__init__()
        self.mean = np.asarray(mean, np.float32)
        self.std = np.asarray(std, np.float32)
        if not (self.std > 0).all() or self.mean.ndim > 1 or self.std.ndim > 1:
            raise ValueError(f"expected a mean and a positive std, one each or one per channel; got {mean} and {std}")

    def forward(self, images: Any) -> Any:
        return (images - self.mean) / self.std

    def describe(self) -> str:
        return f"mean {self.mean.tolist()}, std {self.std.tolist()}"


class PatchEmbedding(Module):
    """z_i = p_i E + b: im2col, then one linear projection for all patches. (B, H, W, C) -> (B, N, D)

    The same map as a convolution of kernel and stride P, whose kernel in (row, column, channel) order is E.
    """

    def __init__(self, image_size: tuple[int, int], patch_size: int, channels: int, embed_dim: int, seed: int | None = 0):
        super().__init__()
        height, width = image_size
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide the image size {height}×{width}; choose a divisor "
                             f"of both, or pad the images")
        self.image_size, self.patch_size = (height, width), patch_size
        self.grid = (height // patch_size, width // patch_size)
        self.proj = Linear(patch_size * patch_size * channels, embed_dim, seed=seed, name="patch_embed.proj")

    @property
    def num_patches(self) -> int:
        """N = HW / P²"""
        return self.grid[0] * self.grid[1]

    def forward(self, images: Any, parts: dict[str, Any] | None = None) -> Any:
        """parts: takes the patches (B, N, P²C)."""
        patches = ops.im2col(images, patch_size=self.patch_size)
        if parts is not None:
            parts["patches"] = patches
        return self.proj(patches)  # (B, N, P²C) @ (P²C, D) -> (B, N, D)

    def describe(self) -> str:
        return f"{self.grid[0]}×{self.grid[1]} patches of {self.patch_size}×{self.patch_size}"


def check_images(images: Any, height: int, width: int, channels: int, dtype: Any, device: str) -> Any:
    """Images as a model with these settings takes them: a Tensor as it is, an array cast to the parameters' dtype.

    Raises:
        ValueError, TypeError: for images without a batch axis, of another size or channel count, integers, on the
            0-255 scale, with NaN, or on another device.
    """
    array = images.data if isinstance(images, Tensor) else images
    xp = array_module(array)
    array = xp.asarray(array)
    expected = f"(batch, {height}, {width}, {channels})"
    if array.shape == (height, width, channels):
        raise ValueError(f"images: expected shape {expected}, got {array.shape}: the batch axis is missing; use images[None]")
    if array.ndim == 3 and array.shape[1:] == (height, width):
        raise ValueError(f"images: expected shape {expected}, got {array.shape}: the channel axis is missing; use "
                         f"images[..., None]")
    if array.ndim != 4 or array.shape[1:] != (height, width, channels):
        hint = ""
        if array.ndim == 4 and array.shape[1:] == (channels, height, width):
            hint = "; channels come last, use images.transpose(0, 2, 3, 1)"
        raise ValueError(f"images: expected shape {expected}, got {array.shape}{hint}")
    if array.dtype.kind != "f":
        raise TypeError(f"images: expected floats in [0, 1], got {array.dtype}; divide by 255: images.astype('float32') / 255")
    if device_of(array) != device:
        raise TypeError(f"images: they are on {device_of(array)!r}, the model is on {device!r}; move one of them with "
                        f".to({device!r}) or model.to({device_of(array)!r})")
    if array.size and (xp is np or not isinstance(images, Tensor)):
        low, high = float(array.min()), float(array.max())
        if not (low == low and high == high):
            raise ValueError("images: there are NaN pixels")
        if max(high, -low) > 10:  # noise may leave [0, 1], but not by that much
            raise ValueError(f"images: expected pixels in [0, 1], got values from {low:g} to {high:g}; divide by 255")
    if isinstance(images, Tensor):
        return images
    return Tensor(array.astype(dtype, copy=False))

"""Your own images: a folder with one subfolder per class.

    photos/train/cat/001.jpg  photos/train/dog/...  photos/test/cat/...      as split by you, or
    photos/cat/001.jpg        photos/dog/...                                 split here, a fifth of each class to test

The classes are the subfolders' names in alphabetical order. If all images are gray, C is 1, otherwise 3.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from minivit.arguments import integer
from minivit.data.dataset import Dataset

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
GRAY, COLOR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's names for 8 bits and fewer


def load_folder(
    root: str | os.PathLike[str], image_size: int | tuple[int, int] | None = None
) -> tuple[Dataset, Dataset]:
    """(train, test) from a folder of images; `image_size` (one side, or height and width) resizes, bilinear.

    Errors: ValueError (no classes, no images, images of several sizes and no `image_size`, a class that only the test
    has, a file that is no 8-bit image), each naming the folder or file.
    """
    root = Path(root)
    size = None
    if image_size is not None:
        if isinstance(image_size, tuple | list) and len(image_size) != 2:
            raise ValueError(f"image_size: expected a number of pixels, or (height, width), got {image_size!r}")
        height, width = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
        size = integer("image_size", height, least=1), integer("image_size", width, least=1)
    parts = [root / "train", root / "test"]
    if not all(part.is_dir() for part in parts):
        parts = [root]
    classes = _folders(parts[0])
    files = [[(path, label) for label, name in enumerate(classes) for path in _files(part / name)] for part in parts]
    learned = {label for _, label in files[0]}
    for part, found in zip(parts, files):
        unknown = sorted(set(_folders(part)) - set(classes))
        if unknown:
            raise ValueError(f"{part}: the class {unknown[0]!r} is not among those of {parts[0]}: {', '.join(classes)}")
        if not found:
            raise ValueError(f"{part}: no images; each class is a subfolder with {', '.join(SUFFIXES)} files")
        for path, label in found:
            if label not in learned:
                raise ValueError(f"{path}: there are no images of its class {classes[label]!r} in {parts[0]} to learn from")
    pixels = [[_pixels(path, size) for path, _ in found] for found in files]
    gray = all(image.shape[2] == 1 for group in pixels for image in group)
    first, shape = files[0][0][0], pixels[0][0].shape[:2]
    sets = []
    for found, group in zip(files, pixels):
        images = np.empty((len(group), *shape, 1 if gray else 3), np.float32)
        for i, ((path, _), image) in enumerate(zip(found, group)):
            if image.shape[:2] != shape:
                sizes = "{}x{}, but {} is {}x{}".format(*image.shape[:2], first, *shape)
                raise ValueError(f"{path} is {sizes}: images must have one size, pass image_size=(height, width)")
            np.divide(image, np.float32(255), out=images[i])  # a gray image among color ones broadcasts over C
        sets.append(Dataset(images, [label for _, label in found], classes))
    if len(sets) == 1:
        if len(sets[0]) < 3:
            raise ValueError(f"{root}: {len(sets[0])} images are too few to keep a fifth of them for testing")
        train, test = sets[0].split(0.2, seed=0)
        if lost := sorted(set(test.labels) - set(train.labels)):
            raise ValueError(f"{root}: of the class {classes[lost[0]]!r} there are too few images to keep some for testing; "
                             "put them into train/ and test/ yourself")
        return train, test
    return sets[0], sets[1]


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    paths = folder.iterdir()
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _pixels(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """(H, W, 1) or (H, W, 3), uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode not in GRAY + COLOR or _is_deep(image):
                raise ValueError(f"its pixels are of mode {image.mode}, or of 16 bits; save it with 8 bits per channel")
            upright: Any = ImageOps.exif_transpose(image).convert("L" if image.mode in GRAY else "RGB")
            if image.mode == "P" and all(low == high == 0 for low, high in _differences(upright)):
                upright = upright.convert("L")  # a palette of grays
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from error
    if size is not None:
        upright = upright.resize(size[::-1], Image.Resampling.BILINEAR)  # Pillow has the width first
    pixels = np.asarray(upright)
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _is_deep(image: Any) -> bool:
    """Whether the file has 16 bits per channel, of which Pillow would drop the lower 8 without a word."""
    for codec, _, _, args in image.tile:
        for arg in args if isinstance(args, tuple) else (args,):
            if isinstance(arg, str) and ";16" in arg or codec.startswith("ppm") and isinstance(arg, int) and arg > 255:
                return True
    return False


def _differences(image: Any) -> list[Any]:
    """The least and the largest difference of red and green, and of green and blue."""
    from PIL import ImageChops

    red, green, blue = image.split()
    return [ImageChops.difference(a, b).getextrema() for a, b in ((red, green), (green, blue))]

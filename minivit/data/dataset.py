"""A data set: images, their labels, and the names of the classes; how it is split, and in which order it is walked.

Images are (n, H, W, C), float32, in [0, 1]: the lecture's H x W x C ("Image to Patches"), one more axis in front.
Labels are integers that index `classes`. Whatever else comes in is refused here, with what to do about it, because
everything downstream (an attack's eps, a clip to the pixel range, a loss that picks a column) would take it and be
silently wrong.

Nothing here draws from a hidden generator. Every order is a function of the numbers given, (seed, epoch) for the
batches, so a run that stopped goes on with exactly the batches it would have seen: Philox is a counter-based generator,
a keyed hash of 0, 1, 2, ... (J. K. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from minivit.arguments import integer

# What a stream of random numbers is for: two purposes under one (seed, number) never share their numbers.
BATCHES, SHIFT, SHUFFLE, SPLIT = range(4)


def stream(seed: int, number: int, purpose: int) -> np.random.Generator:
    """The generator of (seed, number), for one purpose. Making one takes about 30 microseconds."""
    return np.random.Generator(
        np.random.Philox(key=[integer("seed", seed), integer("number", number)], counter=[0, 0, 0, purpose])
    )


class Dataset:
    """Labelled images.

        images    (n, H, W, C) float32 in [0, 1]      labels     (n,) int64
        classes   the name of each label, a tuple     num_classes, image_shape (H, W, C)

    `data[:100]`, `data[mask]` and `data[[3, 1]]` are data sets again (slices share memory), `data[3]` is (image,
    label). Float64 images become float32, integer labels int64; nothing else is converted. Errors: TypeError for a
    wrong kind of number, ValueError for wrong shapes or values.
    """

    def __init__(self, images: Any, labels: Any, classes: Sequence[str] | None = None) -> None:
        self.images = _checked_images(np.asarray(images))
        labels = np.asarray(labels)
        _check_labels(labels, len(self.images))
        most = int(labels.max())
        if classes is None:
            classes = [str(label) for label in range(most + 1)]
        elif isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise TypeError(f"classes must be a list of names, one per label, not {classes!r}")
        if most >= len(classes):
            raise ValueError(f"labels must lie in 0..{len(classes) - 1} ({len(classes)} classes), they reach {most}")
        self.labels = labels.astype(np.int64)
        self.classes = tuple(classes)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)"""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> tuple[np.ndarray, int]: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Dataset: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._part(index)
        if np.ndim(index) == 1:
            return self.subset(index)
        index = operator.index(index)
        return self.images[index], int(self.labels[index])

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The images at `indices` (n',), integers or a mask (n,) of bools, in that order; copies."""
        indices = np.asarray(indices)
        if indices.size == 0:
            indices = indices.astype(np.int64)  # [] is a list of floats to NumPy
        if indices.ndim != 1 or indices.dtype.kind not in "biu":
            raise TypeError(f"indices must be integers or bools (n,), not {indices.dtype} {indices.shape}")
        return self._part(indices)

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """(the rest, a `fraction` of the images), e.g. `train, validation = train.split(0.1)`.

        Stratified: each class gives its share, rounded so that the second part has round(fraction * n) images, and if
        possible keeps one. Which ones is a function of `seed`; both parts keep the order. Errors: ValueError where a part
        would be empty.
        """
        n = len(self)
        total = round(n * fraction) if 0 < fraction < 1 else 0
        if not 0 < total < n:
            raise ValueError(f"fraction must be within 0 and 1 and leave both parts some of {n} images, not {fraction}")
        counts = np.bincount(self.labels, minlength=self.num_classes)
        share = counts * (total / n)
        take = np.floor(share).astype(np.int64)
        # the images still owed go to the classes that rounding down cost most (the largest remainders), those first that
        # keep one
        take[np.lexsort((take - share, take + 1 >= counts))[: total - take.sum()]] += 1
        rng = stream(seed, 0, SPLIT)
        chosen = np.zeros(n, bool)
        for label in range(self.num_classes):
            chosen[rng.permutation(np.flatnonzero(self.labels == label))[: take[label]]] = True
        return self._part(~chosen), self._part(chosen)

    def shuffled(self, seed: int = 0) -> Dataset:
        """The same images in an order that is a function of `seed`."""
        return self._part(stream(seed, 0, SHUFFLE).permutation(len(self)))

    def _part(self, index: slice | np.ndarray) -> Dataset:
        part = object.__new__(Dataset)  # what was checked once is not checked again
        part.images, part.labels, part.classes = self.images[index], self.labels[index], self.classes
        return part

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        names = ", ".join(self.classes[:10]) + (", ..." if self.num_classes > 10 else "")
        return f"Dataset({len(self):,} images of {height}x{width}x{channels}, {self.num_classes} classes: {names})"


def check_classes(name: str, data: Any, learned: Any) -> None:
    """Refuses data whose labels stand for other classes than those of `learned`, a model or data set: they would be counted
    as its own. Names that are mere numbers, as of digits or where none were given, fit any.
    """
    theirs, own = getattr(learned, "classes", None), getattr(data, "classes", None)
    if theirs is None or own is None or not (_named(theirs) and _named(own)) or tuple(theirs) == tuple(own):
        return
    raise ValueError(f"{name}: its classes are {_list(own)}, those that the model learned {_list(theirs)}, so that a label "
                     "would stand for another class; arrange the data like those it was trained on")


def _named(classes: Sequence[str]) -> bool:
    return any(name != str(i) for i, name in enumerate(classes))


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")


def _checked_images(images: np.ndarray) -> np.ndarray:
    shape = images.shape
    if images.dtype.kind in "iu":
        raise TypeError(f"images must be floats in [0, 1], not {images.dtype}: divide by 255, images / np.float32(255)")
    if images.dtype.kind != "f":
        raise TypeError(f"images must be floats in [0, 1], not {images.dtype}")
    if images.ndim != 4:
        hint = {
            2: "one gray image is images[np.newaxis, ..., np.newaxis]",
            3: "gray images lack the channel, images[..., np.newaxis]; one image lacks the batch, images[np.newaxis]",
        }.get(images.ndim, "flat rows become images by .reshape(n, H, W, C)")
        raise ValueError(f"images must be (n, height, width, channels), not {shape}: {hint}")
    if 0 in shape:
        raise ValueError(f"images must not be empty, they are {shape}")
    if shape[1] in (1, 3) and shape[2] == shape[3] > 4:
        raise ValueError(f"images {shape} have their channels first; the order here is images.transpose(0, 2, 3, 1)")
    with np.errstate(over="ignore"):
        images = np.ascontiguousarray(images, np.float32)
    low, high = float(images.min()), float(images.max())
    if np.isnan(low) or np.isnan(high):
        first = np.flatnonzero(np.isnan(images).any(axis=(1, 2, 3)))
        raise ValueError(f"images hold NaN, in {len(first)} of {len(images)}, first in images[{first[0]}]: repair them")
    if low >= -1e-5 and high <= 1 + 1e-5:
        return images if low >= 0 and high <= 1 else np.clip(images, 0, 1)  # out by rounding, of a resize for example
    scale = "they look like 0 to 255: divide by 255" if low >= 0 and 2 < high <= 255 else "rescale or clip them"
    hint = "they look normalized: pass the raw pixels, a model normalizes by itself" if low < -0.05 else scale
    raise ValueError(f"images must lie in [0, 1], not [{low:.8g}, {high:.8g}]: {hint}")


def _check_labels(labels: np.ndarray, n: int) -> None:
    if labels.ndim == 2 and len(labels) == n and labels.shape[1] > 1:
        raise ValueError(f"labels must be integers (n,), not {labels.shape}: one-hot rows become labels.argmax(axis=1)")
    if labels.shape != (n,):
        raise ValueError(f"labels must be ({n},), one for each image, not {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers that index the classes, not {labels.dtype}: labels.astype(np.int64)")
    if labels.min() < 0:
        raise ValueError(f"labels must not be negative: labels[{labels.argmin()}] is {labels.min()}")
    if labels.max() > 1_000_000:
        raise ValueError(f"labels must be the indices of classes: labels[{labels.argmax()}] is {labels.max()}")


def batches(
    data: Dataset, batch_size: int, seed: int, epoch: int, drop_last: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One walk over `data`: yields (images (B, H, W, C), labels (B,), indices (B,)), copies.

    The order is a function of (seed, epoch) alone; every image comes once. The last batch is smaller where the sizes do
    not divide, unless `drop_last`. `indices` say which images these are, for anything random that goes with an image.
    """
    integer("batch_size", batch_size, least=1)
    order = stream(seed, epoch, BATCHES).permutation(len(data))
    return _walk(data, order[: len(data) // batch_size * batch_size] if drop_last else order, batch_size)


def _walk(data: Dataset, order: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for start in range(0, len(order), size):
        indices = order[start : start + size]
        yield data.images[indices], data.labels[indices], indices

"""Where data come from: the digits inside the package, MNIST and Fashion-MNIST from their files, a folder of images.

    load("digits")                         1,437 + 360 images of 8x8: always there, a model learns them in seconds
    load("mnist", root="data")             60,000 + 10,000 of 28x28, from files that you have
    load("fashion_mnist")                  the same format, clothes; root is $MINIVIT_DATA where it is not given
    load("photos/")                        your own, one subfolder per class (`folder.py`)

Data that are truncated or altered are refused: the idx files are checked against the md5 of their published content.
The digits, their source, licence and split are described in DIGITS.md beside this file.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np

from minivit.arguments import nearest
from minivit.data.dataset import Dataset
from minivit.data.folder import load_folder
from minivit.io import CheckpointError, read_arrays, read_idx

# The four files of each set, (images, labels) of train and test, and the md5 of their decompressed content.
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_MD5 = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}  # fmt: skip
_CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip
_PUBLISHED = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist",
}
_FOLDERS = {  # where people keep them, below the root; the root itself comes last
    "mnist": ("mnist", "MNIST", "MNIST/raw", "mnist/raw", ""),
    "fashion_mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST", "FashionMNIST/raw", "fashion", ""),
}


def names() -> list[str]:
    """The data sets that `load` knows by name."""
    return ["digits", *_MD5]


def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> tuple[Dataset, Dataset]:
    """(train, test) of a data set by name, or of a folder of images by its path.

    Args: `root`, the folder that holds MNIST's or Fashion-MNIST's files, or a subfolder with them (default
    $MINIVIT_DATA); `image_size`, to resize a folder's images.
    Errors: ValueError (unknown name, damaged or altered data), FileNotFoundError (no such files).
    """
    if image_size is not None and name in names():
        raise ValueError(f"image_size resizes the images of a folder; those of {name!r} have one size")
    if name == "digits":
        return _digits()
    if name in _MD5:
        return _idx(str(name), root)
    if Path(name).is_dir():
        return load_folder(name, image_size)
    if not isinstance(name, str) or os.sep in name or "/" in name:
        raise FileNotFoundError(f"data: there is no folder {os.fspath(name)!r}")
    near = nearest(name, names())
    hint = f"did you mean {near!r}? " if near else ""
    known = ", ".join(names())
    raise ValueError(f"unknown data set {name!r}: {hint}there are {known}, and folders of images by their path")


def _digits() -> tuple[Dataset, Dataset]:
    with resources.as_file(resources.files("minivit.data") / "digits.npz") as path:
        arrays, _ = read_arrays(path)
    images = arrays["images"][..., np.newaxis] / np.float32(16)  # (1797, 8, 8) of 0..16 -> (1797, 8, 8, 1) of 0..1
    data = Dataset(images, arrays["labels"], _CLASSES["mnist"])
    return data[~arrays["test"]], data[arrays["test"]]


def _idx(name: str, root: str | os.PathLike[str] | None) -> tuple[Dataset, Dataset]:
    paths = _find(name, root)
    arrays = []
    for path, md5 in zip(paths, _MD5[name]):
        try:
            arrays.append(read_idx(path, md5))
        except CheckpointError as error:
            raise ValueError(f"{name}: {error}{_belongs_to_another(path, name)}") from error
    sets = [
        Dataset(images[..., np.newaxis] / np.float32(255), labels, _CLASSES[name])  # (n, 28, 28) -> (n, 28, 28, 1)
        for images, labels in (arrays[:2], arrays[2:])
    ]
    return sets[0], sets[1]


def _find(name: str, root: str | os.PathLike[str] | None) -> list[Path]:
    """The four files, with or without .gz, all in the first folder that has them all."""
    get = f"get the four files from {_PUBLISHED[name]}"
    chosen = root if root is not None else os.environ.get("MINIVIT_DATA")
    if not chosen:
        raise FileNotFoundError(f"{name} does not come with minivit: {get}; pass root=FOLDER (--data-dir on the command "
                                "line) or set MINIVIT_DATA")
    folders = [Path(chosen).expanduser() / sub for sub in _FOLDERS[name]]
    missing = []
    for folder in folders:
        found = [_first(folder, file) for file in _FILES]
        if all(found):
            return [path for path in found if path]
        missing.append([file for file, path in zip(_FILES, found) if path is None])
    fewest = min(range(len(folders)), key=lambda i: (len(missing[i]), -i))
    raise FileNotFoundError(
        f"{name}: {', '.join(missing[fewest])} (plain or .gz) not found in {folders[fewest]} (looked in it and in "
        f"{', '.join(str(folder) for i, folder in enumerate(folders) if i != fewest)}); {get}, or pass another root= "
        "(--data-dir on the command line)"
    )


def _first(folder: Path, file: str) -> Path | None:
    candidates = (folder / f"{stem}{suffix}" for stem in (file, file.replace("-idx", ".idx")) for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _belongs_to_another(path: Path, name: str) -> str:
    for other in _MD5.keys() - {name}:
        for md5 in _MD5[other]:
            try:
                read_idx(path, md5)
            except CheckpointError:
                continue
            return f" (this is a file of {other})"
    return ""

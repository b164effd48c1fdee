"""Named arrays, and metadata beside them, in a file of either format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minivit.io import npz, safetensors
from minivit.io.claims import METADATA
from minivit.io.files import AnyPath, CheckpointError, atomic_write


def write_arrays(path: AnyPath, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays, and metadata (text to text), to a `.safetensors` or `.npz` file, atomically.

    Arrays are bool, integers or floats of any shape, 0-d and empty ones too. The same arrays and metadata, in the same
    order, give the same bytes. Errors: ValueError (suffix, name), TypeError (an array that would need pickle, metadata
    that are not text), OSError (the disk).
    """
    file_format = _format_of(path)
    checked: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        if not isinstance(name, str) or not name.isprintable() or name in ("", METADATA) or len(name) > 1000:
            raise ValueError(f"arrays: the name {name!r:.60} cannot be stored; use printable text other than {METADATA!r}, "
                             "at most 1,000 letters")
        array = np.asarray(value)
        array = np.asarray(array, dtype=array.dtype.newbyteorder("="))
        if array.dtype not in safetensors.NAME_OF:
            raise TypeError(
                f"arrays[{name!r}] has dtype {array.dtype}; bool, integers of 8 to 64 bits and float16, 32 and 64 can "
                "be stored (never pickled objects): convert it with .astype, or put text into metadata"
            )
        checked[name] = array
    metadata = dict(metadata or {})
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise TypeError("metadata must map text to text; put other values through json.dumps first")
    for name, text in metadata.items():
        if (name + text).encode("utf-8", "ignore").decode() != name + text:
            raise ValueError(f"metadata[{name!r}]: its text {text!r:.60} is not Unicode that a file can hold; put it through "
                             "json.dumps first")
    with atomic_write(path) as file:
        file_format.write(file, checked, metadata)


def read_arrays(path: AnyPath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of a `.safetensors` or `.npz` file. bfloat16 arrays of a safetensors file come as float32.

    The arrays are the caller's own: writable, in the machine's byte order. Errors: CheckpointError for a file that is
    damaged, lies about its sizes or holds anything but plain numbers; OSError where it cannot be opened.
    """
    file_format = _format_of(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise CheckpointError(path, "the file is empty")
        return file_format.read(path, file, size)


def _format_of(path: AnyPath) -> ModuleType:
    """The module that reads and writes files of this suffix."""
    suffix = Path(path).suffix
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{os.fspath(path)}: the suffix must be .safetensors or .npz, not {suffix!r}")
    return safetensors if suffix == ".safetensors" else npz

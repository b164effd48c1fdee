"""The safetensors format: an 8-byte length, a JSON header, the bytes of the arrays end to end."""

from __future__ import annotations

import json
import math
import struct
from typing import Any, BinaryIO

import numpy as np

from minivit.io.claims import METADATA, check_metadata, is_shape, short, unique_names
from minivit.io.files import AnyPath, CheckpointError

MAX_HEADER = 100_000_000  # bytes of JSON; the format's own limit
TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip
NAME_OF = {np.dtype(dtype): name for name, dtype in TYPES.items()}


def write(file: BinaryIO, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    # Written by hand, not by the library: that one puts metadata in another order in each process.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # wide types first, so that each array is aligned
    header: dict[str, Any] = {METADATA: metadata} if metadata else {}
    start = 0
    for name in order:
        array = arrays[name]
        offsets = [start, start + array.nbytes]
        header[name] = {"dtype": NAME_OF[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        start += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        little = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        file.write(little.reshape(-1).view(np.uint8).data)


def read(path: AnyPath, file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    header, data_start = _header(path, file, size)
    metadata = header.pop(METADATA, {})
    check_metadata(path, metadata)
    _check_layout(path, header, size - data_start)
    arrays = {}
    try:
        with safe_open(path, framework="numpy") as library:
            for name, entry in header.items():
                if entry["dtype"] == "BF16":  # the upper half of a float32; NumPy has no such type
                    file.seek(data_start + entry["data_offsets"][0])
                    half = np.frombuffer(file.read(2 * math.prod(entry["shape"])), "<u2").reshape(entry["shape"])
                    arrays[name] = np.asarray(np.left_shift(half, 16, dtype=np.uint32)).view(np.float32)
                else:
                    arrays[name] = library.get_tensor(name)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(path, f"not a readable safetensors file: {error}") from error
    return arrays, metadata


def _header(path: AnyPath, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header and where the data begin."""
    if size < 8:
        raise CheckpointError(path, f"truncated: a safetensors file begins with 8 bytes of length, {size} are there")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, MAX_HEADER):
        raise CheckpointError(
            path, f"truncated or not a safetensors file: it promises a header of {length:,} bytes, {size - 8:,} follow"
        )
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"not a safetensors file: its header is not sound JSON ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(path, "not a safetensors file: its header is not a JSON object")
    return header, 8 + length


def _check_layout(path: AnyPath, header: dict[str, Any], there: int) -> None:
    """The arrays must lie end to end over exactly the bytes that are there, each as long as its shape says."""
    spans = []
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)], **rest} if not rest:
                pass
            case _:
                raise CheckpointError(path, f"array {name!r}: its header entry must be dtype, shape and data_offsets")
        if dtype not in TYPES and dtype != "BF16":
            raise CheckpointError(path, f"array {name!r} has dtype {dtype[:40]!r}, which NumPy does not have")
        if not is_shape(shape) or not 0 <= begin <= end:
            raise CheckpointError(path, f"array {name!r}: shape {short(shape)} at [{begin}, {end}) is impossible")
        needed = math.prod(shape) * (2 if dtype == "BF16" else np.dtype(TYPES[dtype]).itemsize)
        if needed != end - begin:
            problem = f"{dtype} of shape {short(shape)} takes {needed:,} bytes, its offsets span {end - begin:,}"
            raise CheckpointError(path, f"array {name!r}: {problem}")
        spans.append((begin, end, name))
    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected:
            kind = "overlaps the one before it" if begin < expected else "leaves unused bytes before it"
            raise CheckpointError(path, f"array {name!r} at [{begin:,}, {end:,}) {kind}")
        expected = end
    if expected > there:
        problem = f"truncated: its header promises {expected:,} bytes of data, {there:,} are there"
        raise CheckpointError(path, f"{problem}; copy or save it again")
    if expected < there:
        raise CheckpointError(path, f"{there - expected:,} bytes follow the {expected:,} bytes that its header names")

"""The .npz format: a zip of .npy files, one for each array."""

from __future__ import annotations

import ast
import errno
import json
import math
import re
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from minivit.io.claims import METADATA, check_metadata, is_shape, short, unfolded_at_most, unique_names
from minivit.io.files import AnyPath, CheckpointError


def write(file: BinaryIO, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    # What np.savez does, but that one has an argument `file`, so no array can have that name.
    members = dict(arrays)
    if metadata:
        members[METADATA] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read(path: AnyPath, file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unfolded, allowed = sum(member.file_size for member in members), unfolded_at_most(size)
            if unfolded > allowed:
                raise CheckpointError(path, f"{size:,} bytes that would unfold into {unfolded:,}: a zip bomb, refused")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    raise CheckpointError(path, f"member {name!r} is not a .npy array; is this an .npz file?")
                if name in arrays:
                    raise CheckpointError(path, f"array {name!r} is there twice")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise CheckpointError(path, f"array {name!r} is compressed in a way that .npz files are not")
                with archive.open(member) as stream:
                    arrays[name] = _read_npy(path, name, stream, member.file_size)
    except CheckpointError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: an offset in the file points outside of it
            raise
        raise CheckpointError(path, f"not a readable .npz file: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, SyntaxError, TypeError, struct.error,
            MemoryError, OverflowError) as error:  # fmt: skip
        raise CheckpointError(path, f"truncated, or not an .npz file: {error}") from error
    metadata = {}
    if METADATA in arrays:
        try:
            metadata = json.loads(arrays.pop(METADATA).tobytes(), object_pairs_hook=unique_names)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(path, f"its metadata are not sound JSON ({error})") from error
        check_metadata(path, metadata)
    return arrays, metadata


def _read_npy(path: AnyPath, name: str, stream: Any, size: int) -> np.ndarray:
    """One member: the array's own header against the member's size, and only then the data."""
    start = stream.read(min(size, 1 << 16))  # a header is far shorter
    shape, fortran_order, dtype, begin = _npy_header(path, name, start)
    needed, there = math.prod(shape) * dtype.itemsize, size - begin
    if needed != there:
        problem = f"{dtype} of shape {short(shape)} takes {needed:,} bytes, {there:,} are there"
        raise CheckpointError(path, f"array {name!r}: {problem}")
    data = np.empty(needed, np.uint8)
    done = len(start) - begin
    data[:done] = np.frombuffer(start, np.uint8)[begin:]
    while chunk := stream.read(1 << 20):  # to the end, where zipfile compares the check sum
        data[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    if done != needed:
        raise CheckpointError(path, f"truncated: array {name!r} needs {needed:,} bytes, {done:,} are there")
    array = data.view(dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.asarray(array, dtype=dtype.newbyteorder("="), order="C")


def _npy_header(path: AnyPath, name: str, start: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """(shape, whether column by column, dtype, where the data begin), by ourselves: NumPy makes a dtype of any text that it
    finds there, and some texts end the process."""
    version = tuple(start[6:8])
    if not start.startswith(b"\x93NUMPY") or version not in ((1, 0), (2, 0)):
        raise CheckpointError(path, f"array {name!r}: not a .npy array of version 1.0 or 2.0; it begins with {start[:8]!r}")
    begin = 10 if version == (1, 0) else 12
    end = begin + int.from_bytes(start[8:begin], "little")
    if end > min(len(start), 10_000):
        raise CheckpointError(path, f"array {name!r}: truncated: it promises a header of {end - begin:,} bytes")
    try:
        match ast.literal_eval(start[begin:end].decode("latin1").strip()):
            case {"descr": str(descr), "fortran_order": bool(order), "shape": tuple(shape), **rest} if not rest:
                pass
            case header:
                raise ValueError(f"expected descr, fortran_order and shape, got {header!r:.60}")
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise CheckpointError(path, f"array {name!r}: not a sound .npy header ({error})") from error
    if not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", descr):
        what = "pickled Python objects" if "O" in descr else f"dtype {descr!r:.60}"
        raise CheckpointError(path, f"array {name!r} holds {what}; only bool, integers and floats are read")
    if not is_shape(shape):
        raise CheckpointError(path, f"array {name!r}: shape {short(shape)} is impossible")
    return shape, order, np.dtype(descr), end

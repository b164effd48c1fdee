"""The idx format, in which MNIST and Fashion-MNIST come: a magic number, the dimensions, the bytes."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import sys
import zlib
from typing import Any

import numpy as np

from minivit.io.claims import MAX_DIMS, unfolded_at_most
from minivit.io.files import AnyPath, CheckpointError

_IDX = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: AnyPath, md5: str | None = None) -> np.ndarray:
    """The array of an idx file (MNIST's format), plain or gzipped, in the machine's byte order.

    Magic 0, 0, type, number of dimensions; then each dimension as a big-endian uint32; then exactly the values. `md5`,
    where given, is that of the decompressed content. Errors: CheckpointError, OSError.
    """
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            most = unfolded_at_most(os.fstat(raw.fileno()).st_size) if packed else sys.maxsize
            content = _read_idx(path, gzip.GzipFile(fileobj=raw) if packed else raw, most)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CheckpointError(path, f"truncated or altered: its gzip data are damaged ({error})") from error
    dims = content[3]
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise CheckpointError(path, f"altered: its content's md5 is {found}, it should be {md5}; get the file again")
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    try:
        values = np.frombuffer(content, _IDX[content[2]], offset=4 + 4 * dims).reshape(shape)
    except ValueError as error:  # one dimension is 0, and the others are more than there can be
        raise CheckpointError(path, f"its dimensions {shape} are impossible ({error})") from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _read_idx(path: AnyPath, stream: Any, most: int) -> bytearray:
    """Header and data, checked: `most` bytes at most, and in pieces, so that a lie about the size costs no memory."""
    content = bytearray(stream.read(4))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX or not 1 <= content[3] <= MAX_DIMS:
        begins = bytes(content).hex(" ") or "nothing"
        raise CheckpointError(path, f"truncated or not an idx file: it begins with {begins}, not 00 00 type dims")
    dims = content[3]
    content += stream.read(4 * dims)
    if len(content) < 4 + 4 * dims:
        raise CheckpointError(path, f"truncated: its header ends before its {dims} dimensions")
    shape = struct.unpack(f">{dims}I", content[4:])
    needed = len(content) + math.prod(shape) * np.dtype(_IDX[content[2]]).itemsize
    limit = min(needed, most)
    while len(content) <= limit and (chunk := stream.read(min(1 << 20, limit + 1 - len(content)))):
        content += chunk
    if len(content) > most:
        raise CheckpointError(path, f"it unfolds into more than {most:,} bytes, of {needed:,}: a bomb, refused")
    if len(content) != needed:
        there = f"only {len(content):,} are there" if len(content) < needed else "more follow"
        kind = "truncated" if len(content) < needed else "altered"
        raise CheckpointError(path, f"{kind}: its dimensions {shape} call for {needed:,} bytes in all, {there}")
    return content

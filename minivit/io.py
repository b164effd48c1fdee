"""Files: written whole or not at all, and read as if a stranger had made them.

A training run is killed, a disk fills, a download stops half-way, and now and then a file is made to do harm. Whatever
happens, three promises hold here:

- A write is **atomic**: a reader finds the old file or the new one, never half of one (`atomic_write`).
- A reader checks what a file claims (sizes, offsets, types) against what is there, *before* it allocates anything.
- Nothing is ever pickled or unpickled: unpickling runs code that the file's author chose.

    write_arrays("m.safetensors", {"weight": w}, {"epoch": "3"})     # or "m.npz", the same arrays and metadata
    arrays, metadata = read_arrays("m.safetensors")

Formats: safetensors (https://github.com/huggingface/safetensors, "Format"): an 8-byte length, a JSON header, the
bytes of the arrays end to end; `.npz` (numpy.lib.format): a zip of `.npy` files; idx (Y. LeCun, C. Cortes, C. Burges,
the MNIST page): a magic number, the dimensions, the bytes; JSON lines: one record a line, for metrics.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import gzip
import hashlib
import json
import math
import os
import re
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

METADATA = "__metadata__"  # the name safetensors reserves; in an .npz the member of that name holds JSON as bytes
MAX_DIMS = 64  # NumPy's own limit
MAX_HEADER = 100_000_000  # bytes of JSON; the safetensors format's own limit
_SAFETENSORS = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip
_NAME_OF = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
_IDX = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_Path = str | os.PathLike[str]


class CheckpointError(ValueError):
    """A file that is damaged, or is not what its name says: `m.safetensors: truncated: ...`."""

    def __init__(self, path: _Path, problem: str) -> None:
        super().__init__(f"{os.fspath(path)}: {problem}")


# ---------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def atomic_write(path: _Path) -> Iterator[BinaryIO]:
    """Write `path` whole or not at all: `with atomic_write(path) as file: file.write(...)`.

    The bytes go to a temporary file in the same folder; only when they are on the disk does its name change, which the
    file system does in one step. If anything fails (a full disk, Ctrl-C, an error of the caller's), the temporary file
    goes and the old file stays. Errors of the system come as `OSError` with the path in it.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "cannot write: there is no such folder, make it first", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "cannot write a file: a folder has this name", str(path))
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else the new name may reach the disk before the new bytes do
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            kept = "; the file that was there is unchanged" if path.exists() else ""
            reason = error.strerror or str(error)
            raise OSError(error.errno or errno.EIO, f"cannot write: {reason}{kept}", str(path)) from error
        raise
    with contextlib.suppress(OSError):  # the new name itself; where folders cannot be synced (Windows), do without
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sweep(path: Path) -> None:
    """Remove what writers that were killed left in the folder of `path`. An hour old: no live writer takes that long."""
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", name):
                leftover = path.with_name(name)
                if time.time() - leftover.stat().st_mtime > 3600:
                    leftover.unlink()


def write_arrays(path: _Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays, and metadata (text to text), to a `.safetensors` or `.npz` file, atomically.

    Arrays are bool, integers or floats of any shape, 0-d and empty ones too. The same arrays and metadata, in the same
    order, give the same bytes. Errors: ValueError (suffix, name), TypeError (an array that would need pickle, metadata
    that are not text), OSError (the disk).
    """
    write = _write_safetensors if _suffix(path) == ".safetensors" else _write_npz
    checked: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        if not isinstance(name, str) or not name.isprintable() or name in ("", METADATA) or len(name) > 1000:
            raise ValueError(f"arrays: the name {name!r:.60} cannot be stored; use printable text other than {METADATA!r}, "
                             "at most 1,000 letters")
        array = np.asarray(value)
        array = np.asarray(array, dtype=array.dtype.newbyteorder("="))
        if array.dtype not in _NAME_OF:
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
        write(file, checked, metadata)


def _write_safetensors(file: BinaryIO, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    # Written by hand, not by the library: that one puts metadata in another order in each process.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # wide types first, so that each array is aligned
    header: dict[str, Any] = {METADATA: metadata} if metadata else {}
    start = 0
    for name in order:
        array = arrays[name]
        offsets = [start, start + array.nbytes]
        header[name] = {"dtype": _NAME_OF[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        start += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        little = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        file.write(little.reshape(-1).view(np.uint8).data)


def _write_npz(file: BinaryIO, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    # What np.savez does, but that one has an argument `file`, so no array can have that name.
    members = dict(arrays)
    if metadata:
        members[METADATA] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


# ---------------------------------------------------------------------------------------------------- reading arrays


def read_arrays(path: _Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of a `.safetensors` or `.npz` file. bfloat16 arrays of a safetensors file come as float32.

    The arrays are the caller's own: writable, in the machine's byte order. Errors: CheckpointError for a file that is
    damaged, lies about its sizes or holds anything but plain numbers; OSError where it cannot be opened.
    """
    read = _read_safetensors if _suffix(path) == ".safetensors" else _read_npz
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise CheckpointError(path, "the file is empty")
        return read(path, file, size)


def _suffix(path: _Path) -> str:
    suffix = Path(path).suffix
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{os.fspath(path)}: the suffix must be .safetensors or .npz, not {suffix!r}")
    return suffix


def _read_safetensors(path: _Path, file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    header, data_start = _safetensors_header(path, file, size)
    metadata = header.pop(METADATA, {})
    _check_metadata(path, metadata)
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


def _safetensors_header(path: _Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header and where the data begin."""
    if size < 8:
        raise CheckpointError(path, f"truncated: a safetensors file begins with 8 bytes of length, {size} are there")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, MAX_HEADER):
        raise CheckpointError(
            path, f"truncated or not a safetensors file: it promises a header of {length:,} bytes, {size - 8:,} follow"
        )
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"not a safetensors file: its header is not sound JSON ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(path, "not a safetensors file: its header is not a JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} appears twice")
        found[name] = value
    return found


def _check_metadata(path: _Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(path, "its metadata are not a map of text to text")


def _check_layout(path: _Path, header: dict[str, Any], there: int) -> None:
    """The arrays must lie end to end over exactly the bytes that are there, each as long as its shape says."""
    spans = []
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)], **rest} if not rest:
                pass
            case _:
                raise CheckpointError(path, f"array {name!r}: its header entry must be dtype, shape and data_offsets")
        if dtype not in _SAFETENSORS and dtype != "BF16":
            raise CheckpointError(path, f"array {name!r} has dtype {dtype[:40]!r}, which NumPy does not have")
        if len(shape) > MAX_DIMS or not all(type(n) is int and n >= 0 for n in shape) or not 0 <= begin <= end:
            raise CheckpointError(path, f"array {name!r}: shape {_short(shape)} at [{begin}, {end}) is impossible")
        needed = math.prod(shape) * (2 if dtype == "BF16" else np.dtype(_SAFETENSORS[dtype]).itemsize)
        if needed != end - begin:
            problem = f"{dtype} of shape {_short(shape)} takes {needed:,} bytes, its offsets span {end - begin:,}"
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


def _short(shape: list[Any]) -> str:
    text = str(shape)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_npz(path: _Path, file: BinaryIO, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unfolded, allowed = sum(member.file_size for member in members), _unfolded(size)
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
            metadata = json.loads(arrays.pop(METADATA).tobytes(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(path, f"its metadata are not sound JSON ({error})") from error
        _check_metadata(path, metadata)
    return arrays, metadata


def _unfolded(size: int) -> int:
    """How many bytes a compressed file of that size may unfold into.

    A few kilobytes can unfold into gigabytes. Weights hardly compress and MNIST does 5-fold, so 20-fold is generous.
    """
    return max(64 << 20, 20 * size)


def _read_npy(path: _Path, name: str, stream: Any, size: int) -> np.ndarray:
    """One member: the array's own header against the member's size, and only then the data."""
    start = stream.read(min(size, 1 << 16))  # a header is far shorter
    shape, fortran_order, dtype, begin = _npy_header(path, name, start)
    needed, there = math.prod(shape) * dtype.itemsize, size - begin
    if needed != there:
        problem = f"{dtype} of shape {_short(list(shape))} takes {needed:,} bytes, {there:,} are there"
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


def _npy_header(path: _Path, name: str, start: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
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
    if len(shape) > MAX_DIMS or not all(type(n) is int and n >= 0 for n in shape):
        raise CheckpointError(path, f"array {name!r}: shape {_short(list(shape))} is impossible")
    return shape, order, np.dtype(descr), end


# ---------------------------------------------------------------------------------------------------- reading idx


def read_idx(path: _Path, md5: str | None = None) -> np.ndarray:
    """The array of an idx file (MNIST's format), plain or gzipped, in the machine's byte order.

    Magic 0, 0, type, number of dimensions; then each dimension as a big-endian uint32; then exactly the values. `md5`,
    where given, is that of the decompressed content. Errors: CheckpointError, OSError.
    """
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            most = _unfolded(os.fstat(raw.fileno()).st_size) if packed else sys.maxsize
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


def _read_idx(path: _Path, stream: Any, most: int) -> bytearray:
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


# ---------------------------------------------------------------------------------------------------- JSON


def write_json(path: _Path, value: Any) -> None:
    """Write `value` as JSON, atomically. NumPy numbers and arrays become plain ones; NaN and infinity become null."""
    text = json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    with atomic_write(path) as file:
        file.write(_utf8(text) + b"\n")


def write_jsonl(path: _Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one line of JSON per record, atomically."""
    lines = [json.dumps(plain(record), allow_nan=False, ensure_ascii=False) for record in records]
    with atomic_write(path) as file:
        file.write(_utf8("".join(line + "\n" for line in lines)))


def append_jsonl(path: _Path, record: Mapping[str, Any]) -> None:
    """Append one record to a file of JSON lines. A last line that a killed writer left half-done is dropped first."""
    line = _utf8(json.dumps(plain(record), allow_nan=False, ensure_ascii=False)) + b"\n"
    try:
        with open(path, "a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            tail = _tail(file, end)
            if tail and _record(tail) is None:
                file.truncate(end - len(tail))
            elif tail:
                line = b"\n" + line  # whole but for its newline
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(error.errno or errno.EIO, f"cannot append: {error.strerror}", os.fspath(path)) from error


def _utf8(text: str) -> bytes:
    """JSON as bytes. What is no Unicode (of a file's name, on Linux, any bytes may be part) becomes an escape."""
    return text.encode("utf-8", "backslashreplace")


def _tail(file: Any, end: int) -> bytes:
    """What follows the last newline: nothing, in a sound file."""
    tail = b""
    while end and b"\n" not in tail:
        start = max(0, end - 4096 if tail else end - 1)  # one byte settles the usual case
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    return tail[tail.rfind(b"\n") + 1 :]


def read_jsonl(path: _Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines. A torn last line (a killed writer) is left out; any other is an error."""
    lines = Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif line.strip() and number < len(lines):
            raise CheckpointError(path, f"line {number} is not a JSON object: {line[:60]!r}")
    return records


def _record(line: bytes) -> dict[str, Any] | None:
    """A JSON object, or None. The beginning of an object is never one: that is how a torn line is known."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def plain(value: Any) -> Any:
    """`value` in JSON's own types, which have no NaN and no infinity."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value

"""JSON, and lines of JSON: settings, metrics, reports."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minivit.io.files import AnyPath, CheckpointError, atomic_write


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` as JSON, atomically. NumPy numbers and arrays become plain ones; NaN and infinity become null."""
    text = json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    with atomic_write(path) as file:
        file.write(_utf8(text) + b"\n")


def write_jsonl(path: AnyPath, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one line of JSON per record, atomically."""
    lines = [json.dumps(plain(record), allow_nan=False, ensure_ascii=False) for record in records]
    with atomic_write(path) as file:
        file.write(_utf8("".join(line + "\n" for line in lines)))


def append_jsonl(path: AnyPath, record: Mapping[str, Any]) -> None:
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


def read_jsonl(path: AnyPath) -> list[dict[str, Any]]:
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

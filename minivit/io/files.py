"""Writing a file whole or not at all, and the error for one that is found damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

AnyPath = str | os.PathLike[str]


class CheckpointError(ValueError):
    """A file that is damaged, or is not what its name says: `m.safetensors: truncated: ...`."""

    def __init__(self, path: AnyPath, problem: str) -> None:
        super().__init__(f"{os.fspath(path)}: {problem}")


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
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

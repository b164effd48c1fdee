"""How the processor's kernels are compiled: by the system's C compiler, once, into the user's cache."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OPTIONS = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w",
            "-pthread", "-shared", "-fPIC"]
# For this processor: the first that the compiler takes. For AMD's, gcc would multiply and add apart in some sums and not in
# others, and what a row's numbers are would depend on how many rows there are.
NATIVE = [["-march=native", "-mprefer-vector-width=512", "--param=avoid-fma-max-bits=0"],
           ["-march=native", "-mprefer-vector-width=512"], ["-march=native"], ["-mcpu=native"], []]


def compiler() -> str | None:
    """The path of the C compiler: that of the variable CC, or cc, gcc, clang; None where there is none to be used."""
    if sys.platform in ("emscripten", "win32") or platform.python_implementation() != "CPython":
        return None
    if sys.platform == "darwin" and not Path("/Library/Developer/CommandLineTools/usr/bin/cc").exists():
        return None  # there `cc` is a program that offers to install one, in a window
    return shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")


def library(source: str) -> Path:
    """The compiled library of a text in C, from the cache or, the first time, compiled into it.

    Its name ends with a checksum of its bytes: loading half a file would end the process.

    Raises:
        RuntimeError, OSError: if it cannot be had, saying why.
    """
    found = compiler()
    if found is None:
        raise RuntimeError("no C compiler (cc, gcc or clang) was found")
    real = os.path.realpath(found)
    what = [source, real, str(os.stat(real).st_mtime_ns), platform.machine(), _processor(), *OPTIONS, *map(str, NATIVE)]
    cache, name = _cache(), f"kernels-{_hash(chr(0).join(what).encode())}"
    for path in sorted(cache.glob(f"{name}-*.so")):
        if _is_ours(path) and path.stem == f"{name}-{_hash(path.read_bytes())}":
            path.touch()
            return path
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another process may do the same
        _tidy(cache)
    with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as folder:
        text, made = Path(folder) / "kernels.c", Path(folder) / "kernels.so"
        text.write_text(source, encoding="utf-8")
        said = ""
        for native in NATIVE:
            status, said = _run([found, *OPTIONS, *native, "-o", str(made), str(text), "-lm"])
            if status == 0:
                made.chmod(0o700)
                return made.replace(cache / f"{name}-{_hash(made.read_bytes())}.so")
            if status < 0 or _STOPPED.search(said):  # these options may be good: no weaker ones are kept in their place
                break
    raise RuntimeError(f"{found} could not compile the kernels: {said.strip()[:500] or f'status {status}'}")


_STOPPED = re.compile("signal|killed|unable to execute|no space left", re.IGNORECASE)
_KEPT = 8  # libraries: of other versions, compilers and machines


def _run(command: list[str]) -> tuple[int, str]:
    """(status, what it said). Ctrl-C and a limit of two minutes end it with all that it has started."""
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    english = {**os.environ, "LC_ALL": "C"}
    with subprocess.Popen(command, **quiet, text=True, errors="replace", env=english, start_new_session=True) as process:
        try:
            said = process.communicate(timeout=120)[1]
        except BaseException as error:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"{command[0]} did not compile the kernels within two minutes") from error
            raise
    return process.returncode, said


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _is_ours(path: Path) -> bool:
    """Whether nobody else may write to it: their code would run as ours."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _tidy(cache: Path) -> None:
    """Removes the libraries whose last use is longest ago, and what a compilation that was killed has left."""
    libraries = sorted(cache.glob("kernels-*.so"), key=lambda path: path.stat().st_mtime)
    for path in libraries[: max(0, len(libraries) - _KEPT + 1)]:
        path.unlink(missing_ok=True)
    for folder in cache.glob("making-*"):
        if time.time() - folder.stat().st_mtime > 3600:
            shutil.rmtree(folder, ignore_errors=True)


def _processor() -> str:
    """What the processor can do: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()


def _cache() -> Path:
    """The folder for compiled kernels, which nobody else may write to."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache"))
    try:
        if home.is_absolute():  # or there is no home, and it would be wherever the user is
            folder = home / "minivit"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_ours(folder) and os.access(folder, os.W_OK):
                return folder
    except OSError:
        pass
    folder = Path(tempfile.mkdtemp(prefix="minivit-"))  # for this process alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

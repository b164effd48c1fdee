"""How the processor's kernels are compiled: by the system's C compiler, once, into the user's cache."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

OPTIONS = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w",
            "-pthread", "-shared", "-fPIC"]


def compiler() -> str | None:
    """The path of the C compiler: that of the variable CC, or cc, gcc, clang; None where there is none to be used."""
    if sys.platform in ("emscripten", "win32") or platform.python_implementation() != "CPython":
        return None
    if sys.platform == "darwin" and not Path("/Library/Developer/CommandLineTools/usr/bin/cc").exists():
        return None  # there `cc` is a program that offers to install one, in a window
    return shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")


def library(source: str) -> Path:
    """The compiled library of a text in C, from the cache or, the first time, compiled into it.

    Raises:
        RuntimeError, OSError: if it cannot be had, saying why.
    """
    found = compiler()
    if found is None:
        raise RuntimeError("no C compiler (cc, gcc or clang) was found")
    real = os.path.realpath(found)
    what = [source, real, str(os.stat(real).st_mtime_ns), platform.machine(), _processor(), *OPTIONS]
    path = _cache() / f"kernels-{hashlib.sha256(chr(0).join(what).encode()).hexdigest()[:32]}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        text, made = Path(folder) / "kernels.c", Path(folder) / "kernels.so"
        text.write_text(source, encoding="utf-8")
        for native in (["-march=native", "-mprefer-vector-width=512"], ["-march=native"], ["-mcpu=native"], []):
            command = [found, *OPTIONS, *native, "-o", str(made), str(text), "-lm"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(f"{found} did not compile the kernels within two minutes") from error
            if done.returncode == 0:
                os.replace(made, path)
                return path
    raise RuntimeError(f"{found} could not compile the kernels: {done.stderr.strip()[:500]}")


def _processor() -> str:
    """What the processor can do: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()


def _cache() -> Path:
    """The folder for compiled kernels: nobody else may write to it, or their code would run as ours."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        folder = Path(home) / "minivit"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    folder = Path(tempfile.mkdtemp(prefix="minivit-"))  # for this process alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

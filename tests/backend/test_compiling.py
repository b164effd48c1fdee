"""How the kernels come to be: from a compiler that may be missing or killed, by a cache that may be damaged, in any thread."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import minivit.backend.kernels as kernels
from minivit.backend import array_code, kernel, kernel_status
from minivit.backend.kernels import compiling

compiled = pytest.mark.skipif(
    not kernels._cpu_kernels(), reason=f"the kernels are not compiled here: {kernels._why_not or 'they are off'}"
)
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

CODE = """
import numpy as np, minivit as mv
from minivit.backend import kernel_status
x = np.linspace(-3, 3, 50, dtype=np.float32)
print(kernel_status(), "|", mv.ops.gelu(x).sum())
"""


def python(code, tmp_path, **environment):
    quick = {"CC": compiler_that(tmp_path, COMPILES)} if compiling.compiler() else {}
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **quick, **environment}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def status(tmp_path, **environment):
    said, total = python(CODE, tmp_path, **environment).split("|")
    assert float(total) == pytest.approx(34.19345, rel=1e-6)  # whoever computed it
    return said.strip()


COMPILES = f'exec "{compiling.compiler()}" "$@" -O0'  # which takes a quarter of the time


def compiler_that(folder, lines):
    """A compiler that is this shell script. One that is there already stays as it is, since the cache looks at its date."""
    script = folder / "cc"
    if not script.exists():
        script.write_text(f"#!/bin/sh\n{lines}\n")
        script.chmod(0o755)
    return str(script)


def cached(tmp_path):
    return sorted((tmp_path / "minivit").iterdir())


# ---- the compiler ----


def test_without_a_compiler_the_array_code_computes(tmp_path):
    assert status(tmp_path, PATH=str(tmp_path / "nothing"), CC="") == "none: no C compiler (cc, gcc or clang) was found"


@pytest.mark.parametrize("says", ["echo no licence >&2", "printf 'no licence \\377' >&2"], ids=["in ASCII", "not in UTF-8"])
def test_with_a_broken_compiler_the_array_code_computes(tmp_path, says):
    cc = compiler_that(tmp_path, f"{says}\nexit 1")
    assert status(tmp_path, CC=cc).startswith(f"none: {cc} could not compile the kernels: no licence")


@compiled
@pytest.mark.parametrize("end", ["kill -KILL $$", "echo 'gcc: fatal error: Killed signal terminated program cc1' >&2; exit 1"],
                         ids=["it itself", "what it calls"])  # fmt: skip
def test_a_compiler_that_is_killed_leaves_no_weaker_kernels_behind(tmp_path, end):
    cc = compiler_that(tmp_path, f'case "$*" in *vector-width*) {end};; esac\n{COMPILES}')
    assert status(tmp_path, CC=cc).startswith(f"none: {cc} could not compile the kernels")
    assert not cached(tmp_path)


@compiled
def test_options_that_it_does_not_know_are_left_out(tmp_path):
    cc = compiler_that(tmp_path, f'case "$*" in *native*) echo unknown >&2; exit 1;; esac\n{COMPILES}')
    assert status(tmp_path, CC=cc) == "compiled by cc"


def test_kernels_can_be_switched_off(tmp_path):
    assert status(tmp_path, MINIVIT_KERNELS="off") == "off (MINIVIT_KERNELS)"


# ---- the cache ----


@compiled
def test_compiled_once_and_kept(tmp_path):
    assert status(tmp_path) == "compiled by cc"
    (kept,) = cached(tmp_path)
    before = kept.stat().st_ino
    os.utime(kept, (1, 1))
    assert status(tmp_path).startswith("compiled by")
    assert [f.stat().st_ino for f in cached(tmp_path)] == [before]
    assert time.time() - kept.stat().st_mtime < 600  # its last use, by which it is kept


def cut(path):
    os.truncate(path, 3 * path.stat().st_size // 4)  # a process that loads it now dies


def other_bytes(path):
    path.write_bytes(path.read_bytes()[:-5] + b"other")


@compiled
@pytest.mark.parametrize("damage", [
    cut, other_bytes, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 100),
    lambda path: path.chmod(0o770),
], ids=["cut off", "other bytes", "empty", "short", "others may write to it"])  # fmt: skip
def test_a_damaged_library_is_compiled_again(tmp_path, damage):
    status(tmp_path)
    (kept,) = cached(tmp_path)
    good = kept.read_bytes()
    damage(kept)
    before = kept.stat().st_ino
    os.link(kept, tmp_path / "link")  # or the new file might get the number of the old one
    assert status(tmp_path).startswith("compiled by")
    (again,) = cached(tmp_path)
    assert again.stat().st_ino != before
    assert again.read_bytes() == good
    assert not again.stat().st_mode & 0o022


@compiled
def test_a_library_without_the_kernels_is_no_error(tmp_path):
    status(tmp_path)
    (kept,) = cached(tmp_path)
    (tmp_path / "empty.c").write_text("int nothing;")
    empty = tmp_path / "empty.so"
    subprocess.run([compiling.compiler(), "-shared", "-fPIC", "-o", empty, tmp_path / "empty.c"], check=True)
    content = empty.read_bytes()
    kept.unlink()
    name = kept.stem.rpartition("-")[0]
    (kept.parent / f"{name}-{hashlib.sha256(content).hexdigest()[:32]}.so").write_bytes(content)
    assert status(tmp_path).startswith("none: ")


@compiled
def test_old_libraries_and_what_killed_compilations_left_are_removed(tmp_path):
    folder = tmp_path / "minivit"
    folder.mkdir(mode=0o700)
    for i in range(12):
        (folder / f"kernels-{i}-0.so").touch()
        os.utime(folder / f"kernels-{i}-0.so", (1000 + i, 1000 + i))
    for name in ("making-old", "making-now"):
        (folder / name).mkdir()
        (folder / name / "kernels.c").touch()
    os.utime(folder / "making-old", (1, 1))
    status(tmp_path)
    left = {path.name for path in cached(tmp_path)}
    assert left >= {"making-now", *(f"kernels-{i}-0.so" for i in range(5, 12))}
    assert len(left) == 1 + compiling._KEPT


@compiled
def test_a_cache_that_others_can_write_to_is_not_used(tmp_path):
    (tmp_path / "minivit").mkdir()
    (tmp_path / "minivit").chmod(0o777)
    assert status(tmp_path).startswith("compiled by")
    assert not cached(tmp_path)


def test_the_cache_is_never_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert compiling._cache() == tmp_path / "home" / ".cache" / "minivit"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where nobody knows of a home
    folder = compiling._cache()
    assert folder.is_absolute()
    assert tmp_path not in folder.parents
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    folder.rmdir()


# ---- meanwhile ----

SLOW = f'echo >> "$XDG_CACHE_HOME/calls"; touch "$XDG_CACHE_HOME/begun"; sleep 3; {COMPILES}'
WHILE_COMPILING = """
import os, pathlib, signal, subprocess, sys, threading, time
import numpy as np, minivit as mv
from minivit.backend import kernel_status
begun = pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "begun"
x = np.linspace(-3, 3, 50, dtype=np.float32)
def right():
    return abs(mv.ops.gelu(x).sum() - 34.19345) < 1e-4
def wait():
    while not begun.exists():
        time.sleep(0.01)
"""


@compiled
@forking
def test_a_fork_meanwhile(tmp_path):
    """The child has a lock that a thread holds which it does not have."""
    said = python(WHILE_COMPILING + """
user = threading.Thread(target=right)
user.start()
wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if right() and kernel_status().startswith("compiled") else 1)
user.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), kernel_status())
""", tmp_path, CC=compiler_that(tmp_path, SLOW))  # fmt: skip
    assert said == "0 compiled by cc\n"


@compiled
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
def test_a_signal_meanwhile_whose_handler_computes(tmp_path):
    said = python(WHILE_COMPILING + """
seen = []
def handler(*_):
    seen.append((begun.exists(), right()))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 1, 0.5)
good = right()
signal.setitimer(signal.ITIMER_REAL, 0)
print(good, (True, True) in seen, all(r for _, r in seen), kernel_status())
""", tmp_path, CC=compiler_that(tmp_path, SLOW))  # fmt: skip
    assert said == "True True True compiled by cc\n"
    assert (tmp_path / "calls").read_text() == "\n"


@compiled
@forking
def test_ctrl_c_meanwhile_ends_the_compiler_and_is_no_answer(tmp_path):
    """It comes to all processes of a terminal. What is compiled by weaker options then would be kept for good."""
    cc = compiler_that(tmp_path, f"""
test -e "$XDG_CACHE_HOME/begun" && {COMPILES}
(sleep 2; touch "$XDG_CACHE_HOME/went-on") &
touch "$XDG_CACHE_HOME/begun"
wait""")
    said = python(WHILE_COMPILING + """
os.setpgrp()  # or it would come to the tests as well
def interrupt():
    wait()
    os.killpg(0, signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    right()
except KeyboardInterrupt:
    print("interrupted")
time.sleep(2.5)
print(begun.with_name("went-on").exists(), right(), kernel_status())
""", tmp_path, CC=cc)  # fmt: skip
    assert said == "interrupted\nFalse True compiled by cc\n"
    (kept,) = [path for path in cached(tmp_path) if path.suffix == ".so"]
    assert kept.stat().st_size > 50_000


@compiled
def test_array_code_in_threads_that_overlap():
    x = np.ones(4, np.float32)
    inside, leave, left = threading.Event(), threading.Event(), threading.Event()

    def user():
        with array_code():
            inside.set()
            leave.wait(20)
        left.set()

    threading.Thread(target=user).start()
    assert inside.wait(20)
    with array_code():
        leave.set()
        assert left.wait(20)
        assert kernel("gelu", x) is None
        assert kernel_status() == "off (array_code())"
    assert kernel("gelu", x) is not None
    with pytest.raises(ValueError, match="mine"), array_code(), array_code():
        raise ValueError("mine")
    assert kernel("gelu", x) is not None

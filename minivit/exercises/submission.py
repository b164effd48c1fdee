"""A student's file: which exercise it is, and the functions that are in it. A .py file, or a notebook.

Running one is running a stranger's program. `read` is called in a process of its own only (`process.py`).
"""

from __future__ import annotations

import json
import linecache
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from minivit.exercises.exercise import MARK, find, names
from minivit.exercises.result import Result
from minivit.exercises.traces import explain_exception

_LARGEST = 10_000_000  # bytes; a notebook may have pictures in it
_RUNS = "the file runs"
_MAGIC = re.compile(  # lines that only IPython understands
    r"""^(\s*)(?: [%!].*                     # %matplotlib inline, !ls
              | [\w.]+\ *=\ *[%!].*         # files = !ls
              | \?{0,2}[\w.]+\?{1,2}        # np.sum?
              | \?{1,2}[\w.]+              # ?np.sum
          )[ ]*$""", re.MULTILINE | re.VERBOSE)  # fmt: skip


def name_of(path: Path) -> str | None:
    """The exercise that a file is a solution of: by the mark in it, else by its name; None if it is neither."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST).decode("utf-8-sig", errors="replace")
    except OSError:
        return None
    if path.suffix == ".ipynb":
        try:
            marked = json.loads(text)["metadata"]["minivit"]["exercise"]
        except (ValueError, KeyError, TypeError):
            marked = None
    else:
        match = re.search(rf"^{re.escape(MARK)}(\w+)", text, re.MULTILINE)
        marked = match[1] if match else None
    known = names()
    return marked if marked in known else path.stem if path.stem in known else None


def read(path: Path, exercise: str) -> dict[str, Any] | Result:
    """The functions of the file, by name; or the answer, if it cannot be run at all."""
    try:
        if path.stat().st_size > _LARGEST:
            return Result.fault(exercise, _RUNS, "not_python", f"{path} is larger than {_LARGEST // 10**6} MB; is it the file "
                                "to check?")  # fmt: skip
        source = path.read_bytes()
    except OSError as error:
        return Result.fault(exercise, _RUNS, "raised", f"{path} cannot be read: {error.strerror or error}")
    module = ModuleType("submission")  # not __main__: what stands below `if __name__ == "__main__"` is not run
    sys.modules[module.__name__] = module  # dataclasses look there
    if path.suffix == ".ipynb":
        return _read_notebook(path, source, exercise, module)
    trouble = _execute(source, str(path), module)
    stub = trouble is not None and trouble[1].startswith("NotImplementedError") and _missing(module, exercise) == []
    if trouble is not None and not stub:  # a stub that the file itself calls is not done yet, and the checks will say so
        return Result.fault(exercise, _RUNS, *trouble)
    return _functions(module, {str(path)}, exercise)


def _read_notebook(path: Path, source: bytes, exercise: str, module: ModuleType) -> dict[str, Any] | Result:
    """Runs the code cells in order. A cell that fails matters only if a function is missing for it."""
    try:
        cells = [(k, c) for k, c in enumerate(json.loads(source)["cells"], 1) if c["cell_type"] == "code"]
        code = [(k, "".join(c["source"])) for k, c in cells if not c["metadata"].get("nbgrader", {}).get("grade", False)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Result.fault(exercise, _RUNS, "not_python", f"{path} is not a notebook (version 4)")
    troubles: list[tuple[str, tuple[str, str]]] = []
    files = set()
    for k, text in code:
        if text.lstrip().startswith("%%"):
            continue
        text = _without_magic(text)
        name = f"{path}, cell {k}"
        files.add(name)
        trouble = _execute(text.encode(), name, module)
        if trouble is not None:
            troubles.append((text, trouble))
    missing = _missing(module, exercise)
    if missing and troubles:
        about = [trouble for text, trouble in troubles if any(f"def {part}" in text for part in missing)]
        return Result.fault(exercise, _RUNS, *(about or [troubles[0][1]])[0])
    return _functions(module, files, exercise)


def _without_magic(text: str) -> str:
    """The text of a cell without the lines that only IPython understands; as it is, if Python understands it."""
    try:
        compile(text, "a cell", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return _MAGIC.sub(r"\1pass", text)
    return text


def _execute(source: bytes, name: str, module: ModuleType) -> tuple[str, str] | None:
    """Runs a piece of source in the module's namespace; (code, explanation) if that fails."""
    lines = source.decode("utf-8", errors="replace").splitlines(keepends=True)
    linecache.cache[name] = (len(source), None, lines, name)  # for tracebacks, wherever the code has moved to
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        return "not_python", explain_exception(error, files=[name])
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return "exited" if isinstance(error, SystemExit) else "raised", explain_exception(error, files=[name])
    return None


def _missing(module: ModuleType, exercise: str) -> list[str]:
    return [part for part in find(exercise).parts if not hasattr(module, part)]


def _functions(module: ModuleType, files: set[str], exercise: str) -> dict[str, Callable[..., Any]]:
    """What the file defines, and whatever it calls by the names of the parts."""
    parts = find(exercise).parts
    return {name: value for name, value in vars(module).items()
            if name in parts or getattr(getattr(value, "__code__", None), "co_filename", None) in files}  # fmt: skip

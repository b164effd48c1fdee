"""Build the executed notebooks: notebooks/NN_name.py (the source, jupytext's percent format) to NN_name.ipynb beside it.

    python tests/build_notebooks.py                rebuild every notebook; one that fails leaves the .ipynb as it was
    python tests/build_notebooks.py 01 03          only these
    python tests/build_notebooks.py --check        run every source from the start, write nothing: exit code 1 if one fails,
                                                   takes too long, or has another text than the .ipynb beside it

The same source gives the same file: cell ids are positions, and times, versions and the kernel's own metadata are left out.
Needs jupytext, nbclient and ipykernel (`pip install "minivit[notebooks]"`).
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
TIME_LIMIT = 120  # seconds for a notebook on two cores
IMAGE_LIMIT = 300_000  # bytes of one output image
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

# What would differ from machine to machine: absolute paths, addresses of objects, a progress bar's clock.
FOREIGN = {
    "an absolute path": re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|var|work|mnt|Users|private)/|\b[A-Z]:\\"),
    "the address of an object": re.compile(r"\b0x[0-9a-f]{6,}"),
    "a progress bar": re.compile(r"\d+(?:\.\d+)?(?:it/s|s/it)"),
}


def sources(names: list[str] | None = None) -> list[Path]:
    """Paths of the notebooks' sources in reading order; `names` keeps those that start with one of them."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    if not names:
        return found
    chosen = [path for path in found if path.name.startswith(tuple(names))]
    if len(chosen) < len(names):
        raise SystemExit(f"names: {names} matches {[p.name for p in chosen]}; there are {[p.name for p in found]}")
    return chosen


def read_source(path: Path) -> Any:
    """The notebook that a source describes, without outputs, with ids that do not change from run to run."""
    import jupytext

    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5  # the first with cell ids
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata = {}
    return notebook


def execute(notebook: Any) -> None:
    """Run all cells in a fresh kernel that sits in notebooks/ and imports this checkout's minivit; outputs are stored."""
    from nbclient import NotebookClient

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = dict(os.environ, PYTHONPATH=path, PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1")
    environment.pop("MPLBACKEND", None)  # a notebook draws inline
    environment["OPENBLAS_NUM_THREADS"] = "1"  # products are summed in the same order, however many cores there are
    NotebookClient(notebook, timeout=4 * TIME_LIMIT, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}},
                   extra_arguments=["--log-level=40"], record_timing=False).execute(env=environment)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}


def _joined(outputs: list[Any]) -> list[Any]:
    """Pieces of one stream put together: where a stream is cut depends on the clock."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def faults(notebook: Any, source: Any) -> list[str]:
    """What is wrong with a stored notebook, held against its source; an empty list if nothing is."""
    found = []
    if [(c.cell_type, c.source) for c in notebook.cells] != [(c.cell_type, c.source) for c in source.cells]:
        found.append("its cells differ from the source's: rebuild with tests/build_notebooks.py")
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None:
            found.append(f"cell {number} was not executed")
        for output in cell.outputs:
            found += [f"cell {number}: {fault}" for fault in _output_faults(output)]
    if not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code"):
        found.append("no outputs are stored")
    return found


def _output_faults(output: Any) -> list[str]:
    if output.output_type == "error":
        return [f"stops with {output.ename}: {output.evalue}"]
    if output.output_type == "stream":
        found = ["writes to stderr: " + output.text[:200]] if output.name == "stderr" else []
        texts = [output.text]
    else:
        found = []
        for kind, data in output.data.items():
            if kind in ("image/png", "image/jpeg") and (size := len(base64.b64decode(data))) > IMAGE_LIMIT:
                found.append(f"an image of {size} bytes, more than {IMAGE_LIMIT}")
        texts = [data for kind, data in output.data.items() if kind.startswith("text/")]
    return found + [f"prints {what}: {match[0]!r}" for what, pattern in FOREIGN.items() for text in texts
                    if (match := pattern.search(text))]


def main(arguments: list[str] | None = None) -> int:
    import nbformat
    from nbclient.exceptions import CellExecutionError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="the first letters of notebooks, e.g. 01; all of them by default")
    parser.add_argument("--check", action="store_true", help="run, write nothing")
    options = parser.parse_args(arguments)
    bad = 0
    for path in sources(options.names):
        notebook, source, stored = read_source(path), read_source(path), path.with_suffix(".ipynb")
        start = time.perf_counter()
        try:
            execute(notebook)
            found = faults(notebook, source)
        except CellExecutionError as error:  # carries the cell and its traceback, in color
            found = [re.sub(r"\x1b\[[\d;]*m", "", str(error)).replace("\n", "\n  ")]
        seconds = time.perf_counter() - start
        if seconds > TIME_LIMIT:
            found.append(f"took {seconds:.0f} s, more than {TIME_LIMIT}")
        if not options.check:
            if not found:  # what is stored is never a notebook that fails
                nbformat.write(notebook, stored)
        elif not stored.exists():
            found.append(f"{stored.name} is missing")
        else:
            found += [f"{stored.name}: {fault}" for fault in faults(nbformat.read(stored, as_version=4), source)]
        print(f"{path.name}: {seconds:.0f} s" + "".join(f"\n  {fault}" for fault in found), flush=True)
        bad += bool(found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

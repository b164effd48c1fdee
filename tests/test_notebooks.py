"""The notebooks: what is stored is what their sources give, and the sources run.

`notebooks/NN_name.py` is the source, `NN_name.ipynb` beside it is built from it, executed, with its figures:

    python tests/build_notebooks.py             rebuild them all; or some: 01 03
    python tests/build_notebooks.py --check     run all of them, in order, and write nothing (a minute or two)

Here the first notebook alone is run; the others train models.
"""

import os
import subprocess
import sys

import pytest

from tests.build_notebooks import FOLDER, ROOT, TIME_LIMIT, faults, read_source, sources

pytest.importorskip("jupytext", reason="notebooks are compared with their sources by jupytext; pip install jupytext")
nbformat = pytest.importorskip("nbformat", reason="notebooks are read by nbformat, which comes with jupytext")

every = pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)


def test_there_are_notebooks_and_each_has_its_source():
    built, written = {p.stem for p in FOLDER.glob("*.ipynb")}, {p.stem for p in sources()}
    assert built == written, f"without a source: {built - written}; not built: {written - built}"
    assert "01_autograd" in written


@every
def test_stored_notebook_is_its_source_executed(path):
    stored = path.with_suffix(".ipynb")
    assert stored.exists(), f"{stored.name} is missing; python tests/build_notebooks.py {path.stem[:2]}"
    assert not faults(nbformat.read(stored, as_version=4), read_source(path))


@every
def test_stored_notebook_has_figures_and_fixed_metadata(path):
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [cell.id for cell in notebook.cells] == [f"cell-{i}" for i in range(len(notebook.cells))]
    assert not any(cell.metadata for cell in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@every
def test_notebook_ends_with_what_to_change_next(path):
    last = read_source(path).cells[-1]
    assert last.cell_type == "markdown"
    assert "What to change next" in last.source


def test_the_checks_find_what_they_are_for():
    """A notebook spoiled in each way that `faults` looks for."""
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])

    def spoiled(output=None, count=1, text="1 + 1"):
        cell = nbformat.v4.new_code_cell(text, execution_count=count, outputs=[output] if output else [])
        return " ".join(faults(nbformat.v4.new_notebook(cells=[cell]), source))

    def says(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)

    assert spoiled(says("2")) == ""
    assert "differ" in spoiled(says("2"), text="1 + 2")
    assert "not executed" in spoiled(says("2"), count=None)
    assert "no outputs" in spoiled()
    assert "stderr" in spoiled(says("careful", "stderr"))
    assert "absolute path" in spoiled(says("saved to /home/me/m.npz"))
    assert "address" in spoiled(says("<function f at 0x7f1200ab34cd>"))
    assert "progress bar" in spoiled(says("100 %, 31.2it/s"))
    assert "stops with ValueError" in spoiled(nbformat.v4.new_output("error", ename="ValueError", evalue="no"))
    image = nbformat.v4.new_output("display_data", {"image/png": "A" * 400_004})
    assert "an image of" in spoiled(image)


def test_first_notebook_runs_as_a_script():
    path = str(FOLDER / "01_autograd.py")
    environment = dict(os.environ, MPLBACKEND="Agg", PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run([sys.executable, "-c", f"import runpy; runpy.run_path({path!r})"], cwd=FOLDER, env=environment,
                          capture_output=True, text=True, timeout=TIME_LIMIT)
    assert done.returncode == 0, done.stderr
    assert "highest_first  dc/da =  114" in done.stdout

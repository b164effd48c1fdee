"""A course from end to end: handed out, filled in, graded."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import minivit as mv
from minivit.exercises import find, names, run_checks
from minivit.exercises.exercise import BEGIN
from minivit.exercises.submission import read

ROOT = Path(__file__).parents[2]


def cells(path):
    return [(c["metadata"]["nbgrader"], "".join(c["source"]), c) for c in json.loads(path.read_text())["cells"]]


def fill_in(path, **bodies):
    """Fills the parts of a notebook in, as a student does."""
    book = json.loads(path.read_text())
    for cell in book["cells"]:
        for part, body in bodies.items():
            source = "".join(cell["source"])
            if f"def {part}(" in source and cell["metadata"]["nbgrader"]["solution"]:
                cell["source"] = [source.replace("raise NotImplementedError()", body)]
    path.write_text(json.dumps(book))


def pytest_in(folder, *words, **environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_exercises.py", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_from_handout_to_grades(tmp_path):
    mv.exercises.handout(tmp_path / "course", ["product"])
    ada = tmp_path / "ada"
    ada.mkdir()
    book = ada / "product.ipynb"
    book.write_bytes((tmp_path / "course" / "product.ipynb").read_bytes())
    fill_in(book, product_backward="return g * y, g * x", reuse_backward="return g * (x + y), g * x")
    done = pytest_in(tmp_path / "course", f"--junitxml={tmp_path / 'grades.xml'}", SUBMISSION=str(ada))
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    suite = next(iter(ElementTree.parse(tmp_path / "grades.xml").getroot()))
    grades = {case.get("name"): case.find("failure") for case in suite}
    assert list(grades) == ["test_exercise[product-product_backward]", "test_exercise[product-reuse_backward]"]
    right, wrong = grades.values()
    assert right is None
    assert "missing_term" in wrong.get("message") + (wrong.text or "")
    assert "minivit/exercises" not in wrong.text, "no traceback of ours"


def test_a_file_and_a_blank_notebook(tmp_path):
    mv.exercises.handout(tmp_path, ["product"])
    assert "2 failed" in pytest_in(tmp_path).stdout  # nothing is filled in
    (tmp_path / "product.ipynb").unlink()
    assert "neither is in" in pytest_in(tmp_path).stdout
    (tmp_path / "product.py").write_text(find("product").solved)
    assert "2 passed" in pytest_in(tmp_path).stdout


def test_one_part_fails_alone(tmp_path):
    text = find("product").solved.replace("return g * y, g * x", "while True: pass")
    (tmp_path / "product.py").write_text(text.replace("gx, gs = product_backward(g, x, s)", "gx, gs = g * s, g * x"))
    with pytest.raises(AssertionError, match="answers within"):
        mv.exercises.grade(tmp_path, "product", "product_backward", time_limit=0.5)
    (tmp_path / "2").mkdir()
    text = find("product").solved.replace("return g * y, g * x", "return None")
    (tmp_path / "2" / "product.py").write_text(text.replace("gx, gs = product_backward(g, x, s)", "gx, gs = g * s, g * x"))
    with pytest.raises(AssertionError, match="wrong_count"):
        mv.exercises.grade(tmp_path / "2", "product", "product_backward")
    mv.exercises.grade(tmp_path / "2", "product", "reuse_backward")


@pytest.mark.parametrize("solutions", [False, True])
def test_the_notebooks_of_all_exercises(tmp_path, solutions):
    paths = mv.exercises.handout(tmp_path / "out", solutions=solutions)
    assert [p.name for p in paths] == [*(f"{name}.ipynb" for name in names()), "test_exercises.py"]
    for name, path in zip(names(), paths):
        book = cells(path)
        ids = [marks["grade_id"] for marks, _, _ in book]
        assert len(set(ids)) == len(ids)
        assert len({cell["id"] for _, _, cell in book}) == len(ids)
        for marks, source, cell in book:
            assert marks["schema_version"] == 3
            assert marks["locked"] != marks["solution"], "a student edits the solution cells alone"
            assert ("points" in marks) == marks["grade"]
            assert ("raise NotImplementedError" in source) == (marks["solution"] and not solutions)
            assert (BEGIN in source) == (marks["solution"] and solutions)
            assert "minivit.exercises." not in source
            assert cell.get("outputs", []) == []
        filled = [source for marks, source, _ in book if marks["solution"]]
        assert [p for p in find(name).parts if any(f"def {p}(" in source for source in filled)] == list(find(name).parts)
        assert sum(marks.get("points", 0) for marks, _, _ in book) == len(find(name).checks)
        assert path.name in (f"{e}.ipynb" for e in names())


@pytest.mark.parametrize("name", names())
def test_a_solved_notebook_passes_and_a_blank_one_is_not_done(name, tmp_path):
    for solutions, verdict in ((True, "passed"), (False, "not done yet")):
        mv.exercises.handout(tmp_path / verdict, [name], solutions)
        functions = read(tmp_path / verdict / f"{name}.ipynb", name)  # here, without a process: these files are ours
        assert run_checks(find(name), functions).verdict == verdict


def test_a_notebook_runs_where_notebooks_run(tmp_path):
    """Every cell, checks too, in a kernel; as nbgrader's own validation does."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    mv.exercises.handout(tmp_path, ["product"], solutions=True)
    book = nbformat.read(tmp_path / "product.ipynb", as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    html = [o["data"]["text/html"] for cell in book.cells for o in cell.get("outputs", []) if "data" in o]
    assert len(html) == 2
    assert all("passed" in text for text in html)


def notebook_with(tmp_path, *sources):
    path = tmp_path / "product.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "metadata": {}, "source": s} for s in sources]}))
    return mv.exercises.check_file(path)


RIGHT = "def product_backward(g, x, y):\n    return g * y, g * x\n"
REUSE = "def reuse_backward(g, x, y):\n    return g * (2 * x + y), g * x\n"


def test_a_cell_that_fails_matters_only_if_a_function_is_missing(tmp_path):
    magic = ["%matplotlib inline\n!ls\nif True:\n    %timeit 1\n", "%%bash\nls\n", "get_ipython()"]
    assert notebook_with(tmp_path, *magic, "1 / 0", RIGHT, "assert False", REUSE).verdict == "passed"
    for line in ("%time", "files = !ls", "np.sum?", "?np.sum", "product_backward??"):  # in the very cell
        assert notebook_with(tmp_path, RIGHT + "\n" + line, REUSE).verdict == "passed"
    remainder = RIGHT.replace("g * y", "g * y * (7\n    % 2)")  # this line begins with % and is Python
    assert notebook_with(tmp_path, remainder, REUSE).verdict == "passed"
    result = notebook_with(tmp_path, "1 / 0", RIGHT.replace("y):", "y:"), REUSE)
    assert result.findings[0].code == "not_python"
    assert "cell 2" in str(result)
    assert notebook_with(tmp_path, RIGHT, "1 / 0\n" + REUSE).findings[0].code == "raised"
    result = notebook_with(tmp_path, RIGHT.replace("g * y", "g * z"), REUSE)
    assert 'product.ipynb, cell 1", line 2, in product_backward\n    return g * z, g * x' in str(result)


def test_check_cells_are_not_run(tmp_path):
    mv.exercises.handout(tmp_path, ["product"], solutions=True)
    path = tmp_path / "product.ipynb"
    book = json.loads(path.read_text())
    for cell in book["cells"]:
        if cell["metadata"]["nbgrader"]["grade"]:
            cell["source"] = ["print('a check cell')\n"]
    path.write_text(json.dumps(book))
    assert mv.exercises.check_file(path).printed == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', '{"cells": [{"cell_type": "code"}]}', "\x00\x01"])
def test_a_notebook_that_is_none(tmp_path, text):
    (tmp_path / "product.ipynb").write_text(text)
    result = mv.exercises.check_file(tmp_path / "product.ipynb")
    assert result.findings[0].code == "not_python"
    assert "is not a notebook" in str(result)


def test_handout_overwrites_nothing(tmp_path):
    mv.exercises.handout(tmp_path, ["product"])
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="nothing was written"):
        mv.exercises.handout(tmp_path, ["product"], solutions=True)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before

"""`minivit exercises` as a student and a teacher use it."""

import pytest

from minivit.cli import main
from minivit.exercises import find, names

SWAPPED = "def product_backward(g, x, y):\n    return g * x, g * y\n"
RIGHT = "def product_backward(g, x, y):\n    return g * y, g * x\n"
REUSE = "def reuse_backward(g, x, y):\n    return g * (2 * x + y), g * x\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exercises(*words):
    return main(["exercises", *words])


def test_from_start_to_passed(folder, capsys):
    assert exercises("start", "product") == 0
    assert "product.py: fill it in" in capsys.readouterr().out
    assert exercises("status") == 0
    assert "product              not done yet" in capsys.readouterr().out
    assert exercises("check") == 1
    assert "to fill in" in capsys.readouterr().out

    file = folder / "product.py"
    file.write_text(SWAPPED + REUSE)
    first, second = find("product").hints["swapped_inputs"]
    for words, hint in (((), first), ((), second), (("--hint", "1"), first), (("--hint", "0"), None)):
        assert exercises("check", "product.py", *words) == 1
        out = " ".join(capsys.readouterr().out.split())
        assert "swapped_inputs" in out
        assert hint in out if hint else "hint:" not in out
    assert exercises("status") == 0
    assert "wrong (4 attempts, swapped_inputs)" in capsys.readouterr().out

    file.write_text(RIGHT + REUSE)
    assert exercises("check") == 0
    assert "product: passed" in capsys.readouterr().out
    assert exercises("status") == 0
    out = capsys.readouterr().out
    assert "product              passed\n" in out
    assert [line.split()[1] for line in out.splitlines()] == names()


def test_the_name_for_the_file(folder, capsys):
    exercises("start", "product")
    assert exercises("check", "product") == 2
    assert "did you mean product.py?" in capsys.readouterr().err


def test_list(capsys):
    assert exercises("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == names()
    assert max(map(len, lines)) <= 100


def test_several_files_the_worst_decides(folder, capsys):
    (folder / "a.py").write_text("# minivit exercise: product\n" + RIGHT + REUSE)
    (folder / "b.py").write_text("# minivit exercise: product\n" + SWAPPED + REUSE)
    (folder / "c.py").write_text("1/0\n")  # of no exercise
    assert exercises("check") == 1
    out = capsys.readouterr().out
    assert out.count("product: ") == 2
    assert [line for line in out.splitlines() if line in ("a.py", "b.py")] == ["a.py", "b.py"]  # which is which
    (folder / "a.py").write_text("# minivit exercise: product\n" + RIGHT + REUSE, encoding="utf-8-sig")  # with a mark of order
    assert exercises("check", "a.py") == 0
    capsys.readouterr()
    assert exercises("check", "nowhere.py", "c.py", "a.py") == 2  # the last is answered all the same
    assert "product: passed" in capsys.readouterr().out


def test_start_keeps_what_is_there(folder, capsys):
    exercises("start", "product", "work")
    (folder / "work" / "product.py").write_text("mine\n")
    assert exercises("start", "product", "work") == 2
    assert "--force" in capsys.readouterr().err
    assert (folder / "work" / "product.py").read_text() == "mine\n"
    assert exercises("start", "product", "work", "--force") == 0
    assert (folder / "work" / "product.backup1").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check"], "no exercise was started here"),
        (["check", "nowhere.py"], "there is no file 'nowhere.py'"),
        (["check", "."], "is a folder"),
        (["start", "produkt"], "did you mean 'product'"),
        (["status", "nowhere"], "there is no folder 'nowhere'"),
        (["handout", "out", "produkt"], "did you mean 'product'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, says, capsys, folder):
    assert exercises(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("minivit exercises: error: ")
    assert says in error
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["fly"], ["check", "--hint", "3"], ["check", "--time-limit", "0"], ["start"]])
def test_wrong_words_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        exercises(*words)
    assert stop.value.code == 2


def test_the_help_says_that_it_is_no_sandbox(capsys):
    with pytest.raises(SystemExit):
        exercises("check", "--help")
    assert "not a sandbox" in " ".join(capsys.readouterr().out.split())


def test_a_damaged_note_is_explained(folder, capsys):
    (folder / "product.py").write_text(RIGHT + REUSE)
    (folder / "minivit-progress.json").write_text("{")
    assert exercises("check") == 0
    error = capsys.readouterr().err
    assert "could not be read" in error
    assert "Traceback" not in error
    assert (folder / "minivit-progress.damaged1.json").read_text() == "{"

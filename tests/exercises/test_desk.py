"""From a notebook: statement, start, check; hints get stronger, and nothing is overwritten."""

import dataclasses
import json

import numpy as np
import pytest

import minivit as mv
from minivit.exercises import desk
from minivit.exercises.exercise import find


@pytest.fixture(autouse=True)
def no_attempts(monkeypatch):
    monkeypatch.setattr(desk, "_met", {})


def product_backward(g, x, y):
    return g * x, g * y


def test_the_statement_is_the_whole_page():
    text = mv.exercises.statement("product")
    assert text.startswith(find("product").title)
    assert "product_backward(g, x, y)" in text


def test_hints_get_stronger_with_attempts():
    first, second = find("product").hints["swapped_inputs"]
    assert [mv.exercises.check("product", product_backward).hint for _ in range(3)] == [first, second, second]
    assert mv.exercises.check("product", product_backward, hint=0).hint == ""
    assert mv.exercises.check("product", product_backward, hint=1).hint == first


def test_a_seed_that_is_none():
    with pytest.raises(TypeError, match="seed: expected an integer"):
        mv.exercises.check("product", product_backward, seed="7")


def test_another_mistake_begins_with_its_first_hint():
    mv.exercises.check("product", product_backward)
    mv.exercises.check("product", product_backward)
    forgot = {"product_backward": lambda g, x, y: (y.copy(), x.copy())}["product_backward"]
    forgot.__name__ = "product_backward"
    assert mv.exercises.check("product", forgot).hint == find("product").hints["cotangent_ignored"][0]


def test_the_nearest_hint_is_given():
    hints = {"f:a": ("1", "2"), "a": ("3", "4"), "f:": ("5", "6"), "": ("7", "8")}
    exercise = dataclasses.replace(find("product"), hints=hints)
    assert exercise.hint("f", "wrong_count", 1).startswith("Read the annotation")
    asked = [("f", "a", 1), ("h", "a", 2), ("f", "b", 1), ("h", "b", 9)]
    assert [exercise.hint(*question) for question in asked] == ["1", "4", "5", "8"]


def test_at_a_prompt_the_result_is_what_is_to_be_read():
    result = mv.exercises.check("product", product_backward)
    assert repr(result) == str(result)


def test_an_exception_shows_no_line_of_ours():
    def softmax_backward(g, x):
        return g @ 3

    report = mv.exercises.check("softmax", softmax_backward).failing.report
    assert "return g @ 3" in report
    assert "e04_softmax" not in report


def test_a_cell_and_a_prompt_in_an_exception():
    shown = []
    for file in ("/tmp/ipykernel_1/2.py", "<stdin>"):
        space = {}
        exec(compile("\ndef product_backward(g, x, y):\n    return oops", file, "exec"), space)
        shown.append(mv.exercises.check("product", space["product_backward"]).failing.report.splitlines()[1:])
    cell, prompt = (f"  {file}, line 3, in product_backward" for file in ("A cell of the notebook", 'File "<stdin>"'))
    assert shown == [[cell], [prompt]]


def test_nothing_is_checked_after_a_failure():
    functions = {"product_backward": product_backward, "reuse_backward": find("product").module.reuse_backward}
    for all_of_them, count in ((False, 1), (True, 2)):
        assert len(mv.exercises.run_checks(find("product"), functions, all_of_them=all_of_them).outcomes) == count


def test_line_numbers_of_our_file_are_not_told():
    def product_backward(g, x, y):
        return g, g

    text = str(mv.exercises.check("product", product_backward))
    assert "`return x * y`" in text
    assert "(line" not in text


def test_only_what_is_given_is_checked():
    def reuse_backward(g, x, y):
        return g * (2 * x + y), g * x

    result = mv.exercises.check("product", reuse_backward)
    assert result.verdict == "passed"
    assert [outcome.function for outcome in result.outcomes] == ["reuse_backward"]


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), SystemExit(3), RecursionError("deep")])
def test_it_never_raises_what_a_student_raises(error):
    def product_backward(g, x, y):
        raise error

    result = mv.exercises.check("product", product_backward)
    assert result.findings[0].code in ("raised", "exited")
    assert "raise error" in str(result)
    assert result.hint == ""


def test_it_shows_itself():
    result = mv.exercises.check("product", product_backward)
    text = str(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "hint: " in text
    assert "reproduce" not in text, "the inputs are the exercise's"
    html = result._repr_html_()
    assert html.count("<tr>") == 1
    assert html.count("<table>") == html.count("</table>")
    assert "swapped_inputs" in html
    assert "&lt;" in mv.exercises.Result.fault("e", "<t>", "raised", "in <module>")._repr_html_().split("<pre>")[1]

    def reuse_backward(g, x, y):
        raise NotImplementedError

    assert "to fill in: reuse_backward" in mv.exercises.check("product", reuse_backward)._repr_html_()


def test_a_result_survives_json():
    result = mv.exercises.check("product", product_backward)
    again = mv.exercises.Result.from_dict(json.loads(json.dumps(result.as_dict())))
    assert str(again) == str(result)
    assert [f.code for f in again.findings] == [f.code for f in result.findings]


def test_evidence_becomes_plain():
    from minivit.exercises.result import plain

    assert plain({"a": (np.float64(1), np.arange(2), None, {3}, object)}) == {"a": [1.0, [0, 1], None, [3], str(object)]}


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("product",), TypeError, "give at least one of product_backward, reuse_backward"),
        (("produt", product_backward), ValueError, "did you mean 'product'"),
        (("product", np.sin), ValueError, "'sin' is not one of 'product'"),
        (("product", 3), TypeError, "got int"),
    ],
)
def test_bad_arguments(arguments, error, says):
    with pytest.raises(error, match=says):
        mv.exercises.check(*arguments)
    with pytest.raises(ValueError, match="hint"):
        mv.exercises.check("product", product_backward, hint=3)


def test_start_never_overwrites(tmp_path):
    path = mv.exercises.start("product", tmp_path / "new" / "folder")
    assert path.read_text().endswith(find("product").start)
    path.write_text("my work\n")
    with pytest.raises(FileExistsError, match="nothing was written"):
        mv.exercises.start("product", path.parent)
    assert path.read_text() == "my work\n"
    mv.exercises.start("product", path.parent, force=True)
    path.write_text("my second work\n")
    mv.exercises.start("product", path.parent, force=True)
    assert [p.read_text() for p in sorted(path.parent.glob("*backup*"))] == ["my work\n", "my second work\n"]

"""The format of an exercise: what is handed out holds everything a student needs, and nothing that gives it away."""

import ast
import sys

import numpy as np
import pytest

import minivit as mv
from minivit.exercises import find, names
from minivit.exercises.exercise import BEGIN, END, FOLDER, MARKER, _files, handed_out, parts, strip

TEXT = f'''"""Title

Statement.
"""

import numpy as np

from minivit.exercises.checks import (
    Gradient,
    Values,
)


def given(x):
    return x


def f(x):
    """Doc."""
    y = given(x)
    {BEGIN}
    y = 2 * y
    {END}
    return y


def g(x):
    {BEGIN}
    if x:
        return 1
    return 2
    {END}


{MARKER}

CHECKS = ()
'''


def test_what_is_handed_out():
    above = handed_out(TEXT)
    assert above.endswith(f"    {END}\n")
    assert "minivit" not in above
    assert "CHECKS" not in above
    assert "import numpy as np\n\n\ndef given" in above
    assert parts(above) == ("f", "g")
    assert strip(above).endswith(
        "    y = given(x)\n    # YOUR CODE HERE\n    raise NotImplementedError()\n    return y\n\n\n"
        "def g(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()\n"
    )


@pytest.mark.parametrize("text", [f"x\n{BEGIN}\n", f"{END}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_marks_come_in_pairs(text):
    with pytest.raises(ValueError, match="SOLUTION"):
        strip(text)


def test_a_file_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="is missing"):
        handed_out("x = 1\n")
    with pytest.raises(ValueError, match="no function"):
        parts("def f():\n    pass\n")


def test_names_are_in_the_order_of_the_numbers():
    assert names()[0] == "product"
    numbers = [find(name).number for name in names()]
    assert numbers == sorted(set(numbers)), "two exercises have one number"
    assert {p.stem for p in FOLDER.glob("e[0-9][0-9]_*.py")} == {file for _, file in _files().values()}


def test_an_unknown_name_is_answered_with_a_near_one():
    with pytest.raises(ValueError, match="did you mean 'product'"):
        find("produkt")
    with pytest.raises(ValueError, match="there are product"):
        find("zzzzzz")


@pytest.mark.parametrize("name", names())
def test_every_exercise_is_complete(name):
    exercise = find(name)
    assert exercise.title
    assert not exercise.title.endswith(".")
    assert 200 < len(exercise.statement) < 5000, "a page"
    assert exercise.teaches
    assert all(part in exercise.statement for part in exercise.parts), "the statement names what to fill in"
    titles = [check.title for check in exercise.checks]
    assert len(set(titles)) == len(titles) > 0
    assert {check.function for check in exercise.checks} <= set(exercise.parts)
    assert "" in exercise.hints
    assert all(len(pair) == 2 and all(pair) for pair in exercise.hints.values())


@pytest.mark.parametrize("name", names())
def test_what_is_handed_out_runs_and_gives_nothing_away(name):
    exercise = find(name)
    assert "minivit.exercises" not in exercise.start
    assert BEGIN not in exercise.start
    assert BEGIN in exercise.solved
    for text in ("CHECKS", "HINTS", MARKER):
        assert text not in exercise.start
    namespace = {"__name__": "start"}
    exec(compile(exercise.start, "start.py", "exec"), namespace)
    result = mv.exercises.run_checks(exercise, {part: namespace[part] for part in exercise.parts})
    assert result.verdict == "not done yet", str(result)
    assert result.passed == []


@pytest.mark.parametrize("name", names())
def test_the_solution_stands_alone_and_passes(name):
    exercise = find(name)
    namespace = {"__name__": "solved"}
    exec(compile(exercise.solved, "solved.py", "exec"), namespace)
    assert mv.exercises.run_checks(exercise, {part: namespace[part] for part in exercise.parts}).verdict == "passed"


@pytest.mark.parametrize("name", names())
def test_hints_do_not_hold_the_solution(name):
    """No line of the solution with something to it stands in a hint."""
    exercise = find(name)
    inside, lines = False, []
    for line in exercise.solved.splitlines():
        inside = line.strip() == BEGIN or (inside and line.strip() != END)
        if inside and len(line.strip()) > 24 and line.strip() != BEGIN:
            lines.append("".join(line.split("#")[0].removeprefix("return").split()))
    for hint in (hint for pair in exercise.hints.values() for hint in pair):
        assert not [line for line in lines if line and line in "".join(hint.split())]


@pytest.mark.parametrize("name", names())
def test_inputs_are_drawn_anew_and_are_small(name):
    for check in find(name).checks:
        if not hasattr(check, "inputs"):
            continue
        one, same, other = ([v for v in check.inputs(np.random.default_rng(seed)) if isinstance(v, np.ndarray)]
                            for seed in (0, 0, 1))  # fmt: skip
        assert sum(v.size for v in one) <= 400, f"{check.title}: {[v.shape for v in one]}"
        assert all(np.array_equal(a, b) for a, b in zip(one, same))
        floats = [(v, w) for v, w in zip(one, other) if v.dtype.kind == "f"]
        assert not floats or not all(np.array_equal(v, w) for v, w in floats)


def test_loading_one_exercise_loads_no_other():
    find("product")
    module = ast.parse((FOLDER / "e01_product.py").read_text())
    assert isinstance(module.body[0], ast.Expr)
    assert "minivit.exercises.e01_product" in sys.modules

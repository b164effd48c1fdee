"""What a check says of a result: the cause where two arrays show it, and nothing of a right one."""

from pathlib import Path

import numpy as np
import pytest

from minivit.exercises import checks, e04_softmax
from minivit.exercises.checks import Finding, Gradient, NotDoneYet, Property, Raised, Values
from minivit.exercises.values import explain_values

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4))
EXPECTED = np.exp(X)


@pytest.mark.parametrize(
    ("came", "codes"),
    [
        (EXPECTED, []),
        (EXPECTED * (1 + 1e-12), []),
        (EXPECTED.copy(order="F"), []),
        (None, ["wrong_shape"]),
        ("text", ["wrong_dtype"]),
        ([1.0, 2.0], ["wrong_dtype"]),
        (np.array([object()]), ["wrong_dtype"]),
        (EXPECTED * 1j, ["wrong_dtype"]),
        (EXPECTED.astype(np.float32), ["wrong_dtype"]),
        (EXPECTED[0], ["wrong_shape"]),
        (EXPECTED.reshape(4, 3), ["wrong_shape"]),
        (np.where(X > 0, np.nan, EXPECTED), ["not_finite"]),
        (0 * EXPECTED, ["zero_gradient"]),
        (-EXPECTED, ["wrong_sign"]),
        (EXPECTED / 4, ["mean_vs_sum"]),
        (EXPECTED * 3, ["mean_vs_sum"]),
        (EXPECTED * 1.7, ["constant_factor"]),
        (EXPECTED / 2, ["constant_factor"]),
        (EXPECTED.T, ["transposed", "wrong_shape"]),
        (EXPECTED[:, ::-1], ["permuted"]),
        (np.roll(EXPECTED, 1, 0), ["permuted"]),
        (EXPECTED.T.reshape(3, 4), ["misplaced"]),
        (EXPECTED + 0.3, ["missing_term"]),
        (EXPECTED + X.sum(1, keepdims=True), ["missing_term"]),
        (EXPECTED + X**2, ["unexplained"]),
        (3.0, ["wrong_shape"]),
    ],
)
def test_values_are_explained(came, codes):
    found = explain_values(came, EXPECTED, inputs=[X])
    assert [f.code for f in found][: len(codes)] == codes
    assert bool(found) == bool(codes)


def test_a_rounding_of_float32_is_no_fault():
    low = EXPECTED.astype(np.float32)
    assert not explain_values(low * np.float32(1 + 1e-6), low)
    assert explain_values(EXPECTED, low)[0].code == "wrong_dtype"


def test_numbers_and_infinities_may_be_right():
    assert not explain_values(2.0, 2.0)
    assert not explain_values(np.float64(2.0), 2.0)
    assert not explain_values(np.array([1.0, -np.inf]), np.array([1.0, -np.inf]))
    assert explain_values(np.array([1.0, np.inf]), np.array([1.0, -np.inf]))[0].code == "unexplained"


def draw(rng):
    return [rng.normal(size=(3, 4)), rng.normal(size=4)]


def findings(check, **functions):
    return check.findings(functions, np.random.default_rng(0))


def test_values_compares_tuples_and_sees_changed_inputs():
    check = Values(function="f", title="t", expected=lambda x, w: (x * w, x + w), inputs=draw)
    assert findings(check, f=lambda x, w: [x * w, x + w]) == ([], "")
    found, text = findings(check, f=lambda x, w: (x * w, -x - w))
    assert found[0].code == "wrong_sign"
    assert "result 1" in found[0].message
    assert "yours" in text
    assert findings(check, f=lambda x, w: x * w)[0][0].code == "wrong_count"

    def f(x, w):
        y = x + w
        x *= w
        return x, y

    assert findings(check, f=f)[0][0] == Finding("mutated_input", "f changed its argument x in place; work on a copy",
                                                 {"input": "x"})  # fmt: skip


def test_gradient_of_the_students_own_forward():
    check = Gradient(function="b", title="t", forward="f", inputs=draw)
    right = {"f": lambda x, w: x * w, "b": lambda g, x, w: (g * w, (g * x).sum(0))}
    assert findings(check, **right) == ([], "")
    assert findings(check, **{**right, "f": lambda x, w: x * w * w})[0]
    with pytest.raises(NotDoneYet):
        findings(check, b=right["b"])
    found, _ = findings(check, **{**right, "f": lambda x, w: "text"})
    assert found[0].code == "bad_forward"


def stub(*args):
    raise NotImplementedError


def failing(*args):
    raise KeyError("k")


@pytest.mark.parametrize(
    "check",
    [
        Gradient(function="f", title="t", forward=np.multiply, inputs=draw),
        Gradient(function="b", title="t", forward="f", inputs=draw),
        Values(function="f", title="t", expected=np.multiply, inputs=draw),
        Property(function="f", title="t", test=lambda f, rng: [] if f(1) else []),
    ],
)
def test_stubs_and_exceptions_come_through(check):
    functions = {"b": lambda g, x, w: (g * w, (g * x).sum(0))}
    with pytest.raises(NotDoneYet):
        findings(check, f=stub, **functions)
    with pytest.raises(Raised) as caught:
        findings(check, f=failing, **functions)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_result_that_a_property_cannot_use():
    check = Property(function="f", title="t", test=lambda f, rng: [Finding("own", "m", {})] if sum(f(2)) else [])
    assert findings(check, f=lambda n: [0])[0] == []
    assert findings(check, f=lambda n: [1])[0][0].code == "own"
    found, text = findings(check, f=lambda n: None)
    assert found[0].code == "unusable_result"
    assert "f returned None; is a return missing?" in text
    assert "a float, which cannot be used here: TypeError" in findings(check, f=float)[1]


def test_steps_of_the_solution_are_named_once():
    hidden = checks._Hidden(Path(e04_softmax.__file__), "softmax")
    line = "`e = np.exp(x - x.max(axis=-1, keepdims=True))` (line 40)"
    assert hidden.text(f"comes back through {line} in {line}") == "comes back through a step of softmax"
    assert hidden.text("through `y = 3` (line 2) in `z = 4`") == "through `y = 3` in `z = 4`"

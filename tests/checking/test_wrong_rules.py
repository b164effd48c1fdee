"""Every wrong rule is refused and its cause named; no right one is, over many seeds."""

import numpy as np
import pytest

import minivit as mv
from minivit.checking import CODES
from tests.checking import wrong_rules, wrong_steps
from tests.checking.wrong_rules import draw, write_into_x

WRONG = wrong_rules.WRONG + wrong_steps.WRONG
RIGHT = wrong_rules.RIGHT + wrong_steps.RIGHT


@pytest.mark.parametrize(("f", "vjp", "shapes", "codes"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_cause_is_the_first_finding(f, vjp, shapes, codes):
    for seed in range(3):
        with pytest.raises(mv.GradcheckError) as caught:
            mv.gradcheck(f, *draw(shapes, seed), vjp=vjp, seed=seed)
        report = caught.value.report
        assert report.verdict == "wrong"
        assert report.findings[0].code in codes, str(report)
        assert {finding.code for finding in report.findings} <= set(CODES)
        assert max(map(len, str(report).splitlines())) <= 80
        assert "<table>" in report._repr_html_() or not report.rows


@pytest.mark.parametrize(("f", "vjp", "shapes"), [r[1:] for r in RIGHT], ids=[r[0] for r in RIGHT])
def test_no_false_accusation(f, vjp, shapes):
    for seed in range(200 // len(RIGHT) + 1):
        report = mv.gradcheck(f, *draw(shapes, seed), vjp=vjp, seed=seed)
        assert report.verdict == "right", str(report)
        assert report.findings == []


@pytest.mark.parametrize(("f", "vjp", "inputs", "codes"), [h[1:] for h in wrong_rules.HIDDEN],
                         ids=[h[0] for h in wrong_rules.HIDDEN])  # fmt: skip
def test_what_looks_right_at_one_point_or_once_is_found(f, vjp, inputs, codes):
    for seed in range(3):
        with pytest.raises(mv.GradcheckError) as caught:
            mv.gradcheck(f, *inputs, vjp=vjp, seed=seed)
        assert caught.value.report.findings[0].code in codes, str(caught.value)


def test_a_backward_that_does_not_look_at_its_arguments_is_told_so():
    x = np.array([0.5, -1.2, 2.0])
    with pytest.raises(mv.GradcheckError, match="right at the inputs given") as caught:
        mv.gradcheck(lambda x: x * x, x, vjp=lambda g, _: 2 * g * x)
    assert "values from outside, or of an earlier call" in caught.value.report.findings[0].message


def test_an_operation_that_returns_the_same_array_each_time():
    out = np.empty(3)
    op = mv.op(lambda x: x * x)
    op.vjp(lambda g, x: np.multiply(g, 2 * x, out=out))
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(op, np.array([0.5, -1.2, 2.0]))
    assert caught.value.report.findings[0].code == "reused_result"


def test_nothing_is_said_of_what_rounding_hides():
    """The derivative of x² + 10¹² is lost in the rounding of 10¹²: neither right nor, with a factor of 1.5, wrong."""
    x = np.array([0.5, -1.2, 0.9])
    for rule in (lambda g, x: 2 * g * x, lambda g, x: 3 * g * x):
        report = mv.gradcheck(lambda x: x * x + 1e12, x, vjp=rule)
        assert (report.verdict, report.findings[0].code) == ("inconclusive", "inconclusive")


@pytest.mark.parametrize("magnitude", ["mixed", "tiny", "large"])
def test_no_false_accusation_at_any_magnitude(magnitude):
    """Numbers of many sizes side by side, of any operation: what is small is the difference of what is not."""
    functions = [mv.ops.exp, mv.ops.tanh, mv.ops.gelu, mv.ops.softmax, mv.ops.log_softmax, lambda x: x * x * x,
                 lambda x: (x * x).sum(), lambda x: mv.ops.exp(x).sum(), lambda x: mv.ops.softmax(x).sum(axis=-1),
                 lambda x: mv.ops.layer_norm(x, np.ones(4), np.zeros(4)),
                 lambda x: mv.ops.cross_entropy(x, np.array([0, 3, 1]))]  # fmt: skip
    for seed in range(3):
        rng = np.random.default_rng(seed)
        size = {"mixed": 10 ** rng.uniform(-7, 1.6, (3, 4)), "tiny": 1e-6 * rng.uniform(0.1, 2, (3, 4)),
                "large": 30 * rng.uniform(0.1, 2, (3, 4))}[magnitude]  # fmt: skip
        for f in functions:
            mv.gradcheck(f, size * rng.choice([-1.0, 1.0], size.shape), order=2, seed=seed)


def test_special_inputs_do_not_mislead():
    """At x = 1 a forgotten factor x looks like 2; elsewhere it does not."""
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(lambda x: x**2, np.ones(3), vjp=lambda g, x: g)
    assert caught.value.report.findings[0].code == "missing_factor"
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(lambda x: x**2, np.ones(3), vjp=lambda g, x: g * x)
    assert caught.value.report.findings[0].code == "constant_factor"


def test_a_small_error_is_not_explained_by_what_is_as_small():
    """Half a millionth off, irregularly: refused, and no factor near 1 is made of it."""
    off = 1 + 5e-7 * np.array([1.0, -0.4, 0.7, -1.0, 0.2])
    x = draw([(5,)], 0)[0]
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(lambda x: x**2, x, vjp=lambda g, x: 2 * g * x * off)
    assert [finding.code for finding in caught.value.report.findings] == ["unexplained"]


def test_the_users_arrays_are_left_alone():
    x = np.ones(4)
    with pytest.raises(mv.GradcheckError):
        mv.gradcheck(lambda x: x**2, x, vjp=write_into_x)
    assert (x == 1).all()

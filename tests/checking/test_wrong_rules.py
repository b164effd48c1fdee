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

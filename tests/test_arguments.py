"""An argument is what it must be, or the error says what it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivit.arguments import choice, integer, meant, nearest, real


@given(st.integers(0, 2**63 - 1), st.sampled_from([int, np.uint64]))
def test_integers_are_taken(value, kind):
    assert integer("n", kind(value)) == value
    assert type(integer("n", kind(value))) is int


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.True_, [1], np.array([1, 2])])
def test_what_is_no_integer_is_not(value):
    with pytest.raises(TypeError, match="steps: expected an integer, got"):
        integer("steps", value)


@given(st.integers(), st.integers(0, 100))
def test_integers_have_a_least_and_a_largest(value, least):
    if least <= value < 2**63:
        assert integer("n", value, least) == value
    else:
        with pytest.raises(ValueError, match=f"n: expected an integer of at least {least}.*, got {value}$"):
            integer("n", value, least)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300))
def test_finite_numbers_are_taken(value):
    assert real("x", value) == float(value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(True, TypeError), ("1", TypeError), (None, TypeError), ([1], TypeError), (1j, TypeError), (np.ones(1), TypeError),
     (np.nan, ValueError), (np.inf, ValueError), (10**400, ValueError)],
)  # fmt: skip
def test_what_is_no_finite_number_is_not(value, error):
    with pytest.raises(error, match="x: expected a (finite )?number"):
        real("x", value)


def test_the_nearest_name_is_proposed():
    assert choice("norm", "l2", ("linf", "l2")) == "l2"
    with pytest.raises(ValueError, match=r"norm: got 'L_2', expected one of 'linf', 'l2'; did you mean 'l2'\?"):
        choice("norm", "L_2", ("linf", "l2"))
    with pytest.raises(ValueError, match="norm: got 2, expected one of 'linf', 'max'$"):
        choice("norm", 2, ("linf", "max"))
    assert nearest("ViT-B", ["vit_b", "resnet"]) == "vit_b"
    assert meant("zebra", ["linf", "l2"]) == "there are linf, l2"
    assert meant("embed_dims", {"embed_dim": 0}) == "did you mean 'embed_dim'?"

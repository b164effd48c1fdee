"""Numeric derivatives, the adjoint test and the Taylor slope."""

import numpy as np
import pytest

from minivit import ops
from minivit.checking import adjoint_gap, numerical_gradient, taylor_slope
from minivit.checking.differences import EPS, Line, complex_step, noise_of, refine

rng = np.random.default_rng(8)


def test_numerical_gradient_to_twelve_digits():
    x, g = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    found = numerical_gradient(np.tanh, x, g)
    right = g * (1 - np.tanh(x) ** 2)
    np.testing.assert_allclose(found.value, right, rtol=0, atol=2e-12)
    assert (np.abs(found.value - right) <= found.bar + 1e-12).all()
    np.testing.assert_allclose(numerical_gradient(lambda x: np.sum(x**2), x).value, 2 * x, rtol=0, atol=1e-10)
    assert numerical_gradient(lambda x: x**2, np.float64(3.0), 1.0).value == pytest.approx(6)


def test_numerical_gradient_wants_a_cotangent():
    with pytest.raises(ValueError, match="cotangent"):
        numerical_gradient(np.tanh, np.ones(3))
    with pytest.raises(ValueError, match="g: expected the shape"):
        numerical_gradient(np.tanh, np.ones(3), np.ones(2))


@pytest.mark.parametrize(
    ("f", "value", "kink"),
    [(np.sin, 1.0, ""), (np.abs, 0.0, "kink"), (np.sign, None, "jump"), (lambda t: max(t - 1e-5, 0), 0.0, ""),
     (lambda t: np.sin(300 * t), 300.0, ""), (lambda t: t**2 if t > 0 else -(t**2), 0.0, "")],
)  # fmt: skip
def test_refine(f, value, kink):
    r = refine(lambda t: float(f(t) - f(0.0)), EPS, 3e-3)
    assert r.kink == kink
    if value is not None:
        assert abs(r.value - value) <= max(r.bar, 1e-12)


def test_noise():
    x, g = rng.standard_normal(5), rng.standard_normal(5)
    d = rng.standard_normal(5)
    assert noise_of(np.tanh, x, g, d) < 1e-14
    assert 1e-9 < noise_of(lambda x: np.tanh(x).astype(np.float32), x, g, d) < 1e-6


def test_complex_step_is_exact_where_it_applies():
    x, d, g = (rng.standard_normal(4) for _ in range(3))
    assert complex_step(np.exp, x, d, g) == pytest.approx(np.sum(g * np.exp(x) * d), rel=1e-15)
    assert complex_step(lambda x: np.abs(x), x, d, g) is None
    assert Line(np.exp, x, d, g)(0.0) == 0.0


def test_adjoint_gap():
    u, v = rng.standard_normal((2, 4, 4, 3)), rng.standard_normal((2, 4, 12))

    def cut(x):
        return ops.im2col(x, patch_size=2)

    assert adjoint_gap(cut, lambda p: ops.col2im(p, image_size=4, patch_size=2), u, v) < 1e-14
    assert adjoint_gap(cut, lambda p: p.reshape(u.shape), u, v) > 1e-3
    with pytest.raises(ValueError, match="v: "):
        adjoint_gap(cut, cut, u, u)


def test_taylor_slope():
    x = rng.standard_normal((3, 3))

    def f(x):
        return (ops.tanh(x @ x) * x).sum()

    right = numerical_gradient(lambda x: np.sum(np.tanh(x @ x) * x), x).value
    assert taylor_slope(f, x) == pytest.approx(2, abs=0.1)
    assert taylor_slope(f, x, gradient=right) == pytest.approx(2, abs=0.1)
    assert taylor_slope(f, x, gradient=1.2 * right, direction=right / np.linalg.norm(right)) < 1.3
    assert taylor_slope(lambda x: x.sum(), x) == np.inf
    with pytest.raises(ValueError, match="direction: expected the shape"):
        taylor_slope(f, x, direction=np.ones(3))

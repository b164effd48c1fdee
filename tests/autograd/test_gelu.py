"""GELU where arithmetic is hard: at 0, at numbers almost too small or too large for their dtype, far out on both sides."""

import warnings

import numpy as np
import pytest

import minivit as mv
from minivit.autograd.fused.gelu import gelu_reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_tanh_forms_derivative_far_out(dtype):
    t = mv.Tensor(np.array([-1e30, -1e14, -50, 50, 1e14, 1e30], dtype), requires_grad=True)
    (found,) = mv.grad(mv.ops.gelu(t, approximate=True).sum(), [t])  # of a sum: no kernel takes a cotangent without strides
    np.testing.assert_array_equal(found.data, [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_derivative_everywhere(dtype):
    tiny, largest = np.finfo(dtype).tiny, np.finfo(dtype).max
    special = [0, tiny, tiny / 2, tiny / 1024, 3 * tiny, 8 * tiny, 1e-20, 1e4, 1e6, largest]
    x = np.array([*np.linspace(-60, 60, 20001), *special, *(-v for v in special)], dtype)
    t = mv.Tensor(x, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = mv.grad(mv.ops.gelu(t), [t], np.ones_like(x))
    exact = mv.Tensor(np.clip(x.astype(float), -100, 100), requires_grad=True)
    (expected,) = mv.grad(gelu_reference(exact), [exact], np.ones(x.shape))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=4e-7 if dtype == np.float32 else 2e-15)

"""Derivatives to the third order against PyTorch's elementary operations, in float64.

Its fused layer norm is avoided on purpose: its third derivative is wrong in 2.13.0 (`test_layer_norm_third.py`)."""

import numpy as np
import pytest

import minivit as mv
from minivit import ops

torch = pytest.importorskip("torch", reason="needs PyTorch, the outside reference: pip install 'minivit[parity]'")

D, HEADS = 4, 2


def norm_then_attention(x, weight, bias, projection):
    """Self-attention of a layer norm; x is used twice, before and around, as in an encoder block."""
    n = ops.layer_norm(x, weight, bias)
    return ops.multi_head_attention(ops.linear(n, projection), num_heads=HEADS) * x + x


def norm_then_attention_torch(x, weight, bias, projection):
    centered = x - x.mean(-1, keepdim=True)
    n = centered / ((centered * centered).mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias
    q, k, v = (n @ projection).reshape(*x.shape[:2], 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
    a = (q @ k.transpose(-1, -2) / (D // HEADS) ** 0.5).softmax(-1)
    return (a @ v).transpose(1, 2).reshape(x.shape) * x + x


def classifier(x, w1, w2):
    return ops.cross_entropy(ops.linear(ops.gelu(ops.linear(x, w1)), w2), np.array([0, 2, 1]), label_smoothing=0.1)


def classifier_torch(x, w1, w2):
    h = x @ w1
    h = 0.5 * h * (1 + torch.erf(h * 0.5**0.5))
    log_p = (h @ w2).log_softmax(-1)
    return -(0.9 * log_p[torch.arange(3), torch.tensor([0, 2, 1])] + 0.1 * log_p.mean(-1)).mean()


CASES = {
    "layer norm and attention": (norm_then_attention, norm_then_attention_torch, [(2, 3, D), (D,), (D,), (D, 3 * D)]),
    "classifier": (classifier, classifier_torch, [(3, 4), (4, 5), (5, 3)]),
}


def derivatives(f, xs, weights, grad, order):
    """y, and for each order the gradients of the sum of the last ones, each times fixed weights."""
    y = f(*xs)
    found = [y]
    total = (y * weights[0]).sum()
    for weight in weights[1 : order + 1]:
        gradients = grad(total, xs)
        found += gradients
        total = sum(((g * weight).sum() for g in gradients[1:]), (gradients[0] * weight).sum())
    return found


@pytest.mark.parametrize("case", CASES)
def test_three_orders(case):
    ours, theirs, shapes = CASES[case]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in shapes]
    weights = [1.3, 0.7, -1.1, 0.9]
    a = derivatives(ours, [mv.Tensor(x, requires_grad=True) for x in arrays], weights,
                    lambda y, xs: mv.grad(y, xs, create_graph=True), 3)
    b = derivatives(theirs, [torch.tensor(x, requires_grad=True) for x in arrays], weights,
                    lambda y, xs: torch.autograd.grad(y, xs, create_graph=True), 3)
    for i, (mine, reference) in enumerate(zip(a, b, strict=True)):
        reference = reference.detach().numpy()
        error = np.abs(mine.numpy() - reference).max() / np.abs(reference).max()
        assert error < 1e-11, f"result {i} of shape {mine.shape}: largest difference over largest value {error:.1e}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_operation_torch_has(dtype):
    """Values and gradients of the elementwise operations, on values away from the kinks."""
    rng = np.random.default_rng(1)
    x = (rng.choice([-1, 1], (4, 5)) * rng.uniform(0.2, 2, (4, 5))).astype(dtype)
    g = rng.normal(size=(4, 5)).astype(dtype)
    names = ["exp", "tanh", "erf", "sin", "cos", "abs", "relu", "softmax", "log_softmax"]
    pairs = {name: (getattr(ops, name), getattr(torch, name, None)) for name in names}
    pairs["softmax"] = (ops.softmax, lambda t: torch.softmax(t, -1))
    pairs["log_softmax"] = (ops.log_softmax, lambda t: torch.log_softmax(t, -1))
    pairs["gelu"] = (ops.gelu, torch.nn.functional.gelu)
    pairs["gelu, tanh"] = (lambda t: ops.gelu(t, approximate=True), lambda t: torch.nn.functional.gelu(t, approximate="tanh"))
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    for name, (ours, theirs) in pairs.items():
        a, b = mv.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        ya, yb = ours(a), theirs(b)
        (ga,), (gb,) = mv.grad(ya, [a], g), torch.autograd.grad(yb, [b], torch.tensor(g))
        for mine, reference in ((ya, yb), (ga, gb)):
            np.testing.assert_allclose(mine.numpy(), reference.detach().numpy(), rtol=tolerance, atol=tolerance, err_msg=name)

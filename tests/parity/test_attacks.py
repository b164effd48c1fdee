"""PGD against a PGD written by hand in PyTorch: the same iterates, step for step, in float64."""

import numpy as np
import pytest

import minivit as mv
from minivit.attacks.pgd import iterates

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minivit[parity]'")

from minivit.bench import torch_vit  # noqa: E402

rng = np.random.default_rng(0)
D, H, K, N = 12, 16, 4, 6
# Logits of moderate size: where a probability p is nearly 1, PyTorch's p - 1 has lost the digits that ours keeps.
W1, B1, W2 = rng.normal(size=(D, H)), rng.normal(size=H), 0.3 * rng.normal(size=(H, K))
X, Y = rng.random((N, 2, 3, 2)), rng.integers(0, K, N)


def ours(x):
    return mv.ops.gelu(x.reshape(x.shape[0], D) @ W1 + B1) @ W2


def theirs(x):
    w1, b1, w2 = (torch.from_numpy(a) for a in (W1, B1, W2))
    return torch.nn.functional.gelu(x.reshape(len(x), D) @ w1 + b1) @ w2


def torch_pgd(model, x, labels, eps, alpha, steps, norm, sign=1.0):
    """x(0) .. x(steps); for l2 ball and box are projected on together, by bisection."""
    x, labels = torch.from_numpy(x), torch.from_numpy(labels)
    x_t, walk = x.clone(), [x.numpy()]
    for _ in range(steps):
        x_t = x_t.detach().requires_grad_(True)
        loss = sign * torch.nn.functional.cross_entropy(model(x_t), labels, reduction="sum")
        (g,) = torch.autograd.grad(loss, x_t)
        with torch.no_grad():
            if norm == "linf":
                x_t = (x_t + alpha * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
            else:
                length = g.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
                v = x_t + alpha * g / length - x
                low, high = torch.zeros_like(length), torch.ones_like(length)
                for _ in range(100):
                    middle = (low + high) / 2
                    inside = (v * middle).clamp(-x, 1 - x).flatten(1).norm(dim=1).reshape(length.shape) <= eps
                    low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
                x_t = x + (v * high).clamp(-x, 1 - x)
        walk.append(x_t.numpy())
    return walk


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("norm", "eps", "alpha"), [("linf", 0.1, 0.02), ("linf", 0.3, 0.1), ("l2", 0.5, 0.1), ("l2", 1.5, 0.5)]
)
def test_every_iterate_on_a_small_network(norm, eps, alpha, targeted):
    targets = (Y + 1) % K if targeted else None
    expected = torch_pgd(theirs, X, Y if targets is None else targets, eps, alpha, 10, norm, -1.0 if targeted else 1.0)
    walk = iterates(
        ours, X, Y, X, steps=10, targets=targets, eps=eps, norm=norm, step_size=alpha, bounds=(0.0, 1.0)
    )
    for t, ((x_t, _, _), e) in enumerate(zip(walk, expected)):
        np.testing.assert_allclose(x_t, e, rtol=0, atol=1e-10, err_msg=f"step {t}")
    r = mv.attacks.pgd(
        ours, X, Y, eps=eps, norm=norm, steps=10, step_size=alpha, random_start=False, targets=targets, keep="last"
    )
    np.testing.assert_allclose(r.x_adv, expected[-1], rtol=0, atol=1e-10)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(expected[-1])).numpy()
    np.testing.assert_array_equal(r.success, logits.argmax(1) != Y if targets is None else logits.argmax(1) == targets)


def test_fgsm():
    expected = torch_pgd(theirs, X, Y, 0.1, 0.1, 1, "linf")[-1]
    np.testing.assert_allclose(mv.attacks.fgsm(ours, X, Y, eps=0.1).x_adv, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.15), ("l2", 1.0)])
def test_every_iterate_on_a_vit(norm, eps):
    model = mv.models.ViT(
        image_size=8, patch_size=2, channels=1, embed_dim=32, depth=2, num_heads=4, num_classes=10, seed=3
    ).to(dtype="float64")
    noise = np.random.default_rng(1)
    for p in model.parameters():  # nothing at its special initial value
        p.assign_(p.data + 0.05 * noise.standard_normal(p.shape))
    x, y = noise.random((5, 8, 8, 1)), noise.integers(0, 10, 5)
    weights = torch_vit.parameters(model)
    alpha = 2.5 * eps / 10
    expected = torch_pgd(lambda v: torch_vit.forward(model.config, weights, v), x, y, eps, alpha, 10, norm)
    walk = iterates(model, x, y, x, steps=10, eps=eps, norm=norm, step_size=alpha, bounds=(0.0, 1.0))
    for t, ((x_t, _, _), e) in enumerate(zip(walk, expected)):
        np.testing.assert_allclose(x_t, e, rtol=0, atol=1e-10, err_msg=f"step {t}")
    r = mv.attacks.pgd(model, x, y, eps=eps, norm=norm, steps=10, random_start=False, keep="last")
    np.testing.assert_allclose(r.x_adv, expected[-1], rtol=0, atol=1e-10)
    assert r.distance[norm].max() > 0.9 * eps

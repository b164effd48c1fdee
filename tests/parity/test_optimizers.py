"""Ten steps of each optimizer beside PyTorch's, in float64 and float32."""

import numpy as np
import pytest

import minivit as mv

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minivit[parity]'")

CASES = {
    "sgd": (mv.train.SGD, "SGD", {"lr": 0.1, "momentum": 0.0}),
    "momentum": (mv.train.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": (mv.train.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (mv.train.Adam, "Adam", {"lr": 0.1, "weight_decay": 0.1}),
    "adamw": (mv.train.AdamW, "AdamW", {"lr": 0.1, "weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 1e-6}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("case", CASES)
def test_step_for_step(case, dtype, tolerance):
    ours, theirs, options = CASES[case]
    rng = np.random.default_rng(0)
    starts = [rng.standard_normal(shape).astype(dtype) for shape in ((5, 4), (4,), (2, 3, 4))]
    p = [mv.nn.Parameter(start) for start in starts]
    q = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    opt = ours(p, **options)
    # PyTorch decays whatever it is told to: matrices in one group, the vector in another
    groups = [{"params": [q[0], q[2]]}, {"params": [q[1]], "weight_decay": 0.0}]
    peer = getattr(torch.optim, theirs)(groups, **options)
    for step in range(10):
        opt.lr = 0.1 / (step + 1)
        for group in peer.param_groups:
            group["lr"] = opt.lr
        for a, b in zip(p, q):
            g = rng.standard_normal(a.shape).astype(dtype)
            a.grad, b.grad = mv.Tensor(g), torch.tensor(g)
        opt.step()
        peer.step()
        for a, b in zip(p, q):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_clipping():
    gradients = [np.random.default_rng(1).standard_normal(shape) for shape in ((5, 4), (4,))]
    p = [mv.nn.Parameter(g) for g in gradients]
    q = [torch.nn.Parameter(torch.tensor(g)) for g in gradients]
    for a, b, g in zip(p, q, gradients):
        a.grad, b.grad = mv.Tensor(g), torch.tensor(g)
    norm = mv.train.clip_grad_norm(p, 0.5)
    np.testing.assert_allclose(norm, float(torch.nn.utils.clip_grad_norm_(q, 0.5)), rtol=1e-14)
    for a, b in zip(p, q):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-6)  # PyTorch divides by norm + 1e-6

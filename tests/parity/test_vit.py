"""The ViT against PyTorch on the same weights and images: logits, every parameter's gradient, the images' gradient."""

import numpy as np
import pytest

import minivit as mv

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minivit[parity]'")

from minivit.bench import torch_vit  # noqa: E402

CASES = {
    "digits": {"image_size": 8, "patch_size": 2, "channels": 1, "embed_dim": 64, "depth": 4, "num_heads": 4},
    "mean pooling, tanh": {"image_size": (12, 8), "patch_size": 4, "channels": 3, "embed_dim": 48, "depth": 2,
                           "num_heads": 3, "pool": "mean", "gelu": "tanh", "norm_eps": 1e-5},
    "no positions, width scale": {"image_size": 16, "patch_size": 4, "channels": 3, "embed_dim": 32, "depth": 3,
                                  "num_heads": 4, "position": "none", "scale": "width"},
    "ViT-Ti/16": {"image_size": 224, "patch_size": 16, "channels": 3, "embed_dim": 192, "depth": 12, "num_heads": 3},
}  # fmt: skip


def gap(ours, theirs):
    """The largest difference over the largest value."""
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients(case, dtype):
    model = mv.models.ViT(**CASES[case], num_classes=10, seed=3).to(dtype=dtype)
    rng = np.random.default_rng(0)
    for p in model.parameters():  # nothing at its special initial value: no zero bias, no weight of ones
        p.assign_(p.data + 0.05 * rng.standard_normal(p.shape))
    (H, W), C = model.config.image_size, model.config.channels
    B = 2 if case == "ViT-Ti/16" else 5
    images, labels = rng.random((B, H, W, C)).astype(dtype), rng.integers(0, 10, B)

    x = mv.Tensor(images, requires_grad=True)
    names, params = zip(*model.named_parameters())
    logits = model(x)
    *grads, gx = mv.grad(mv.ops.cross_entropy(logits, labels), [*params, x])

    theirs = torch_vit.parameters(model)
    tx = torch.tensor(images, requires_grad=True)
    tlogits = torch_vit.forward(model.config, theirs, tx)
    torch.nn.functional.cross_entropy(tlogits, torch.tensor(labels)).backward()
    their_grads = torch_vit.gradients(theirs)

    forward, backward = (1e-5, 1e-4) if dtype == "float32" else (1e-10, 1e-10)
    assert gap(logits.numpy(), tlogits.detach().numpy()) < forward
    assert gap(gx.numpy(), tx.grad.numpy()) < backward
    for name, g in zip(names, grads):
        assert gap(g.numpy(), their_grads[name]) < backward, name


def test_exact_gelu_in_float64():
    x = np.linspace(-40, 40, 20001)
    theirs = torch.nn.functional.gelu(torch.tensor(x))
    assert np.abs(mv.ops.gelu(x) - theirs.numpy()).max() < 1e-14

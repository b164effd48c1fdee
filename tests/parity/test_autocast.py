"""Mixed precision beside PyTorch's own: the same model is off by about as much, in its loss and in every gradient."""

import numpy as np
import pytest

import minivit as mv
from minivit.bench.peers import torch_vit

torch = pytest.importorskip("torch", reason="needs PyTorch, the outside reference: pip install 'minivit[parity]'")

SCALE = 2.0**12


def test_a_training_step_in_float16():
    model = mv.models.ViT(image_size=16, patch_size=4, channels=3, embed_dim=48, depth=3, num_heads=4, num_classes=10)
    rng = np.random.default_rng(0)
    images, labels = rng.random((8, 16, 16, 3), dtype=np.float32), rng.integers(0, 10, 8)

    def ours(precision):
        with mv.autocast(precision):
            loss = mv.ops.cross_entropy(model(images), labels)
        return loss, mv.grad(loss * SCALE, list(model.parameters()))

    def theirs():
        p = torch_vit.parameters(model)
        with torch.autocast("cpu", dtype=torch.float16):
            loss = torch.nn.functional.cross_entropy(torch_vit.forward(model.config, p, torch.tensor(images)),
                                                     torch.tensor(labels))  # fmt: skip
        (loss * SCALE).backward()
        return loss, torch_vit.gradients(p)

    (exact_loss, exact), (our_loss, mine), (their_loss, others) = ours("float32"), ours("float16"), theirs()
    assert abs(float(our_loss) - float(exact_loss)) < 3e-3 * float(exact_loss)
    assert abs(their_loss.item() - float(exact_loss)) < 3e-3 * float(exact_loss)
    names = [name for name, _ in model.named_parameters()]
    for name, e, a in zip(names, exact, mine):
        size = np.linalg.norm(e.numpy())
        our_error = np.linalg.norm(a.numpy() - e.numpy()) / size
        their_error = np.linalg.norm(others[name] - e.numpy()) / size
        assert our_error < max(2 * their_error, 2e-3), (name, our_error, their_error)

"""What a step of a Vision Transformer asks of a GPU, seen through the stand-in: that nothing is copied or waited for."""

import numpy as np
import pytest

import minivit as mv
from minivit.backend import products
from tests import cupy_standin

CONFIG = {"image_size": 8, "patch_size": 4, "channels": 1, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}


@pytest.fixture
def model(standin):
    return mv.models.ViT(**CONFIG, seed=0).to("cuda")


@pytest.fixture
def images(standin):
    return mv.Tensor(standin.asarray(np.random.default_rng(0).random((6, 8, 8, 1), dtype=np.float32)))


LABELS = np.array([0, 1, 2, 3, 4, 0])


def calls(model, images):
    """The products of one step of training."""
    del cupy_standin.products[:]
    loss = mv.ops.cross_entropy(model(images), LABELS)
    mv.grad(loss, list(model.parameters()))
    return list(cupy_standin.products)


def test_no_product_copies_its_operands(model, images):
    made = calls(model, images)
    assert {call["name"] for call in made} == {"gemmEx", "gemmStridedBatchedEx"}
    # of each layer's attention: Q Kᵀ, its totals, A V; and Q Kᵀ, Aᵀ ∂, ∂ Vᵀ, ∂S K, ∂Sᵀ Q, each once per head
    assert sum(call["name"] == "gemmStridedBatchedEx" for call in made) == 2 * (3 * 2 + 1 + 3 * 5)
    assert all(call["batch"] == len(images) or call["batch"] == 3 * len(images) for call in made if "batch" in call)


def test_tf32_reaches_every_product(model, images, monkeypatch):
    monkeypatch.setattr(products, "_told", {})
    assert not any(call["tf32"] for call in calls(model, images))
    with mv.allow_tf32():
        assert all(call["tf32"] for call in calls(model, images))


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tf32", "allowed"), [
    ("float32", False, 1e-4), ("float32", True, 2e-2), ("float16", False, 2e-2),
])
def test_a_step_on_a_gpu_is_that_on_the_cpu(precision, tf32, allowed):
    x, model = np.random.default_rng(0).random((6, 8, 8, 1), dtype=np.float32), mv.models.ViT(**CONFIG, seed=0)

    def gradients():
        with mv.allow_tf32(tf32), mv.autocast(precision):
            loss = mv.ops.cross_entropy(model(mv.Tensor(x).to(model.device)), LABELS)
            return [g.numpy() / 1024 for g in mv.grad(loss * 1024, list(model.parameters()))]

    here = gradients()
    model.to("cuda")
    for a, b in zip(gradients(), here):
        assert np.linalg.norm(a - b) <= allowed * np.linalg.norm(b) + 1e-7


def test_a_step_of_training_waits_for_nothing(model, images):
    model = mv.models.ViT(**CONFIG, dropout=0.1, drop_path=0.1, position="relative").to("cuda").train()
    optimizer, ema = mv.train.AdamW(model.named_parameters()), mv.train.EMA(model.parameters())
    mv.ops.cross_entropy(model(images), LABELS)  # the first array that moves shows whether the GPU works
    before = cupy_standin.synchronizations()
    for max_norm in (1e-6, 1e6):
        optimizer.zero_grad()
        loss = mv.ops.cross_entropy(model(images), LABELS, label_smoothing=0.1)
        loss.backward()
        norm = mv.train.clip_grad_norm(model.parameters(), max_norm)
        optimizer.step()
        ema.update()
    assert cupy_standin.synchronizations() == before
    assert float(norm) > 0
    assert cupy_standin.synchronizations() == before + 1

"""The named sizes: parameters exact to the unit, and multiply-accumulates, against the published numbers."""

import subprocess
import sys

import numpy as np
import pytest

import minivit as mv
from minivit.models import count_macs, create, names
from minivit.models.registry import config
from tests.models.small import POSITIONS, small

# parameters with a head of 1000 classes, without a head, and 10⁹ multiply-accumulates; the parameters of most of these
# stand in the tests of Google's own ViT code
PUBLISHED = {
    "vit_tiny_patch16_224": (5_717_416, 5_524_416, 1.254),
    "vit_tiny_patch16_384": (5_790_376, 5_597_376, 4.682),
    "vit_small_patch32_224": (22_878_952, 22_493_952, 1.143),
    "vit_small_patch16_224": (22_050_664, 21_665_664, 4.599),
    "vit_small_patch16_384": (22_196_584, 21_811_584, 15.490),
    "vit_medium_patch16_224": (38_837_736, 38_324_736, 7.991),
    "vit_base_patch32_224": (88_224_232, 87_455_232, 4.409),
    "vit_base_patch16_224": (86_567_656, 85_798_656, 17.564),
    "vit_base_patch16_384": (86_859_496, 86_090_496, 55.484),
    "vit_base_patch8_224": (86_576_872, 85_807_872, 78.148),
    "vit_large_patch32_224": (306_535_400, 305_510_400, 15.378),
    "vit_large_patch16_224": (304_326_632, 303_301_632, 61.555),
    "vit_large_patch16_384": (304_715_752, 303_690_752, 191.066),
    "vit_large_patch14_224": (304_203_752, 303_178_752, 81.013),
    "vit_huge_patch14_224": (632_045_800, 630_764_800, 167.295),
}
WITHOUT_CLASS_TOKEN = {  # mean over the patches, no class token
    "vit_small_patch16_224": 22_049_896,
    "vit_base_patch16_224": 86_566_120,
    "vit_small_patch32_224": 22_878_184,
    "vit_base_patch32_224": 88_222_696,
}


def tokens(c):
    (height, width), P = c.image_size, c.patch_size
    return height * width // P**2 + (c.pool == "cls")


def parameters(c):
    """By the formula."""
    D, M, K, N = c.embed_dim, int(c.mlp_ratio * c.embed_dim), c.num_classes, tokens(c)
    block = 4 * D + (3 * D * D + 3 * D * c.qkv_bias) + (D * D + D) + (D * M + M) + (M * D + D)
    patch = c.patch_size**2 * c.channels * D + D
    position = N * D if c.position == "learned" else 0
    if c.position == "relative":
        rows, columns = c.image_size[0] // c.patch_size, c.image_size[1] // c.patch_size
        position = c.depth * c.num_heads * ((2 * rows - 1) * (2 * columns - 1) + 3 * (c.pool == "cls"))
    return patch + D * (c.pool == "cls") + position + c.depth * block + 2 * D + D * K + K


def macs(c):
    """By the formula: projections, Q Kᵀ and A V of every block; patches and head."""
    D, M, N = c.embed_dim, int(c.mlp_ratio * c.embed_dim), tokens(c)
    block = 4 * N * D * D + 2 * N * N * D + 2 * N * D * M
    return (N - (c.pool == "cls")) * c.patch_size**2 * c.channels * D + c.depth * block + D * c.num_classes


def test_the_names():
    assert sorted(names()) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_heads_are_64_wide_and_80_in_the_huge_model(name):
    """Neither parameters nor multiply-accumulates depend on the number of heads."""
    c = config(name)
    assert c.embed_dim == c.num_heads * (80 if "huge" in name else 64)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_to_the_unit(name):
    with_head, without, _ = PUBLISHED[name]
    model = create(name, seed=None)
    assert model.num_parameters() == parameters(model.config) == with_head
    assert with_head - model.head.num_parameters() == without


@pytest.mark.parametrize("name", WITHOUT_CLASS_TOKEN)
def test_parameters_without_a_class_token(name):
    assert create(name, seed=None, pool="mean").num_parameters() == WITHOUT_CLASS_TOKEN[name]


@pytest.mark.parametrize(("name", "count"), [
    ("vit_base_patch16_224", 102_595_923), ("vit_large_patch16_224", 325_690_707), ("vit_huge_patch14_224", 658_745_683),
])  # fmt: skip
def test_parameters_with_the_head_of_imagenet_21k(name, count):
    assert create(name, num_classes=21843, seed=None).num_parameters() == count


def test_a_block_of_the_base_model():
    block = create("vit_base_patch16_224", seed=None).blocks[0]
    assert block.num_parameters() == 12 * 768**2 + 13 * 768 == 7_087_872


def test_googles_testing_config():
    model = mv.models.ViT(embed_dim=10, mlp_ratio=1.0, num_heads=2, depth=1, patch_size=16, num_classes=1000, seed=None)
    assert model.num_parameters() == 21_390


@pytest.mark.parametrize("options", [
    *({"position": p, "pool": q} for p in POSITIONS for q in ("cls", "mean")), {"qkv_bias": False}, {"mlp_ratio": 2.5},
    {"image_size": (8, 20)}, {"depth": 0}, {"channels": 1},
])  # fmt: skip
def test_small_models_follow_the_formulas(options):
    model = small(**options)
    c = model.config
    assert model.num_parameters() == parameters(c) == sum(a.size for a in model.state_dict().values())
    assert count_macs(model, (*c.image_size, c.channels)) == macs(c)


def test_a_model_without_a_seed_takes_no_memory():
    pytest.importorskip("resource", reason="this system does not tell how much memory is in use")
    code = """if True:
        import resource
        import minivit as mv
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        before = peak()
        model = mv.models.create("vit_base_patch16_224", seed=None)
        print((peak() - before) / (4 * model.num_parameters()))
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert float(out) < 0.1


# ---- multiply-accumulates ----


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_by_the_formula(name):
    assert f"{macs(config(name)) / 1e9:.3f}" == f"{PUBLISHED[name][2]:.3f}"


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"])
def test_macs_counted(name):
    model = create(name, seed=None)
    assert count_macs(model, (224, 224, 3)) == macs(model.config)


def test_counting_leaves_the_model_as_it_was():
    model = small(dropout=0.5)
    model.norm.eval()
    before = [m.training for m in model.modules()]
    count = count_macs(model, (12, 8, 3))
    with mv.no_grad():
        assert count_macs(model, (12, 8, 3)) == count
    assert [m.training for m in model.modules()] == before
    assert model.dropout.step == 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("a", "b", "count"), [
    ((5, 3), (3, 4), 60), ((2, 5, 3), (3, 4), 120), ((5, 3), (7, 3, 4), 420), ((2, 7, 5, 3), (2, 7, 3, 4), 840),
])  # fmt: skip
def test_macs_of_a_product(a, b, count):
    def model(images):
        zero = images.sum() * 0
        return mv.ops.matmul(zero + np.ones(a), np.ones(b))

    assert count_macs(model, (2, 2, 1)) == count


def test_macs_of_any_function_count_attention_whichever_way_it_is_computed():
    q = np.ones((1, 2, 5, 3))

    def fused(images):
        return mv.ops.scaled_dot_product_attention(q + images.sum() * 0, q, q)

    def composed(images):
        return mv.ops.attention_probabilities(q + images.sum() * 0, q) @ q

    assert count_macs(fused, (2, 2, 1)) == count_macs(composed, (2, 2, 1)) == 2 * 2 * 5 * 5 * 3
    model = small()
    assert count_macs(lambda x: model(x, intermediates=True)[0], (12, 8, 3)) == count_macs(model, (12, 8, 3))


def test_macs_within_a_checkpoint_cannot_be_counted():
    with pytest.raises(ValueError, match="count_macs: .* within mv.checkpoint"):
        count_macs(mv.checkpoint(small()), (12, 8, 3))


# ---- by name ----


@pytest.mark.parametrize(("wrong", "near"), [
    ("vit_tinny_patch16_224", "vit_tiny_patch16_224"), ("ViT_base_patch16_224", "vit_base_patch16_224"),
    ("vit_base_16_224", "vit_base_patch16_224"), ("vit_huge_patch16_224", "vit_huge_patch14_224"),
])  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=f"unknown model '{wrong}'; did you mean '{near}'?"):
        create(wrong)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(ValueError, match="unknown model 'resnet50'; there are vit_tiny_patch16_224, "):
        create("resnet50")


def test_a_named_model_with_changes():
    model = create("vit_tiny_patch16_224", num_classes=7, image_size=32, patch_size=8, depth=1, seed=3)
    again = create("vit_tiny_patch16_224", num_classes=7, image_size=32, patch_size=8, depth=1, seed=3)
    assert model(np.zeros((1, 32, 32, 3), "float32")).shape == (1, 7)
    assert model.config.embed_dim == 192
    assert model.config.num_heads == 3
    np.testing.assert_array_equal(model.head.weight.numpy(), again.head.weight.numpy())
    assert model.head.weight.numpy().any()

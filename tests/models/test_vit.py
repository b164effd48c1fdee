"""The ViT as a whole: against a plain NumPy forward pass, its gradients, its intermediates, its options, on a device."""

import math

import numpy as np
import pytest

import minivit as mv
import minivit.backend.kernels as kernels
from minivit.models.encoder import all_tokens
from minivit.models.vit import ViTConfig
from minivit.nn import init
from tests.models.small import POSITIONS, SMALL, perturb, pictures, small

erf = np.vectorize(math.erf)
LABELS = np.array([1, 4])


def plain_forward(model, images):
    """The equations of the paper on arrays, one head at a time."""
    c, p = model.config, model.state_dict()

    def norm(z, name):
        centered = z - z.mean(-1, keepdims=True)
        return centered / np.sqrt(z.var(-1, keepdims=True) + c.norm_eps) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(z, name):
        return z @ p[f"{name}.weight"] + p.get(f"{name}.bias", 0)

    z = linear(mv.ops.im2col((images - 0.5) / 0.5, patch_size=c.patch_size), "patch_embed.proj")
    if c.pool == "cls":
        z = np.concatenate([np.repeat(p["cls_token"], len(z), 0), z], axis=1)
    if c.position == "learned":
        z = z + p["pos_embed"]
    elif c.position.startswith("sinusoidal"):
        z = z + model.pos_embed
    D = c.embed_dim
    d = D // c.num_heads
    for i in range(c.depth):
        block = f"blocks.{i}"
        q, k, v = np.split(linear(norm(z, f"{block}.norm1"), f"{block}.attn.qkv"), 3, axis=-1)
        heads = []
        for h in range(c.num_heads):
            part = slice(h * d, (h + 1) * d)
            scores = q[..., part] @ k[..., part].swapaxes(1, 2) / math.sqrt(d if c.scale == "head" else D)
            if c.position == "relative":
                scores = scores + p[f"biases.{i}.table"][model.biases[i].index][..., h]
            e = np.exp(scores)
            heads.append(e / e.sum(-1, keepdims=True) @ v[..., part])
        z = z + linear(np.concatenate(heads, -1), f"{block}.attn.proj")
        hidden = linear(norm(z, f"{block}.norm2"), f"{block}.mlp.fc1")
        if c.gelu == "exact":
            hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
        else:
            hidden = hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3))) / 2
        z = z + linear(hidden, f"{block}.mlp.fc2")
    z = norm(z, "norm")
    return linear(z[:, 0] if c.pool == "cls" else z.mean(1), "head")


OPTIONS = {
    **{f"{position}, {pool}": {"position": position, "pool": pool} for position in POSITIONS for pool in ("cls", "mean")},
    "scale of the width": {"scale": "width"},
    "tanh GELU": {"gelu": "tanh"},
    "no bias of q, k, v": {"qkv_bias": False},
    "another MLP": {"mlp_ratio": 1.5},
    "another eps": {"norm_eps": 0.1},
    "no blocks": {"depth": 0},
    "one head": {"num_heads": 1},
    "one patch": {"patch_size": 4, "image_size": 4},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_those_of_the_equations(name):
    model = small(**OPTIONS[name])
    x = pictures(2, (*model.config.image_size, 3))
    np.testing.assert_allclose(model(x).numpy(), plain_forward(model, x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPTIONS)
def test_intermediates_equal_the_plain_forward_pass(name):
    model = small(**OPTIONS[name])
    c = model.config
    x = pictures(2, (*c.image_size, 3))
    logits, parts = model(x, intermediates=True)
    np.testing.assert_allclose(logits.numpy(), model(x).numpy(), rtol=1e-11, atol=1e-12)
    N = model.num_prefix + model.patch_embed.num_patches
    tokens = (2, N, c.embed_dim)
    shapes = {"patches": (2, model.patch_embed.num_patches, 48), "embedded": tokens}
    for i in range(c.depth):
        shapes |= {f"block{i}.attention": (2, c.num_heads, N, N), f"block{i}": tokens}
    shapes["pooled"] = (2, c.embed_dim)
    assert {name: part.shape for name, part in parts.items()} == shapes
    assert list(parts) == list(shapes), "in the order of the computation"
    for i in range(c.depth):
        np.testing.assert_allclose(parts[f"block{i}.attention"].numpy().sum(-1), 1, rtol=1e-5)


def test_the_patches_among_the_intermediates_are_the_normalized_image():
    model, x = small(), pictures()
    _, parts = model(x, intermediates=True)
    np.testing.assert_allclose(parts["patches"].numpy(), mv.ops.im2col(2 * x - 1, patch_size=4), rtol=1e-12)


def test_every_intermediate_is_on_the_way_to_the_logits():
    logits, parts = small()(mv.Tensor(pictures(), requires_grad=True), intermediates=True)
    weights = np.random.default_rng(0).standard_normal(logits.shape)
    for name, g in zip(parts, mv.grad((logits * weights).sum(), list(parts.values()))):
        assert np.abs(g.numpy()).max() > 0, name


@pytest.mark.parametrize("position", ["learned", "relative"])
def test_the_gradient_by_an_attention_map_is_right(position):
    """Against finite differences: the rest of the network is computed again with the map changed."""
    model, x = small(position=position, depth=1), pictures()
    logits, parts = model(x, intermediates=True)
    A = parts["block0.attention"]
    (g,) = mv.grad(mv.ops.cross_entropy(logits, LABELS), [A])
    block = model.blocks[0]
    z = parts["embedded"].numpy()

    def loss(a):
        _, _, v = mv.ops.split_heads(block.attn.qkv(block.norm1(mv.Tensor(z))), 3)
        t = z + block.attn.proj(mv.ops.merge_heads(mv.Tensor(a) @ v))
        t = t + block.mlp(block.norm2(t))
        return float(mv.ops.cross_entropy(model.head(model.norm(t[:, 0])), LABELS))

    a = A.numpy()
    assert loss(a) == pytest.approx(float(mv.ops.cross_entropy(logits, LABELS)), rel=1e-10)
    for direction in np.random.default_rng(1).standard_normal((3, *a.shape)):
        h = 1e-5
        expected = (loss(a + h * direction) - loss(a - h * direction)) / (2 * h)
        assert (g.numpy() * direction).sum() == pytest.approx(expected, rel=1e-6)
    assert np.abs(g.numpy()[:, :, 0]).min() > 1e-4
    np.testing.assert_array_equal(g.numpy()[:, :, 1:], 0)  # only the class token is read after the last layer


def rows_of_the_last_block(model, x):
    """How many tokens of each image its MLP sees."""
    seen, fc1 = [], model.blocks[-1].mlp.fc1
    fused = mv.ops.linear.forward

    def watch(x, weight, *rest, **options):
        seen.extend([x.shape[1]] if weight is fc1.weight.data else [])
        return fused(x, weight, *rest, **options)

    mv.ops.linear.forward = watch
    try:
        y = model(x)
    finally:
        mv.ops.linear.forward = fused
    return y, *seen


@pytest.mark.parametrize("position", ["learned", "relative"])
def test_the_last_block_computes_what_the_logits_read(position):
    model, x = small(position=position, depth=2), mv.Tensor(pictures(), requires_grad=True)
    short, rows = rows_of_the_last_block(model, x)
    assert rows == 1
    with all_tokens():
        whole, rows = rows_of_the_last_block(model, x)
    assert rows == 7
    np.testing.assert_allclose(short.data, whole.data, rtol=1e-12)
    targets = [*model.parameters(), x]
    for a, b in zip(*(mv.grad(mv.ops.cross_entropy(y, LABELS), targets) for y in (short, whole))):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-9, atol=1e-14)


def centered(z):
    return z - z.mean(axis=1, keepdims=True)  # mixes tokens


class Watched(mv.models.EncoderBlock):
    def forward(self, z, bias=None, parts=None, name="block"):
        return centered(super().forward(z, bias, parts, name))


class Mixing(mv.nn.Module):
    def forward(self, z):
        return centered(z)


CHANGES = {
    "a block more": lambda m: m.blocks.append(mv.models.EncoderBlock(12, 3, 20)),
    "a subclass": lambda m: m.blocks.__setitem__(-1, Watched(12, 3, 20)),
    "a function for a block": lambda m: m.blocks.__setitem__(-1, lambda z, *_: centered(z)),
    "a forward of its own": lambda m: setattr(m.blocks[-1], "forward", lambda z, *_: centered(z)),
    "attention of one's own": lambda m: setattr(m.blocks[0], "attn", lambda z, bias, parts, name: centered(z)),
    "a function for a part": lambda m: setattr(m.blocks[-1], "mlp", centered),
    "a module for a part": lambda m: setattr(m.blocks[-1], "norm2", Mixing()),
    "one of this package that mixes": lambda m: setattr(m.blocks[-1], "mlp", mv.models.MultiHeadSelfAttention(12, 3)),
    "deep within": lambda m: setattr(m.blocks[-1].mlp, "fc2", lambda z: centered(z)[..., :12]),
    "deep within attention": lambda m: setattr(m.blocks[-1].attn, "proj", centered),
    "for a dropout": lambda m: setattr(m.blocks[-1], "dropout", centered),
    "for a drop path": lambda m: setattr(m.blocks[-1], "drop_path1", Mixing()),
    "a dropout that goes on in evaluation": lambda m: (setattr(m.blocks[-1].dropout, "p", 0.5), m.blocks[-1].dropout.train()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_model_that_was_changed_computes_what_it_says(change):
    model, x = small().eval(), pictures()
    change(model)
    model.to(dtype="float64")
    with all_tokens():
        whole = model(x)
    np.testing.assert_allclose(model(x).data, whole.data, rtol=1e-12, atol=1e-14)


def test_all_tokens_where_they_are_read():
    assert rows_of_the_last_block(small(pool="mean"), pictures())[1] == 6
    model = small(dropout=0.5)  # whose masks would be others
    assert rows_of_the_last_block(model, pictures())[1] == 7
    assert rows_of_the_last_block(model.eval(), pictures())[1] == 1
    assert small(depth=0)(pictures()).shape == (2, 5)


def test_a_block_asked_for_some_tokens_gives_their_rows():
    block = perturb(mv.models.EncoderBlock(12, 3, 20)).to(dtype="float64")
    rng = np.random.default_rng(0)
    z, bias = rng.standard_normal((2, 7, 12)), rng.standard_normal((3, 7, 7))
    for b in (None, bias):
        whole = block(mv.Tensor(z), b).data
        for n in (1, 3, 7):
            np.testing.assert_allclose(block(mv.Tensor(z), b, queries=n).data, whole[:, :n], rtol=1e-12)
            parts = {}
            np.testing.assert_allclose(block(mv.Tensor(z), b, parts, queries=n).data, whole[:, :n], rtol=1e-12)
            assert parts["block.attention"].shape == (2, 3, n, 7)
    for n in (0, 8, -1):
        with pytest.raises(ValueError, match="queries: expected 1 to 7"):
            block(mv.Tensor(z), queries=n)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("position", POSITIONS)
def test_gradients_of_parameters_and_pixels(position, pool):
    """Central differences of the loss along random directions, in each parameter and in the pixels."""
    model, x = small(position=position, pool=pool), mv.Tensor(pictures(), requires_grad=True)
    names, params = zip(*model.named_parameters())
    gradients = mv.grad(mv.ops.cross_entropy(model(x), LABELS), [*params, x])
    draw = np.random.default_rng(2)
    with mv.no_grad():
        for name, t, g in zip((*names, "pixels"), (*params, x), gradients):
            value, direction, h = t.data, draw.standard_normal(t.shape), 1e-5
            sides = []
            for side in (1, -1):
                t.assign_(value + side * h * direction)
                sides.append(float(mv.ops.cross_entropy(model(x), LABELS)))
            t.assign_(value)
            slope = (g.numpy() * direction).sum()
            assert slope == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-5, abs=1e-9), name
            if not name.endswith("qkv.bias"):
                assert abs(slope) > 1e-7, name


def test_the_error_of_the_linear_model_falls_with_the_square_of_the_step():
    """Taylor: |loss(θ + hv) - loss(θ) - h g·v| is O(h²) if and only if g is the gradient."""
    model, x = small(position="relative"), pictures()
    params = list(model.parameters())
    loss = mv.ops.cross_entropy(model(x), LABELS)
    gs = [g.numpy() for g in mv.grad(loss, params)]
    draw = np.random.default_rng(3)
    start, vs = [p.data for p in params], [draw.standard_normal(p.shape) for p in params]
    slope = sum((g * v).sum() for g, v in zip(gs, vs))
    errors = []
    for h in (1e-4, 5e-5, 2.5e-5):
        for p, value, v in zip(params, start, vs):
            p.assign_(value + h * v)
        errors.append(abs(float(mv.ops.cross_entropy(model(x), LABELS)) - float(loss) - h * slope))
    assert np.diff(np.log2(errors)) == pytest.approx(-2, abs=0.05)


def test_second_derivatives_pass_through_the_model():
    model, x = small(depth=1), mv.Tensor(pictures(1), requires_grad=True)
    v = np.random.default_rng(0).standard_normal(x.shape)

    def slope(x, create_graph):
        (g,) = mv.grad(mv.ops.cross_entropy(model(x), LABELS[:1]), [x], create_graph=create_graph)
        return g

    (hv,) = mv.grad((slope(x, True) * v).sum(), [x])
    h = 1e-5
    sides = [slope(mv.Tensor(x.data + s * h * v, requires_grad=True), False).numpy() for s in (1, -1)]
    np.testing.assert_allclose(hv.numpy(), (sides[0] - sides[1]) / (2 * h), rtol=1e-4, atol=1e-7 * np.abs(hv.numpy()).max())


# ---- options ----


def test_the_scale_is_one_over_the_root_of_the_heads_width_or_of_the_width():
    assert small().blocks[0].attn.scale == 1 / math.sqrt(4)
    assert small(scale="width").blocks[0].attn.scale == 1 / math.sqrt(12)
    assert small(num_heads=1).blocks[0].attn.scale == small(num_heads=1, scale="width").blocks[0].attn.scale


def test_a_wider_scale_flattens_attention():
    x = pictures()
    head, width = (mv.models.attention_maps(small(scale=scale), x)[0] for scale in ("head", "width"))
    entropy = [-(a * np.log(a)).sum(-1).mean() for a in (head, width)]
    assert entropy[0] < entropy[1]


def test_rates_of_drop_path_grow_from_0_to_the_last_block():
    model = mv.models.ViT(**(SMALL | {"depth": 5}), drop_path=0.2)
    rates = [(b.drop_path1.p, b.drop_path2.p) for b in model.blocks]
    np.testing.assert_allclose(rates, np.repeat([[0], [0.05], [0.1], [0.15], [0.2]], 2, 1))


def test_random_layers_draw_different_numbers():
    model = mv.models.ViT(**SMALL, dropout=0.1, drop_path=0.1)
    places = [(type(m).__name__, m.seed, m.layer) for m in model.modules() if isinstance(m, mv.nn.module.RandomModule)]
    assert len(places) == len(set(places)) == 1 + 2 * 4


def test_training_is_random_and_evaluation_is_not():
    model, x = small(dropout=0.3, drop_path=0.3), pictures()
    first, second = model(x).numpy(), model(x).numpy()
    assert np.abs(first - second).max() > 1e-6
    model.eval()
    np.testing.assert_array_equal(model(x).numpy(), model(x).numpy())
    np.testing.assert_allclose(model(x).numpy(), plain_forward(model, x), rtol=1e-9, atol=1e-12)


def test_equal_seeds_make_equal_models():
    make = lambda seed: mv.models.ViT(**SMALL, dropout=0.3, seed=seed)  # noqa: E731
    a, b, c = make(1), make(1), make(2)
    for (name, p), q, r in zip(a.named_parameters(), b.parameters(), c.parameters()):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
        if p.numpy().std() > 0:
            assert not np.array_equal(p.numpy(), r.numpy()), name
    x = pictures(dtype="float32")
    np.testing.assert_array_equal(a(x).numpy(), b(x).numpy())


def test_no_two_weights_start_equal():
    arrays = [p.numpy().ravel()[:40] for p in mv.models.ViT(**SMALL).parameters() if p.numpy().std() > 0]
    assert len(arrays) == 4 * 2 + 4
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            n = min(len(a), len(b))
            assert np.abs(np.corrcoef(a[:n], b[:n])[0, 1]) < 0.9


def test_how_weights_start():
    model = mv.models.ViT(image_size=32, patch_size=4, embed_dim=96, depth=1, num_heads=3, num_classes=10)
    p = model.state_dict()
    patches = model.patch_embed(2 * pictures(4, (32, 32, 3), "float32") - 1).numpy()
    assert 0.15 < p["pos_embed"].std() / patches.std() < 3, "positions are lost beside the patches, or drown them"
    assert np.abs(p["blocks.0.attn.qkv.weight"]).max() == pytest.approx(math.sqrt(6 / 192), rel=0.01)
    assert np.abs(p["blocks.0.mlp.fc1.weight"]).max() == pytest.approx(math.sqrt(6 / 480), rel=0.01)
    np.testing.assert_array_equal(p["norm.weight"], 1)
    assert not p["head.bias"].any()
    assert {a.dtype for a in p.values()} == {np.dtype("float32")}
    assert init.normal((3,), None, "w").sum() == 0


BAD = {
    "patch_size 5 does not divide the image size 12×8": {"patch_size": 5},
    "patch_size 8 does not divide the image size 12×8": {"patch_size": 8},
    "patch_size 6 does not divide the image size 12×8": {"patch_size": 6},
    "num_heads 5 does not divide the width 12": {"num_heads": 5},
    "embed_dim: expected a positive integer, got 0": {"embed_dim": 0},
    "embed_dim: expected a positive integer, got 12.0": {"embed_dim": 12.0},
    "channels: expected a positive integer, got True": {"channels": True},
    "depth: expected an integer of at least 0, got -1": {"depth": -1},
    "num_classes: expected a positive integer, got '5'": {"num_classes": "5"},
    r"image_size: expected .*, got \(12, 8, 3\)": {"image_size": (12, 8, 3)},
    r"image_size: expected .*, got \(12.5, 8\)": {"image_size": (12.5, 8)},
    "image_size: expected .*, got 0": {"image_size": 0},
    "position: expected one of learned, .*, got 'sinus'": {"position": "sinus"},
    "pool: expected one of cls, mean, got 'max'": {"pool": "max"},
    "scale: expected one of head, width, got 'heads'": {"scale": "heads"},
    "gelu: expected one of exact, tanh, got True": {"gelu": True},
    "mlp_ratio: expected a positive number, got -4": {"mlp_ratio": -4},
    "norm_eps: expected a positive number, got nan": {"norm_eps": float("nan")},
    r"dropout: expected a probability in \[0, 1\), got 1": {"dropout": 1},
    r"drop_path: expected a probability in \[0, 1\), got -0.1": {"drop_path": -0.1, "depth": 0},
    "mean: expected a number, or a tuple of one for each of 3 channels, got": {"mean": (0.5, 0.5)},
    "std: expected a number, or a tuple of one for each of 3 channels, > 0, got": {"std": (0.5, 0.5, 0)},
    "must be even, got 13": {"embed_dim": 13, "num_heads": 1, "position": "sinusoidal"},
}


@pytest.mark.parametrize("message", BAD)
def test_settings_that_make_no_model(message):
    with pytest.raises(ValueError, match=message):
        mv.models.ViT(**(SMALL | BAD[message]))


@pytest.mark.parametrize(("wrong", "near"), [("patchsize", "patch_size"), ("heads", "num_heads"), ("classes", "num_classes")])
@pytest.mark.parametrize("make", [lambda **o: mv.models.ViT(**o), lambda **o: mv.models.create("vit_tiny_patch16_224", **o)])
def test_an_unknown_option_is_answered_with_the_nearest(make, wrong, near):
    with pytest.raises(TypeError, match=f"unknown option '{wrong}'; did you mean '{near}'?"):
        make(**{wrong: 3})


def test_an_option_like_no_other_is_answered_with_all():
    with pytest.raises(TypeError, match="unknown option 'xyz'; there are image_size, patch_size, .*, std"):
        mv.models.ViT(xyz=3)


def test_a_config_or_options():
    config = ViTConfig(**SMALL)
    assert mv.models.ViT(config).config is config
    for wrong in (lambda: mv.models.ViT(config, depth=3), lambda: mv.models.ViT("vit_tiny_patch16_224")):
        with pytest.raises(TypeError, match="give one ViTConfig, or options by name; .*create"):
            wrong()


def test_it_says_what_it_is():
    text = repr(mv.models.ViT(**SMALL))
    assert text.startswith("ViT(12×8×3, patch 4, width 12, depth 2, 3 heads, position 'learned', pool 'cls')  4,541 parameters")
    for line in ("cls_token (1, 1, 12)", "pos_embed (1, 7, 12)", "patch_embed: PatchEmbedding(3×2 patches of 4×4)  588 param",
                 "blocks.1: EncoderBlock()", "qkv: Linear(12 -> 36)", "weight (12, 36)", "norm: LayerNorm(12, eps=1e-06)",
                 "normalize: Normalize(mean 0.5, std 0.5)", "MultiHeadSelfAttention(3 heads, scale 0.5)"):  # fmt: skip
        assert line in text


# ---- on a device ----


@pytest.mark.parametrize("position", POSITIONS)
def test_a_step_of_training_on_a_device_equals_that_on_the_cpu(standin, monkeypatch, position):
    results = []
    monkeypatch.setattr(kernels, "_off", ["this test"])  # the same code on both
    for device in ("cpu", "cuda"):  # in float64, since a step multiplies what two orders of a sum differ by
        model = small("float64", position=position, dropout=0.1, drop_path=0.2).to(device)
        x = mv.Tensor(pictures(), requires_grad=True).to(device)
        params = list(model.parameters())
        loss = mv.ops.cross_entropy(model(x), mv.Tensor(LABELS).to(device).data)
        gradients = mv.grad(loss, [*params, x])
        assert {g.device for g in gradients} == {device}
        for p, g in zip(params, gradients):
            p.assign_(p.data - 0.1 * g.data)
        after = model.eval()(x)
        assert after.device == device
        results.append([np.asarray(float(loss)), after.detach().to("cpu").numpy(),
                        *(g.to("cpu").numpy() for g in gradients), *model.state_dict().values()])  # fmt: skip
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13 * np.abs(a).max())


def test_intermediates_and_maps_on_a_device(standin, monkeypatch):
    monkeypatch.setattr(kernels, "_off", ["this test"])
    model, x = small("float32"), pictures(dtype="float32")
    maps = mv.models.attention_maps(model, x)
    on_device = mv.models.attention_maps(model.to("cuda"), standin.asarray(x))
    for a, b in zip(maps, on_device):
        assert type(b) is np.ndarray
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert mv.models.count_macs(model, (12, 8, 3)) == mv.models.count_macs(model.to("cpu"), (12, 8, 3))


# ---- fine-tuning ----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_another_head_keeps_the_rest_and_can_be_saved(dtype, tmp_path):
    model = small().to(dtype=dtype).eval()
    model.classes = tuple("abcdefghij"[: model.config.num_classes])
    before, x = model.state_dict(), pictures(dtype=dtype)
    pooled = model(x, intermediates=True)[1]["pooled"].numpy()
    model.reset_classifier(3, seed=5)
    head = mv.nn.Linear(model.config.embed_dim, 3, seed=5, name="head").to(dtype=dtype)
    assert model.dtype == dtype
    assert model.config.num_classes == 3
    assert model.classes is None
    for name, p in model.state_dict().items():
        np.testing.assert_array_equal(p, head.state_dict()[name[5:]] if name.startswith("head.") else before[name])
    np.testing.assert_allclose(model(x).numpy(), pooled @ head.weight.numpy() + head.bias.numpy(), rtol=1e-5, atol=1e-6)
    mv.models.save(model, tmp_path / "m.safetensors")
    again = mv.models.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())


def test_a_head_of_zeros_and_one_of_no_classes():
    model = small()
    model.reset_classifier(2, seed=None)
    assert not model.head.weight.numpy().any()
    assert not model(pictures()).numpy().any()
    for wrong in (0, -1, 2.5, "3", True):
        head, config = model.head, model.config
        with pytest.raises(ValueError, match="num_classes: expected a positive integer"):
            model.reset_classifier(wrong)
        assert model.head is head
        assert model.config is config

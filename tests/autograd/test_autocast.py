"""Mixed precision: products in float16, the rest in float32, gradients of float32 parameters in float32."""

import threading

import numpy as np
import pytest

import minivit as mv
from minivit import ops
from minivit.autograd import REGISTRY, Tensor
from minivit.autograd.autocast import _FLOAT32, _PRODUCTS
from minivit.autograd.engine import _ancestors
from minivit.autograd.shares import in_shares
from minivit.backend import set_num_threads, to_numpy
from tests import cupy_standin

CONFIG = {"image_size": 8, "patch_size": 2, "channels": 1, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
LABELS = np.array([0, 1, 2, 3, 4, 0])


@pytest.fixture(params=["numpy", "standin"])
def device(request):
    if request.param == "standin":
        request.getfixturevalue("standin")
        return "cuda"
    return "cpu"


def images(device="cpu"):
    return Tensor(np.random.default_rng(0).random((6, 8, 8, 1), dtype=np.float32)).to(device)


def step(model, precision, scale=1.0, **options):
    """(loss, gradients by name), as NumPy arrays; the loss is scaled for the way back."""
    named = dict(model.named_parameters())
    with mv.autocast(precision):
        loss = ops.cross_entropy(model(images(model.device), **options), LABELS)
    gradients = mv.grad(loss * scale, list(named.values()))
    return float(loss), {name: g.numpy() / scale for name, g in zip(named, gradients)}


def error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def random(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# ---- a model ----


@pytest.mark.parametrize("position", ["learned", "relative"])
def test_gradients_are_those_of_float32_to_float16s_digits(device, position):
    model = mv.models.ViT(**CONFIG, position=position).to(device)
    for bias in model.biases:
        bias.table.assign_(random(*bias.table.shape) * 0.5)
    expected_loss, expected = step(model, "float32")
    loss, found = step(model, "float16", 2.0**12)
    assert loss != expected_loss
    assert loss == pytest.approx(expected_loss, rel=2e-3)
    for name, g in found.items():
        assert g.dtype == np.float32, name
        assert 0 < error(g, expected[name]) < 1e-2, name


def test_without_scaling_small_gradients_vanish():
    """Why there is a LossScaler: a loss a thousand times smaller has gradients that float16 does not hold."""
    model = mv.models.ViT(**CONFIG)
    _, expected = step(model, "float32")
    _, unscaled = step(model, "float16", 2.0**-14)
    _, scaled = step(model, "float16", 2.0**12)
    name = "blocks.0.attn.qkv.weight"
    assert error(unscaled[name], expected[name]) > 10 * error(scaled[name], expected[name])


def test_what_is_float16_and_what_is_not():
    model = mv.models.ViT(**CONFIG)
    with mv.autocast():
        loss = ops.cross_entropy(model(images()), LABELS)
    seen = {}
    for node in _ancestors(loss.node):
        seen.setdefault(node.op.name, set()).add(str(node.dtypes[0]))
    assert seen["linear"] == seen["multi_head_attention"] == {"float16"}
    assert seen["layer_norm"] == seen["gelu"] == seen["cross_entropy"] == {"float32"}
    assert loss.dtype == np.float32
    assert all(p.dtype == np.float32 for p in model.parameters())
    model = mv.models.ViT(**CONFIG, position="relative")
    with mv.autocast():
        nodes = [node for node in _ancestors(model(images()).node) if node.op.name == "multi_head_attention"]
    assert {tuple(map(str, node.dtypes)) for node in nodes} == {("float16", "float32")}  # a bias is added to scores


def test_every_product_of_a_gpu_gets_float16(standin):
    model = mv.models.ViT(**CONFIG).to("cuda")
    step(model, "float16")
    products = [call for call in cupy_standin.products if call["name"] == "gemmStridedBatchedEx"]
    assert {call["dtype"] for call in products} == {"float16", "float32"}  # float32: the totals of softmax
    assert sum(call["dtype"] == "float16" for call in products) == 2 * 3 * (2 + 5)  # layers, heads, forward and back
    assert "copies" not in {call["name"] for call in cupy_standin.products}


def test_intermediates_are_those_of_the_fast_path():
    model = mv.models.ViT(**CONFIG)
    with mv.autocast():
        logits, parts = model(images(), intermediates=True)
        np.testing.assert_allclose(logits.numpy(), model(images()).numpy(), rtol=0, atol=1e-2)
    assert parts["block0.attention"].dtype == np.float32


def test_checkpointing_computes_again_in_the_same_precision():
    x, w = (Tensor(random(4, 4, seed=i), requires_grad=True) for i in range(2))

    def f(x):
        return ops.softmax(ops.linear(x, w) @ w)

    with mv.autocast():
        plain, again = (g(x) for g in (f, mv.checkpoint(f)))
    cotangent = random(4, 4, seed=2)
    for a, b in zip(mv.grad(plain, [x, w], cotangent), mv.grad(again, [x, w], cotangent)):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert error(a.numpy(), mv.grad(f(x), [w], cotangent)[0].numpy()) > 1e-6


def test_in_shares_as_in_one_piece(monkeypatch):
    monkeypatch.setattr("minivit.models.vit.kernels_on_cpu", lambda: False)  # which would not need shares
    model = mv.models.ViT(image_size=28, patch_size=4, channels=1, embed_dim=64, depth=4, num_heads=4, num_classes=5)
    x = Tensor(np.random.default_rng(0).random((32, 28, 28, 1), dtype=np.float32))
    labels = np.arange(32) % 5
    params = list(model.parameters())
    found = {}
    try:
        for threads in (1, 2):
            set_num_threads(threads)
            with mv.autocast():
                loss = ops.cross_entropy(model(x), labels)
            assert any(node.op.name == "in_shares" for node in _ancestors(loss.node)) == (threads == 2)
            found[threads] = mv.grad(loss * 1024, params)
    finally:
        set_num_threads(None)
    for a, b in zip(found[1], found[2]):
        assert error(a.numpy(), b.numpy()) < 5e-3


# ---- operations ----


def test_a_product_casts_its_inputs_and_their_gradients_come_back():
    x, w = Tensor(random(3, 4), requires_grad=True), Tensor(random(4, 2, seed=1), requires_grad=True)
    with mv.autocast():
        y = ops.linear(x, w)
        assert (x @ w).dtype == np.float16
        assert ops.linear(x.data, w.data).dtype == np.float16  # plain arrays too
        assert ops.exp(y).dtype == ops.softmax(y).dtype == y.sum().dtype == np.float32
        assert (y + x[:, :2]).dtype == np.float32  # a sum of both
        assert (y * 2).dtype == np.float16
        with mv.autocast("float32"):
            assert ops.linear(x, w).dtype == np.float32
    assert y.dtype == np.float16
    assert ops.linear(x, w).dtype == np.float32
    gx, gw = mv.grad(y, [x, w], np.ones((3, 2)))
    assert gx.dtype == gw.dtype == np.float32
    np.testing.assert_allclose(gw.numpy(), x.numpy().T @ np.ones((3, 2)), rtol=3e-3, atol=3e-3)


def test_float64_and_integers_are_left_alone():
    x = Tensor(random(3, 3, dtype="float64"))
    with mv.autocast():
        assert (x @ x).dtype == np.float64
        assert ops.softmax(x).dtype == np.float64
        assert ops.sum(Tensor(np.ones(3, int))).dtype.kind == "i"


def test_a_float32_weight_of_float64_values_is_left_alone():
    w = mv.Tensor(np.full((3, 1), 1 / 3, "float32"))
    with mv.autocast():
        y = mv.ops.linear(np.ones((2, 3)), w)
    np.testing.assert_allclose(y.numpy(), 1, rtol=1e-6)


def test_backward_within_the_block_is_backward_after_it():
    x = Tensor(random(3, 4), requires_grad=True)
    weight = random(4, 4, seed=1)

    def loss():
        return (ops.softmax(x @ weight) ** 2).sum()

    with mv.autocast():
        inside = mv.grad(loss(), [x])[0].numpy()
        y, first = loss(), mv.grad(loss(), [x], create_graph=True)[0]
        second = mv.grad((first**2).sum(), [x])[0]
    np.testing.assert_array_equal(inside, mv.grad(y, [x])[0].numpy())
    assert second.dtype == np.float32
    assert error(inside, mv.grad(loss(), [x])[0].numpy()) < 1e-2


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_rule_computes_as_the_forward_pass_did(create_graph):
    """Not as it would be at the time of backward: this graph is of float32."""
    x, w = Tensor(random(3, 4), requires_grad=True), Tensor(random(4, 4, seed=1), requires_grad=True)
    y = ops.matmul(x, w)
    expected = mv.grad(y, [x, w], random(3, 4, seed=2), retain_graph=True)
    with mv.autocast():
        found = mv.grad(y, [x, w], random(3, 4, seed=2), create_graph=create_graph)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_shares_compute_again_in_the_same_precision():
    x, dtypes = Tensor(random(4, 3), requires_grad=True), []

    def f(x):
        y = x @ np.ones((3, 3), np.float32)
        dtypes.append(str(y.dtype))
        return y

    try:
        set_num_threads(2)
        with mv.autocast():
            y = in_shares(f, x)
    finally:
        set_num_threads(None)
    mv.grad(y, [x], np.ones((4, 3)), create_graph=True)
    assert dtypes == ["float16"] * 3  # twice forward, and once more in one piece


@pytest.mark.parametrize("name", ["scaled_dot_product_attention", "multi_head_attention"])
def test_attention_of_float16_has_a_softmax_of_float32(name, device):
    """Scores of up to 60 apart: float16 alone would be wrong by whole units of the exponent."""
    B, h, N, d = 2, 3, 40, 8
    shape = (B, h, N, d) if name == "scaled_dot_product_attention" else (B, N, 3 * h * d)
    args = [random(*shape, seed=i) * 2 for i in range(3 if len(shape) == 4 else 1)]
    options = {} if len(shape) == 4 else {"num_heads": h}
    halves = [a.astype(np.float16) for a in args]
    exact = [a.astype(np.float64) for a in halves]
    bias = random(h, N, N, seed=9)

    def outcome(arrays, bias, place):
        tensors = [Tensor(a, requires_grad=True).to(place) for a in (*arrays, bias)]
        y = getattr(ops, name)(*tensors, **options)
        return [to_numpy(v.data) for v in (y, *mv.grad(y, tensors, np.ones(y.shape)))]

    for found, expected in zip(outcome(halves, bias, device), outcome(exact, bias.astype(np.float64), "cpu")):
        assert error(found.astype(np.float64), expected) < 3e-3
    assert found.dtype == np.float32  # the gradient of the bias, which is added to the scores


def test_it_is_ambient_for_its_own_thread_only():
    x, dtypes = Tensor(random(2, 2)), []
    with mv.autocast():
        thread = threading.Thread(target=lambda: dtypes.append((x @ x).dtype))
        thread.start()
        thread.join()
    assert dtypes == [np.float32]


def test_it_ends_with_an_error():
    with pytest.raises(KeyError), mv.autocast():
        raise KeyError
    assert (Tensor(random(2, 2)) @ random(2, 2)).dtype == np.float32


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="dtype: expected 'float16' or 'float32', got 'bfloat16'"), mv.autocast("bfloat16"):
        pass


def test_the_lists_name_operations():
    assert not set(_PRODUCTS) & set(_FLOAT32)
    assert set(_PRODUCTS) | set(_FLOAT32) <= set(REGISTRY.values())
    for op, n in {**_PRODUCTS, **_FLOAT32}.items():
        assert n <= len(op.inputs)

"""A function of a batch on several threads, each with a tape of its own: the same as in one piece, in every respect."""

import threading

import numpy as np
import pytest

import minivit as mv
from minivit.autograd.shares import in_shares
from minivit.backend import num_threads, set_num_threads

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3))
X = RNG.normal(size=(7, 4))
G = RNG.normal(size=(7, 3))


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request, monkeypatch):
    monkeypatch.setattr("minivit.models.vit._WORTH_SHARES", 0)
    monkeypatch.setattr("minivit.models.vit.kernels_on_cpu", lambda: False)  # where they are, models are not divided
    set_num_threads(request.param)
    yield request.param
    set_num_threads(None)


def leaves():
    return mv.Tensor(X, requires_grad=True), mv.Tensor(W, requires_grad=True)


def layer(w):
    return lambda x: mv.ops.tanh(x @ w) * (w * w).sum()


def test_it_is_really_done_in_shares(threads):
    seen = []

    def f(x):
        seen.append((len(x), threading.get_ident()))
        return x * 2

    in_shares(f, mv.Tensor(X))
    assert sorted(n for n, _ in seen) == {1: [7], 2: [3, 4], 3: [1, 3, 3]}[threads]


def test_value_and_gradients(threads):
    x, w = leaves()
    before = w * 1  # a node from before the shares
    y = in_shares(layer(before), x)
    found = mv.grad(y, [x, w, before], G, retain_graph=True)  # of `before`, which both use
    expected = mv.grad(layer(before)(x), [x, w, before], G)
    np.testing.assert_allclose(y.numpy(), layer(w)(x).numpy(), rtol=1e-14)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_all_orders(order):
    mv.gradcheck(lambda x, w: in_shares(layer(w), x), X[:3], W, order=order)


def test_the_same_bytes_every_time():
    def once():
        x, w = leaves()
        return [t.numpy().tobytes() for t in mv.grad(in_shares(layer(w), x), [x, w], G)]

    assert once() == once()


def test_only_what_is_needed():
    x, w = mv.Tensor(X, requires_grad=True), mv.Tensor(W)
    (gx,) = mv.grad(in_shares(layer(w), x), [x], G)
    assert gx.shape == X.shape
    x, w = mv.Tensor(X), mv.Tensor(W, requires_grad=True)
    (gw,) = mv.grad(in_shares(layer(w), x), [w], G)
    assert gw.shape == W.shape
    x, w = leaves()
    y = in_shares(lambda x: x.detach() @ w, x)
    np.testing.assert_array_equal(mv.grad(y, [x], G)[0].numpy(), 0)
    assert not in_shares(layer(mv.Tensor(W)), mv.Tensor(X)).requires_grad


def test_a_second_backward_needs_to_be_asked_for(threads):
    x, w = leaves()
    y = in_shares(layer(w), x)
    first = mv.grad(y, [w], G, retain_graph=True)[0].numpy()
    np.testing.assert_array_equal(mv.grad(y, [w], G)[0].numpy(), first)
    with pytest.raises(RuntimeError, match="second time"):
        mv.grad(y, [w], G)


def test_what_is_retained_stays_though_a_checkpoint_is_walked_first():
    x, w = leaves()
    y = mv.checkpoint(lambda z: mv.ops.tanh(z))(in_shares(layer(w), x))
    first = mv.grad(y, [w], G, retain_graph=True)[0].numpy()
    np.testing.assert_array_equal(mv.grad(y, [w], G)[0].numpy(), first)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_parameter_assigned_to_meanwhile_is_refused(create_graph):
    x, w = leaves()
    y = in_shares(layer(w), x)
    w.assign_(W * 2)
    with pytest.raises(RuntimeError, match="assigned to"):
        mv.grad(y, [x], G, create_graph=create_graph)


def test_backward_adds_to_the_leaves():
    x, w = leaves()
    in_shares(layer(w), x).backward(G)
    np.testing.assert_allclose(w.grad.numpy(), mv.grad(layer(w)(x), [w], G)[0].numpy(), rtol=1e-13)
    assert x.grad.shape == X.shape


def test_what_is_ambient_holds_in_every_share():
    x, w = leaves()
    with mv.no_grad():
        assert not in_shares(layer(w), x).requires_grad
    y = mv.checkpoint(lambda x: in_shares(layer(w), x))(x)
    np.testing.assert_allclose(mv.grad(y, [w], G)[0].numpy(), mv.grad(layer(w)(x), [w], G)[0].numpy(), rtol=1e-13)
    y = in_shares(mv.checkpoint(layer(w)), x)
    np.testing.assert_allclose(mv.grad(y, [w], G)[0].numpy(), mv.grad(layer(w)(x), [w], G)[0].numpy(), rtol=1e-13)


def test_an_exception_in_a_share_arrives():
    def f(x):
        if (x.data == X[-1]).all(axis=-1).any():
            raise ZeroDivisionError("in the last share")
        return x * 1

    with pytest.raises(ZeroDivisionError, match="last share"):
        in_shares(f, mv.Tensor(X))


def test_a_wrong_rule_in_a_share_arrives():
    @mv.op
    def wrong(x):
        return x * 1

    @wrong.vjp
    def _(g, x):
        return g[:, :1]

    x, _ = leaves()
    with pytest.raises(ValueError, match="wrong.vjp"):
        mv.grad(in_shares(wrong, x), [x], X)


@pytest.mark.parametrize("options", [{}, {"pool": "mean"}, {"position": "relative"}, {"position": "sinusoidal"}])
def test_a_vit_does_not_depend_on_the_number_of_threads(options, threads):
    model = mv.models.ViT(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=2, num_heads=2, num_classes=3, **options)
    model.to(dtype="float64")
    images, labels = np.random.default_rng(1).random((5, 8, 8, 1)), np.arange(5) % 3
    params = list(model.parameters())

    def gradients(n):
        set_num_threads(n)
        x = mv.Tensor(images, requires_grad=True)
        return [t.numpy() for t in mv.grad(mv.ops.cross_entropy(model(x), labels), [x, *params])]

    for a, b in zip(gradients(threads), gradients(1)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


def test_dropout_drops_the_same_whatever_the_number_of_threads(threads):
    def logits(n):
        set_num_threads(n)
        size = {"image_size": 8, "patch_size": 4, "channels": 1, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
        model = mv.models.ViT(**size, dropout=0.5)
        return model(np.ones((6, 8, 8, 1), np.float32)).numpy()

    np.testing.assert_array_equal(logits(threads), logits(1))
    assert num_threads() == 1


def test_a_module_of_the_users_may_look_at_the_whole_batch(threads):
    class Centered(mv.nn.Module):
        def forward(self, z, bias=None, parts=None, name=""):
            return z - z.mean(axis=0, keepdims=True)

    model = mv.models.ViT(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=1, num_heads=2, num_classes=3)
    model.blocks[0] = Centered()
    x = np.random.default_rng(0).random((6, 8, 8, 1)).astype(np.float32)
    logits = model(x).numpy()
    set_num_threads(1)
    np.testing.assert_allclose(logits, model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_a_forward_put_into_a_class_may_look_at_the_whole_batch(threads, monkeypatch):
    model = mv.models.ViT(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=1, num_heads=2, num_classes=3)
    monkeypatch.setattr("minivit.models.vit._WORTH_SHARES", 1)
    assert model._in_shares(6)
    forward = mv.nn.LayerNorm.forward
    monkeypatch.setattr(mv.nn.LayerNorm, "forward", lambda self, x: forward(self, x) - mv.ops.mean(x, axis=0, keepdims=True))
    assert not model._in_shares(6)


def test_shares_are_for_work_that_pays_for_small_models_and_without_kernels(monkeypatch):
    model = mv.models.ViT(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=1, num_heads=2, num_classes=3)
    work = 4 * 12 * 8 * 8  # of an image
    monkeypatch.setattr("minivit.models.vit._WORTH_SHARES", 10 * work)
    assert model._in_shares(10)
    assert not model._in_shares(9)
    monkeypatch.setattr("minivit.models.vit._SMALL", 12 * 8 * 8 - 1)
    assert not model._in_shares(10)
    monkeypatch.setattr("minivit.models.vit._SMALL", 12 * 8 * 8)
    assert model._in_shares(10)
    monkeypatch.setattr("minivit.models.vit.kernels_on_cpu", lambda: True)
    assert not model._in_shares(10)


@pytest.mark.parametrize("how", ["p is set on the layers", "only the layers are in training"])
def test_a_model_whose_layers_draw_masks_is_not_divided(how):
    options = {"image_size": 8, "patch_size": 4, "channels": 1, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = mv.models.ViT(**options, dropout=0.0 if how.startswith("p") else 0.5)
    model.train() if how.startswith("p") else model.eval()
    for module in model.modules():
        if isinstance(module, mv.nn.Dropout):
            module.p = 0.5
            module.train()
    logits = model(np.full((12, 8, 8, 1), 0.5, np.float32)).numpy()
    assert len(np.unique(logits, axis=0)) == 12

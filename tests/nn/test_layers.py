"""The layers against plain NumPy, and randomness that is counted: a function of (seed, layer, step, index)."""

import contextlib
import copy
import math

import numpy as np
import pytest

import minivit as mv
from minivit.backend import array_code
from minivit.nn import MLP, Dropout, DropPath, LayerNorm, Linear, init
from minivit.nn.module import Module, set_step

rng = np.random.default_rng(0)
X = rng.standard_normal((2, 5, 6))


def perturbed(module):
    """No zero bias, no weight of ones: nothing at a value that hides a mistake."""
    noise = np.random.default_rng(1)
    for p in module.parameters():
        p.assign_(p.data + 0.3 * noise.standard_normal(p.shape))
    return module.to(dtype="float64")


def test_linear():
    layer = perturbed(Linear(6, 4))
    np.testing.assert_allclose(layer(X).numpy(), X @ layer.weight.numpy() + layer.bias.numpy(), rtol=1e-12)
    layer = perturbed(Linear(6, 4, bias=False))
    assert layer.bias is None
    np.testing.assert_allclose(layer(X).numpy(), X @ layer.weight.numpy(), rtol=1e-12)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_layer_norm(eps):
    layer = perturbed(LayerNorm(6, eps=eps))
    mean, variance = X.mean(-1, keepdims=True), X.var(-1, keepdims=True)
    expected = (X - mean) / np.sqrt(variance + eps) * layer.weight.numpy() + layer.bias.numpy()
    np.testing.assert_allclose(layer(X).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [0.1, 1100.0, -3e4])
def test_layer_norm_of_equal_numbers_is_the_bias(dtype, value, compiled):
    """The rounding of their mean must not be taken for a deviation."""
    bias = np.linspace(-1, 1, 768).astype(dtype)
    with contextlib.nullcontext() if compiled else array_code():
        y = mv.ops.layer_norm(np.full((3, 768), value, dtype), np.ones(768, dtype), bias)
    np.testing.assert_allclose(y, np.tile(bias, (3, 1)), atol=1e-3)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 40.0, 3000.0])
def test_layer_norm_of_float16(spread):
    """A sum of squares is larger than the largest float16 long before the numbers are."""
    x = (5 * spread + spread * np.random.default_rng(0).standard_normal((9, 768))).astype("float16")
    g = np.random.default_rng(1).standard_normal(x.shape).astype("float16")
    found, exact = [], []
    for dtype, results in (("float16", found), ("float64", exact)):
        t = mv.Tensor(x.astype(dtype), requires_grad=True)
        y = mv.ops.layer_norm(t, np.ones(768, dtype), np.zeros(768, dtype))
        results += [y.numpy(), mv.grad(y, [t], g.astype(dtype))[0].numpy()]
    assert [a.dtype for a in found] == ["float16"] * 2
    for a, b in zip(found, exact):
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=5e-3 * np.abs(b).max())


def test_a_batch_of_labels_may_be_filled_again_before_the_gradients():
    logits, labels = mv.Tensor(rng.standard_normal((4, 3)), requires_grad=True), np.array([0, 1, 2, 0])
    expected = mv.grad(mv.ops.cross_entropy(logits, labels), [logits])[0].numpy()
    loss = mv.ops.cross_entropy(logits, labels)
    labels[:] = 1
    np.testing.assert_array_equal(mv.grad(loss, [logits])[0].numpy(), expected)


@pytest.mark.parametrize("approximate", [False, True])
def test_mlp(approximate):
    layer = perturbed(MLP(6, 9, approximate_gelu=approximate))
    hidden = X @ layer.fc1.weight.numpy() + layer.fc1.bias.numpy()
    if approximate:
        hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    else:
        hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    np.testing.assert_allclose(layer(X).numpy(), hidden @ layer.fc2.weight.numpy() + layer.fc2.bias.numpy(), rtol=1e-12)


def test_mlp_drops_its_result():
    layer = MLP(6, 9, dropout=0.5)
    kept = layer.eval()(X).numpy()
    dropped = layer.train()(X).numpy()
    np.testing.assert_allclose(dropped[dropped != 0], 2 * kept[dropped != 0], rtol=1e-12)
    assert 0 < (dropped == 0).sum() < dropped.size


@pytest.mark.parametrize(("sizes", "error", "message"), [
    ((0, 3), ValueError, "in_features: expected an integer of at least 1, got 0"),
    ((3, -1), ValueError, "out_features: expected an integer of at least 1, got -1"),
    ((2.5, 3), TypeError, "in_features: expected an integer, got 2.5"),
    ((3, "4"), TypeError, "out_features: expected an integer, got '4'"),
])
def test_linear_refuses_other_widths(sizes, error, message):
    with pytest.raises(error, match=message):
        Linear(*sizes)


def test_linear_names_both_shapes_when_they_do_not_multiply():
    with pytest.raises(ValueError, match=r"\(2, 5, 6\).*\(7, 3\)"):
        Linear(7, 3)(X)


# ---- how weights start ----


def test_equal_seeds_are_equal_to_the_bit_and_others_are_not():
    a, b = Linear(30, 20, seed=5), Linear(30, 20, seed=5)
    np.testing.assert_array_equal(a.weight.numpy(), b.weight.numpy())
    assert not np.array_equal(a.weight.numpy(), Linear(30, 20, seed=6).weight.numpy())
    assert not np.array_equal(a.weight.numpy(), Linear(30, 20, seed=5, name="other").weight.numpy())
    assert a.weight.dtype == np.float32


def test_nothing_touches_global_random_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    layer = MLP(8, 8, dropout=0.5)
    layer(np.ones((2, 8), "float32"))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_xavier_uniform_fills_its_interval():
    a = math.sqrt(6 / (200 + 100))
    w = init.xavier_uniform((200, 100), 0, "w")
    assert -a <= w.min() < -0.99 * a
    assert 0.99 * a < w.max() <= a
    assert abs(w.mean()) < 4 * a / math.sqrt(3 * w.size)


def test_packed_projections_start_as_if_alone():
    a = math.sqrt(6 / (100 + 100))
    w = init.xavier_uniform((100, 300), 0, "qkv", parts=3)
    assert 0.99 * a < np.abs(w).max() <= a
    for i in range(3):
        part = w[:, 100 * i : 100 * (i + 1)]
        assert np.std(part) == pytest.approx(a / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize(("w", "std"), [
    (init.normal((100, 300), 0, "w"), 0.02),
    (init.normal((100, 300), 0, "w", std=0.5), 0.5),
    (init.lecun_normal((100, 300), 0, "w"), 0.1),
])  # fmt: skip
def test_normal_has_its_deviation(w, std):
    assert w.dtype == np.float32
    assert np.std(w) == pytest.approx(std, rel=0.03)
    assert abs(w.mean()) < 4 * std / math.sqrt(w.size)


def test_without_a_seed_weights_are_zeros():
    assert not Linear(3, 4, seed=None).weight.numpy().any()
    assert not init.normal((3, 4), None, "w").any()


# ---- randomness ----

RANDOM = {"dropout": (Dropout, (40, 50, 10)), "drop path": (DropPath, (20000, 3))}


@pytest.mark.parametrize("kind", RANDOM)
def test_the_mask_is_zero_with_probability_p_and_keeps_the_mean(kind):
    make, shape = RANDOM[kind]
    layer, p = make(0.3), 0.3
    y = layer(np.ones(shape, "float32"))
    assert y.dtype == np.float32
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - p))}
    dropped = (y == 0).mean()
    assert dropped == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 20000))


def test_drop_path_drops_whole_images():
    y = DropPath(0.5)(np.ones((50, 3, 4), "float32"))
    assert {len(np.unique(image)) for image in y} == {1}
    assert 10 < (y[:, 0, 0] == 0).sum() < 40


@pytest.mark.parametrize("make", [Dropout, DropPath])
def test_the_mask_is_a_function_of_seed_layer_and_step(make):
    x = np.ones((64, 8), "float32")

    def mask(step=1, **where):
        layer = make(0.5, **where)
        set_step(layer, step - 1)
        return layer(x)

    first = mask(seed=3, layer=4, step=5)
    np.testing.assert_array_equal(first, mask(seed=3, layer=4, step=5))
    for other in ({"seed": 4, "layer": 4, "step": 5}, {"seed": 3, "layer": 5, "step": 5}, {"seed": 3, "layer": 4, "step": 6}):
        assert not np.array_equal(first, mask(**other))


def test_dropout_and_drop_path_do_not_share_numbers():
    x = np.ones((64, 1), "float32")
    assert not np.array_equal(Dropout(0.5)(x), DropPath(0.5)(x))


@pytest.mark.parametrize("make", [Dropout, DropPath])
def test_the_mask_advances_with_every_call_in_training(make):
    x, layer = np.ones((64, 8), "float32"), make(0.5)
    first, second = layer(x), layer(x)
    assert not np.array_equal(first, second)
    set_step(layer, 0)
    np.testing.assert_array_equal(layer(x), first)
    np.testing.assert_array_equal(layer(x), second)


class Twice(Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x), self.layer(x)


def test_which_calls_are_steps():
    x, layer = np.ones((64, 8), "float32"), Dropout(0.5)
    model = Twice(layer)
    first, again = model(x)
    np.testing.assert_array_equal(first, again)  # one call of the outermost module
    second, _ = model(x)
    assert not np.array_equal(first, second)
    assert layer.step == 2
    model.training = False  # masks are drawn in evaluation too: those of the last step, whatever else is called meanwhile
    for _ in range(2):
        Dropout(0.5)(x)
        np.testing.assert_array_equal(model(x)[0], second)
        np.testing.assert_array_equal(layer.forward(x), second)
    restored = copy.deepcopy(model.train())
    set_step(restored, 0)
    np.testing.assert_array_equal(restored(x)[0], first)
    np.testing.assert_array_equal(restored(x)[0], second)


@pytest.mark.parametrize("make", [Dropout, DropPath])
def test_nothing_is_dropped_in_evaluation_or_with_p_0(make):
    x = np.ones((64, 8), "float32")
    layer = make(0.5).eval()
    assert layer(x) is x
    assert layer.step == 0
    assert make(0.0)(x) is x


@pytest.mark.parametrize("make", [Dropout, DropPath])
@pytest.mark.parametrize("p", [-0.1, 1, 1.5, float("nan")])
def test_p_is_a_probability_below_1(make, p):
    with pytest.raises(ValueError, match=rf"{make.__name__}: p must be in \[0, 1\), got"):
        make(p)


class Noisy(Module):
    def __init__(self):
        super().__init__()
        self.linear = Linear(8, 8)
        self.a, self.b = Dropout(0.5, layer=1), DropPath(0.5, layer=2)

    def forward(self, x):
        return self.b(mv.ops.tanh(self.a(self.linear(x))))


def gradients(model, f, x, steps=2):
    """Of the sum over `steps` calls, differentiated when all are done."""
    set_step(model, 0)
    x = mv.Tensor(x, requires_grad=True)
    results = [f(x) for _ in range(steps)]
    total = results[0].sum()
    for r in results[1:]:
        total = total + r.sum()
    return [total.numpy(), *(g.numpy() for g in mv.grad(total, [x, *model.parameters()]))]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_checkpoint_drops_the_same_when_it_computes_again(steps):
    model, x = Noisy(), rng.standard_normal((16, 8)).astype("float32")
    for a, b in zip(gradients(model, model, x, steps), gradients(model, mv.checkpoint(model), x, steps)):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert model.a.step == model.b.step == steps, "what was computed again was counted as a step of training"


@pytest.mark.parametrize("training", [True, False])
def test_a_checkpoint_whose_module_changed_its_mode_is_refused(training):
    net = mv.nn.Dropout(0.5).train(training)
    y = mv.checkpoint(net)(mv.Tensor(np.ones(6), requires_grad=True))
    net.train(not training)
    with pytest.raises(RuntimeError, match="did not draw random numbers as often as in the forward pass"):
        y.sum().backward()


def test_layers_without_a_number_get_one_each_the_same_in_every_run():
    class Net(mv.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = mv.nn.Dropout(0.5), mv.nn.Dropout(0.5), mv.nn.DropPath(0.5)

        def forward(self, x):
            return self.a(x), self.b(x), self.c(x)

    x = np.ones((1000, 2), np.float32)
    net, again = Net(), Net()
    for _ in range(2):
        masks = [np.asarray(mask) for mask in net(x)]
        for mask, same in zip(masks, again(x)):
            np.testing.assert_array_equal(mask, same)
        assert 0.45 < np.mean(masks[0] == masks[1]) < 0.55
    assert net.a.layer != net.b.layer


class Two(Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Dropout(0.5), Dropout(0.5)

    def forward(self, x):
        return self.a(x), self.b(x)


def test_a_layer_that_drew_before_it_belonged_to_a_model_shares_no_number_there():
    x, lone, net = np.ones((1000, 2), np.float32), Dropout(0.5), Two()
    lone.forward(x)
    net.b = lone
    first, second = (np.asarray(mask) for mask in net(x))
    assert 0.4 < np.mean(first == second) < 0.6


def test_a_training_that_begins_numbers_layers_the_same_whatever_was_called_before():
    x, net, other = np.ones((1000, 2), np.float32), Two(), Two()
    other.b(x), other(x), Two()(x)
    for model in (net, other):
        set_step(model, 4)
    for mask, same in zip(net(x), other(x)):
        np.testing.assert_array_equal(mask, same)
    given = Dropout(0.5, layer=7)
    set_step(given, 4)
    assert given.layer == 7


def test_a_layer_that_its_model_does_not_know_has_a_number_of_its_own():
    c, d = Dropout(0.5), Dropout(0.5)

    class Net(Two):
        def forward(self, x):
            return *super().forward(x), c(x), d(x)

    net = Net()
    set_step(net, 0)
    masks = [np.asarray(mask) for mask in net(np.ones((1000, 2), np.float32))]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert 0.4 < np.mean(mask == other) < 0.6


def test_a_checkpoint_drops_the_same_when_another_training_began_meanwhile():
    net = Two()
    x = mv.Tensor(np.ones((50, 2)), requires_grad=True)
    net.b(x)
    y = mv.checkpoint(lambda x: net.a(x) * net.b(x))(x)
    set_step(net, 100)
    (g,) = mv.grad(y.sum(), [x])
    np.testing.assert_array_equal(g.numpy(), 2 * y.numpy())


def test_layers_of_ones_own_draw_other_masks_than_those_within_blocks():
    class Net(mv.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.mlp, self.other = Dropout(0.5), MLP(4, 8, dropout=0.5), MLP(4, 8, dropout=0.5)
            self.blocks = [mv.models.EncoderBlock(4, 2, 8, dropout=0.5, drop_path=0.5, name=f"blocks.{i}") for i in range(2)]
            self.vit = mv.models.ViT(image_size=4, patch_size=2, channels=1, embed_dim=4, depth=1, num_heads=1, num_classes=2,
                                     dropout=0.5)  # fmt: skip

    net = Net()
    set_step(net, 0)
    numbers = [(type(m), m.layer) for m in net.modules() if isinstance(m, Dropout | DropPath)]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("layer", [Dropout, DropPath])
def test_a_probability_of_numpy_is_a_number_like_any_other(layer):
    x = np.ones((8, 3), np.float32)
    assert mv.ops.add(layer(np.float64(0.5))(x), 0).dtype == np.float32
    np.testing.assert_array_equal(layer(np.float64(0.5))(x), layer(0.5)(x))


@pytest.mark.parametrize("layer", [Dropout, DropPath])
def test_integers_are_not_dropped(layer):
    with pytest.raises(TypeError, match="expected floats, got int64"):
        layer(0.3)(np.ones((4, 2), int))


def test_checkpoints_within_a_checkpoint_drop_the_same():
    model, x = Noisy(), rng.standard_normal((16, 8)).astype("float32")

    def forward(x):
        return mv.checkpoint(lambda z: model.b(mv.checkpoint(model.a)(z)))(model.linear(x))

    def wrapped(f):
        class Whole(Module):
            def __init__(self):
                self.model = model

            def forward(self, x):
                return f(x)

        return Whole()

    plain = wrapped(lambda x: model.b(model.a(model.linear(x))))
    for a, b in zip(gradients(model, plain, x), gradients(model, wrapped(mv.checkpoint(forward)), x)):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_second_derivatives_see_the_mask_of_the_first():
    layer = Dropout(0.5)
    x = mv.Tensor(np.linspace(1, 2, 32), requires_grad=True)
    y = (layer(x) ** 3).sum()
    (g,) = mv.grad(y, [x], create_graph=True)
    (h,) = mv.grad(g.sum(), [x])
    kept = g.numpy() != 0
    np.testing.assert_allclose(h.numpy(), np.where(kept, 8 * 6 * x.numpy(), 0), rtol=1e-12)
    assert 0 < kept.sum() < 32


def test_dropout_on_a_device_drops_the_same(standin):
    x = rng.standard_normal((64, 8)).astype("float32")
    np.testing.assert_array_equal(Dropout(0.3, seed=7)(x), Dropout(0.3, seed=7)(standin.asarray(x)).get())

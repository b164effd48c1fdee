"""Inputs that are legal, or nearly so, and seldom tried: integers, masks, half precision, NumPy's scalars."""

import gc
import tracemalloc

import numpy as np
import pytest

import minivit as mv
from minivit import Tensor, ops
from minivit.autograd.shares import in_shares
from minivit.backend import array_code

rng = np.random.default_rng(0)


def leaf(*shape, dtype=float):
    return Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True)


# ---- half precision ----


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_of_float16_is_that_of_float32(approximate):
    values = np.concatenate([np.linspace(-12, 12, 500), [300, -300, 6e4, -6e4, 0, 1e-7, -1e-6, 1e-5, 3e-4]]).astype("float16")
    found, expected = [], []
    for dtype, results in (("float16", found), ("float64", expected)):
        x = Tensor(values.astype(dtype), requires_grad=True)
        y = ops.gelu(x, approximate=approximate)
        results += [y.numpy(), mv.grad(y.sum(), [x])[0].numpy()]
    assert [a.dtype for a in found] == ["float16"] * 2
    for a, b, atol in zip(found, expected, (1e-4 if approximate else 2e-6, 1e-4)):  # the slope has the result's rounding in it
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=atol)


def test_means_of_many_float16_are_sums_of_float32():
    x = Tensor((3 * rng.standard_normal((240, 300))).astype("float16"), requires_grad=True)
    wide = x.numpy().astype(float)
    assert ops.mean(np.ones(100_000, "float16")) == 1
    for f, expected in ((ops.mean, wide.mean()), (ops.var, wide.var())):
        assert f(x).dtype == np.float16
        assert f(x).item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert ops.var(np.array([150, -150] * 100, "float16")) == 22_500


def test_a_mean_of_ones_is_one():
    for n in range(1, 200):
        assert ops.mean(np.ones(n)) == 1


# ---- integers and booleans ----


@pytest.mark.parametrize("values", [
    np.array([0, 1, 200], "uint8"), np.array([-128, 1], "int8"), np.array([True, False]), np.array([[3, 1], [2, 5]]),
])  # fmt: skip
def test_the_least_of_integers(values):
    assert ops.min(values) == values.min()
    assert Tensor(values).min().item() == values.min()
    assert Tensor(values).min().dtype == values.dtype
    np.testing.assert_array_equal(ops.min(values, axis=0), values.min(axis=0))


@pytest.mark.parametrize("dtype", [int, bool, np.float32])
def test_a_cotangent_of_another_dtype(dtype):
    x, w, b = leaf(2, 4), np.ones(4), np.zeros(4)
    gy = np.array([[1, 0, 2, 0], [0, 3, 0, 0]]).astype(dtype)
    expected = mv.grad(ops.layer_norm(x, w, b), [x], gy=gy.astype(float))[0].numpy()
    for create_graph in (False, True):
        (g,) = mv.grad(ops.layer_norm(x, w, b), [x], gy=Tensor(gy), create_graph=create_graph)
        np.testing.assert_allclose(g.numpy(), expected, rtol=1e-12)
        assert g.dtype == x.dtype
    x.grad = None
    ops.layer_norm(x, w, b).backward(Tensor(gy))
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-12)


def test_a_cotangent_of_another_dtype_has_a_derivative_itself():
    x, v = leaf(3), leaf(3, dtype="float32")
    (g,) = mv.grad(x * x, [x], gy=v, create_graph=True)
    (gv,) = mv.grad(g.sum(), [v])
    np.testing.assert_allclose(gv.numpy(), 2 * x.numpy(), rtol=1e-6)


def test_integers_of_a_tensor_have_no_derivative():
    x = leaf(3)
    assert not x.astype("int64").requires_grad
    np.testing.assert_array_equal(x.astype(int).numpy(), x.numpy().astype(int))
    with pytest.raises(TypeError, match="requires_grad: derivatives need floating-point data, got complex128"):
        Tensor(np.array([1 + 2j]), requires_grad=True)


@pytest.mark.parametrize("values", [
    ["a", "b"], np.array(["a"]), np.array([object()]), np.array(["2026-01-01"], "datetime64[D]"),
])  # fmt: skip
def test_what_is_no_number_makes_no_tensor(values):
    with pytest.raises(TypeError, match="data: expected an array of numbers"):
        Tensor(values)


# ---- scalars of NumPy ----


@pytest.mark.parametrize("f", [
    lambda x: ops.clip(x, low=np.float64(0), high=np.float64(2)), lambda x: ops.power(x, exponent=np.float64(2)),
    lambda x: x * np.float64(2), lambda x: ops.attention_probabilities(x, x, scale=1 / np.sqrt(2)),
])  # fmt: skip
def test_a_numpy_scalar_is_a_number_like_any_other(f):
    x = rng.standard_normal((1, 1, 3, 2)).astype("float32")
    assert f(Tensor(x)).dtype == np.float32


def test_it_keeps_its_width_beside_integers():
    assert (Tensor(np.array([200], "uint8")) + np.int64(100)).numpy() == 300


# ---- masks and indices ----


def test_a_boolean_mask_is_not_added_to_scores():
    q, mask = rng.standard_normal((1, 1, 3, 4)), np.tril(np.ones((3, 3), bool))
    for f in (lambda b: ops.scaled_dot_product_attention(q, q, q, b), lambda b: ops.attention_probabilities(q, q, b),
              lambda b: ops.multi_head_attention(q[0].reshape(1, 2, 6), b, num_heads=1)):  # fmt: skip
        with pytest.raises(TypeError, match="bias: expected numbers .* got booleans"):
            f(mask[:2, :2] if f(None).shape[1] == 2 else mask)
    causal = ops.scaled_dot_product_attention(q, q, q, np.where(mask, 0, -np.inf))
    np.testing.assert_allclose(causal[0, 0, 0], q[0, 0, 0])


def test_the_names_of_gelus_forms_are_refused():
    for f in (ops.gelu, mv.nn.MLP(2, 3, approximate_gelu="none")):
        with pytest.raises(TypeError, match="approximate: expected True .* or False, got 'none'"):
            f(np.ones((1, 2)), approximate="none") if f is ops.gelu else f(np.ones((1, 2)))
    block = mv.models.EncoderBlock(4, 2, 8, approximate_gelu="tanh")
    with pytest.raises(TypeError, match="approximate: expected True"):
        block(np.ones((1, 3, 4), np.float32))


@pytest.mark.parametrize("make", [np.arange, lambda n: list(range(n)), lambda n: (np.arange(n), np.zeros(n, int))])
def test_an_index_may_be_filled_again_before_the_gradients(make):
    x, index = leaf(4, 2), make(2)
    loss = x[index].sum()
    expected = mv.grad(x[make(2)].sum(), [x])[0].numpy()
    array = index[0] if isinstance(index, tuple) else index
    array[0] = 3
    np.testing.assert_array_equal(mv.grad(loss, [x])[0].numpy(), expected)


def test_arrays_of_two_shapes_are_not_stacked():
    with pytest.raises(ValueError, match=r"stack: expected arrays of one shape, got \(2, 3\), \(3, 2\)"):
        ops.stack(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="stack: expected arrays of one shape, got none"):
        ops.stack()
    with pytest.raises(TypeError, match=r"write stack\(a, b\)"):
        ops.stack([np.zeros(2), np.zeros(2)])


def test_lists_in_the_place_of_arrays_and_of_axes():
    with pytest.raises(TypeError, match=r"softmax: expected arrays or Tensors, x is a list or a tuple; use np\.asarray"):
        ops.softmax([1.0, 2.0])
    with pytest.raises(TypeError, match="matmul: expected arrays or Tensors, y is a list"):
        leaf(2, 2) @ [[1.0], [2.0]]
    with pytest.raises(TypeError, match=r"mean: axis: expected None, an integer or a tuple of integers, got \[0, 1\]"):
        ops.mean(np.ones((2, 3)), axis=[0, 1])


def test_tokens_without_heads_are_refused():
    q = np.zeros((1, 1, 3, 4))
    with pytest.raises(ValueError, match="expected q, k, v of shape"):
        ops.scaled_dot_product_attention(q, q[0], q)


# ---- operations of one's own ----


def test_a_rule_or_a_forward_that_forgets_to_return():
    @mv.op
    def square(x):
        return x * x

    @square.vjp
    def _(g, x):
        2 * g * x

    with pytest.raises(TypeError, match=r"square\.vjp: the rule returned nothing; is there a `return`\?"):
        square(leaf(3)).sum().backward()

    @mv.op
    def nothing(x):
        x * x

    @mv.op
    def two(x):
        return x, 2 * x

    with pytest.raises(TypeError, match=r"nothing: the forward function must return one array, got nothing; is there a"):
        nothing(leaf(3))
    with pytest.raises(TypeError, match="two: the forward function must return one array, got a tuple"):
        two(Tensor(np.ones(2)))


def test_anomaly_sees_a_nan_among_any_number_of_inputs_and_a_plain_one():
    with mv.anomaly(), pytest.raises(FloatingPointError, match=r"its input arrays\[1\] already had one"):
        ops.concatenate(Tensor(np.ones(2)), np.array([np.nan]))
    with mv.anomaly(), pytest.raises(FloatingPointError, match="its input y already had one"):
        Tensor(np.ones(2)) * float("nan")


# ---- the graph ----


def test_second_derivatives_by_parameters_through_shares():
    """The images need no gradient; what they lead to does."""
    w = leaf(4, 5)
    x = Tensor(rng.normal(size=(64, 4)))

    def f(z):
        return ops.matmul(ops.tanh(ops.matmul(z, w) * np.arange(5.0)), np.ones((5, 2)))

    found = []
    for g in (lambda: in_shares(f, x), lambda: f(x)):
        (first,) = mv.grad((g() ** 2).sum(), [w], create_graph=True)
        found.append((first.numpy(), mv.grad((first * first).sum(), [w])[0].numpy()))
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_second_derivatives_of_a_vit_in_shares():
    model = mv.models.ViT(image_size=16, patch_size=4, channels=1, embed_dim=8, depth=1, num_heads=2, num_classes=3)
    images = rng.random((256, 16, 16, 1)).astype("float32")
    parameters = list(model.parameters())
    with array_code():
        found = mv.grad(ops.cross_entropy(model(images), np.zeros(256, int)), parameters, create_graph=True)
        expected = mv.grad(ops.cross_entropy(model(images), np.zeros(256, int)), parameters)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("f", [
    lambda x, w: in_shares(lambda z: ops.tanh(z @ w), x), lambda x, w: (x @ w)[np.arange(len(x))],
])  # fmt: skip
def test_a_loss_that_is_kept_keeps_no_activations(f):
    w, x = leaf(4, 3), Tensor(rng.normal(size=(20_000, 4)))
    kept = []

    def step():
        loss = f(x, w).sum()
        loss.backward()
        kept.append(loss)

    for _ in range(2):
        step()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(3):
        step()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000, grown


def test_a_checkpoint_without_recording_is_no_part_of_a_graph():
    w = leaf(3)
    with mv.no_grad():
        y = mv.checkpoint(lambda x: x)(w)
    assert not y.requires_grad
    assert y.node is None


def test_a_number_prints_by_its_format():
    loss = (leaf(3) ** 2).sum()
    assert f"{loss:.3f}" == f"{loss.item():.3f}"
    assert f"{loss}" == repr(loss)
    assert float(loss.reshape(1)) == loss.item()

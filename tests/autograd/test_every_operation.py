"""Every operation of the registry, because it is there: what must hold stands in `properties.py`, inputs come from
`minivit.autograd.samples`."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import minivit as mv
from minivit.autograd import REGISTRY, Tensor
from minivit.autograd.samples import SAMPLERS, samples
from tests.autograd import properties

CASES = [(name, check) for name, op in REGISTRY.items() for check in properties.checks(op)]
THIRD_ORDER = ["power", "matmul", "tanh", "divide", "softmax", "log_softmax", "gelu", "layer_norm", "cross_entropy",
               "multi_head_attention"]  # fmt: skip
COMPOSED = {  # functions of primitives: with sample inputs from an operation of the same kind
    "mean": ("sum", np.mean), "var": ("sum", np.var), "min": ("max", np.min), "logsumexp": ("max", None),
}  # fmt: skip
drawn = settings(max_examples=15, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**32 - 1)


def test_no_operation_is_without_samples():
    assert set(SAMPLERS) == set(REGISTRY)


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}-{check}" for name, check in CASES])
def test_operation(name, check):
    @drawn
    @given(seed=seeds)
    def holds(seed):
        properties.run(name, properties.checks(REGISTRY[name])[check], seed)

    holds()


@pytest.mark.parametrize("name", THIRD_ORDER)
def test_third_order(name):
    for seed in range(4):
        properties.run(name, properties.third_order, seed)


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions(name):
    """mean, var, min and logsumexp are no operations of their own; value and two orders all the same."""
    source, oracle = COMPOSED[name]
    f = getattr(mv.ops, name)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sample = samples(source, rng)
        if not sample.args[0].size:
            continue
        value = f(*sample.args, **sample.options)
        expected = oracle(*sample.args, **sample.options) if oracle else np.log(np.exp(sample.args[0]).sum(**sample.options))
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-14)
        properties.first_order(f, sample, rng)
        properties.second_order(f, sample, rng)


def test_samples_reach_what_they_promise():
    """Over many draws: no axes, axes of length 1 and 0, negative and several axes, numbers, None; distance from kinks."""
    seen = set()
    for seed in range(200):
        for name in ("sum", "add", "linear", "relu"):
            args, options, _ = samples(name, np.random.default_rng(seed))
            shape = np.shape(args[0])
            seen |= {(name, "no axes")} if shape == () else set()
            seen |= {(name, n) for n in shape if n in (0, 1)}
            axis = options.get("axis", ())
            seen |= {(name, "several")} if isinstance(axis, tuple) and len(axis) > 1 else set()
            seen |= {(name, "negative")} if isinstance(axis, int) and axis < 0 else set()
            seen |= {(name, "number")} if any(isinstance(a, float) for a in args) else set()
            seen |= {(name, "None")} if any(a is None for a in args) or axis is None else set()
            if name == "relu":
                assert np.abs(args[0]).min(initial=1) >= 0.1 - 1e-9
    assert {("sum", "no axes"), ("sum", 0), ("sum", 1), ("sum", "several"), ("sum", "negative"), ("sum", "None"),
            ("add", "number"), ("linear", "None")} <= seen  # fmt: skip


def test_samples_are_the_seeds():
    a, b = (samples("linear", np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_equal(a.args, b.args)
    with pytest.raises(ValueError, match="no_such"):
        samples("no_such", np.random.default_rng(0))


@pytest.mark.parametrize(("there", "back"), [("float32", "float64"), ("float64", "float32")])
def test_astype_between_widths(there, back):
    x = Tensor(np.array([0.1, -2.0]), requires_grad=True).astype(there)
    y = x.astype(back)
    (g,) = mv.grad(y, [x], np.array([1.5, 0.1]))
    assert y.dtype == back
    assert g.dtype == there
    np.testing.assert_allclose(g.data, [1.5, 0.1], rtol=1e-7)


@pytest.mark.parametrize("scalar", [np.float64(2), np.sqrt(2), np.int64(3), 2, 0.5])
def test_a_numpy_scalar_does_not_widen_float32(scalar):
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    for y in (x * scalar, scalar * x, x / scalar, x - scalar, x**scalar, mv.ops.maximum(x, scalar)):
        assert y.dtype == np.float32
        assert mv.grad(y.sum(), [x])[0].dtype == np.float32


def test_a_gradient_of_a_branch_not_taken_is_zero_even_if_the_cotangent_is_infinite():
    x, y = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    gx, gy = mv.grad(mv.ops.where(np.array([True, False]), x, y), [x, y], np.array([np.inf, 1.0]))
    np.testing.assert_array_equal(gx.data, [np.inf, 0])
    np.testing.assert_array_equal(gy.data, [0, 1])


@pytest.mark.parametrize("f", [
    mv.ops.relu, lambda x: mv.ops.clip(x, low=0, high=1), lambda x: mv.ops.maximum(x, 0.0), lambda x: mv.ops.max(x, axis=0),
])  # fmt: skip
def test_an_infinite_cotangent_stops_where_the_derivative_is_zero(f):
    x = Tensor(np.array([[-1.0, 5.0], [0.5, 9.0]]), requires_grad=True)
    y = f(x)
    (gx,) = mv.grad(y, [x], np.full(y.shape, np.inf))
    assert not np.isnan(gx.data).any()
    assert gx.data[0, 0] == 0


def test_a_clip_without_an_end():
    x = Tensor(np.array([-2.0, 0.0, 2.0]), requires_grad=True)
    np.testing.assert_array_equal(mv.grad(mv.ops.clip(x, low=None, high=1).sum(), [x])[0].data, [1, 1, 0])
    np.testing.assert_array_equal(mv.grad(mv.ops.clip(x, low=-1, high=None).sum(), [x])[0].data, [0, 1, 1])


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_a_quotient_of_numbers_whose_squares_no_float_holds(size):
    x, y = (Tensor(np.float32([size]), requires_grad=True) for _ in range(2))
    gx, gy = mv.grad((x / y).sum(), [x, y])
    np.testing.assert_allclose(gx.data, 1 / size, rtol=1e-6)
    np.testing.assert_allclose(gy.data, -1 / size, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_logsumexp_of_what_is_infinite():
    inf = np.inf
    np.testing.assert_array_equal(mv.ops.logsumexp(np.array([[-inf, -inf], [0, inf], [-inf, 3]]), axis=1), [-inf, inf, 3])


def test_sizes_and_axes_at_the_edge():
    x = Tensor(2.0, requires_grad=True)
    np.testing.assert_array_equal(mv.grad(x.sum(axis=0), [x])[0].data, 1)
    assert mv.ops.softmax(np.float32(3)) == 1
    x, w, b = (Tensor(a, requires_grad=True) for a in (np.ones((2, 0)), np.ones((0, 3)), np.array([1.0, 2, 3])))
    y = mv.ops.linear(x, w, b)
    np.testing.assert_array_equal(y.data, [[1, 2, 3]] * 2)
    assert [g.shape for g in mv.grad(y.sum(), [x, w, b])] == [(2, 0), (0, 3), (3,)]


@pytest.mark.parametrize(("f", "says"), [
    (lambda x: mv.ops.concatenate([x, x]), r"concatenate: .*got a list; write concatenate\(a, b\)"),
    (lambda x: mv.ops.concatenate(x, x, axis=None), "concatenate: axis: expected an integer"),
    (lambda x: mv.ops.pad(x, widths=1), "pad: widths: expected a pair"),
    (lambda x: mv.ops.pad(x, widths=((1, 1),)), "pad: widths: expected a pair"),
    (lambda x: mv.ops.mean(x[:0], axis=0), r"mean: of x of shape \(0, 3\) there are no elements along axis 0"),
    (lambda x: mv.ops.softmax(x.astype(int)), r"softmax: expected floats, got x \(int64\)"),
])  # fmt: skip
def test_what_an_operation_refuses(f, says):
    with pytest.raises((TypeError, ValueError), match=says):
        f(np.ones((2, 3)))


def test_erf_is_math_erf():
    import math

    x = np.concatenate([np.linspace(-6, 6, 2001), [0.0, 1.0, -1.0, 30.0, -30.0]])
    np.testing.assert_allclose(mv.ops.erf(x), [math.erf(v) for v in x], rtol=2e-15)
    x32 = x.astype(np.float32)
    np.testing.assert_allclose(mv.ops.erf(x32), [math.erf(v) for v in x32], rtol=3e-7)
    assert mv.ops.erf(np.asarray(0.5)) == pytest.approx(math.erf(0.5), rel=1e-15)


def test_large_arguments_do_not_overflow():
    x = np.array([[1000.0, -1000.0, 0.0]])
    np.testing.assert_array_equal(mv.ops.softmax(x), [[1, 0, 0]])
    np.testing.assert_array_equal(mv.ops.log_softmax(x), [[0, -2000, -1000]])
    np.testing.assert_array_equal(mv.ops.logsumexp(x, axis=1), [1000])
    assert mv.ops.cross_entropy(x, np.array([1])) == 2000


@pytest.mark.parametrize("block_bytes", [1, 100, 400, 1000, 1 << 19])
@pytest.mark.parametrize("bias_shape", [None, (21, 5), (3, 21, 5)])
def test_attention_in_pieces_of_any_size(monkeypatch, block_bytes, bias_shape):
    """A few queries of one head, a few heads, a few images at a time: always the reference, on one thread and on three."""
    from minivit.backend import blocks

    monkeypatch.setitem(blocks.__globals__, "BLOCK_BYTES", block_bytes)
    monkeypatch.setitem(blocks.__globals__, "_WORTH_BYTES", 1)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in ((2, 3, 21, 4), (2, 3, 5, 4), (2, 3, 5, 2))]
    if bias_shape is not None:
        arrays.append(rng.normal(size=bias_shape))
    g = rng.normal(size=(2, 3, 21, 2))
    op = mv.ops.scaled_dot_product_attention

    def results(f):
        tensors = [mv.Tensor(a, requires_grad=True) for a in arrays]
        y = f(*tensors)
        return [t.numpy() for t in (y, *mv.grad(y, tensors, g))]

    expected = results(op.reference)
    try:
        for threads in (1, 3):
            mv.backend.set_num_threads(threads)
            first, again = results(op), results(op)
            for a, b, c in zip(first, again, expected):
                np.testing.assert_array_equal(a, b)
                np.testing.assert_allclose(a, c, rtol=1e-11, atol=1e-12)
    finally:
        mv.backend.set_num_threads(None)


def test_attention_to_a_single_key_does_not_depend_on_scores():
    rng = np.random.default_rng(0)
    q, k, v = (mv.Tensor(rng.normal(size=(2, 3, n, 4)), requires_grad=True) for n in (5, 1, 1))
    gq, gk, gv = mv.grad(mv.ops.scaled_dot_product_attention(q, k, v), [q, k, v], rng.normal(size=(2, 3, 5, 4)))
    assert max(np.abs(gq.numpy()).max(), np.abs(gk.numpy()).max()) < 1e-15 * 10
    assert np.abs(gv.numpy()).max() > 0.1


def test_attention_keeps_memory_that_grows_with_the_tokens_and_not_with_their_square():
    import tracemalloc

    def peak(tokens):
        qkv = mv.Tensor(np.zeros((1, tokens, 24)), requires_grad=True)
        tracemalloc.start()
        y = mv.ops.multi_head_attention(qkv, num_heads=2)
        mv.grad(y, [qkv], y)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    one_head = 4000 * 4000 * 8
    peak(100)  # what is made once
    assert peak(4000) < one_head / 4

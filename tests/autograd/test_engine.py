"""The engine: order of the walk, memory, errors, recording."""

import gc
import threading
import weakref

import numpy as np
import pytest

import minivit as mv
from minivit import Tensor, ops
from minivit.autograd import REGISTRY
from tests.autograd import properties


def leaf(*shape, seed=0, dtype=float):
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(dtype), requires_grad=True)


@pytest.fixture
def no_gc():
    """Only reference counts free memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", properties.ENGINE_CHECKS)
def test_property(name):
    for seed in range(3):
        properties.ENGINE_CHECKS[name](np.random.default_rng(seed))


# ---- the walk ----


def test_the_diamond():
    """b = a·a, c = b + b·b: the node of b waits for both uses. c' = 2a + 4a³."""
    a = Tensor(3.0, requires_grad=True)
    b = a * a
    c = b + b * b
    assert mv.grad(c, [a], retain_graph=True)[0].item() == 2 * 3 + 4 * 27
    assert [t.item() for t in mv.grad(c, [b, a])] == [1 + 2 * 9, 114]


def test_the_diamond_of_diamonds_takes_linear_time():
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(60):  # 2^60 paths
        y = y + y
    assert mv.grad(y, [x])[0].item() == 2.0**60


def test_a_graph_of_100_000_nodes_walks_and_dies_without_recursion():
    x = leaf(2)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    (g,) = mv.grad(y.sum(), [x], retain_graph=True)
    np.testing.assert_array_equal(g.data, [1, 1])
    del y  # Python frees 100,000 nodes, each the last to hold the next


def test_intermediate_results_leaves_and_the_result_itself():
    x = leaf(3)
    h = x * 2
    y = (h * h).sum()
    gy, gh, gx = mv.grad(y, [y, h, x])
    assert gy.item() == 1
    np.testing.assert_array_equal(gh.data, 2 * h.data)
    np.testing.assert_array_equal(gx.data, 8 * x.data)


def test_an_unconnected_input_gets_zeros():
    x, z = leaf(3), leaf(2, 2, dtype=np.float32)
    gx, gz = mv.grad((x * 2).sum(), [x, z])
    np.testing.assert_array_equal(gx.data, [2, 2, 2])
    np.testing.assert_array_equal(gz.data, np.zeros((2, 2)))
    assert gz.dtype == np.float32
    assert not mv.grad(Tensor(1.0), [x])[0].data.any()


def test_grad_touches_no_grad_attribute_and_stops_at_what_is_asked():
    x, w = leaf(3), leaf(3)
    h = x * w
    calls = []
    mark = mv.op(lambda x: x + 0)
    mark.vjp(lambda g: calls.append("called") or g)
    y = (mark(w) * h).sum()
    mv.grad(y, [x])
    assert not calls, "the rule of a branch that leads to nothing asked for was run"
    assert x.grad is None
    assert w.grad is None


def test_backward_accumulates_and_the_sum_is_a_new_array():
    x = leaf(3)
    (x * 2).sum().backward()
    first = x.grad
    kept = first.data.copy()
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [5, 5, 5])
    np.testing.assert_array_equal(first.data, kept)


def test_a_value_used_twice_by_one_operation():
    x = leaf(2, 3)
    np.testing.assert_array_equal(mv.grad((x + x).sum(), [x])[0].data, np.full((2, 3), 2.0))
    np.testing.assert_array_equal(mv.grad((x - x).sum(), [x])[0].data, np.zeros((2, 3)))
    (g,) = mv.grad(ops.concatenate(x, x, x, axis=1).sum(), [x])
    np.testing.assert_array_equal(g.data, np.full((2, 3), 3.0))


def test_accumulation_never_adds_into_a_borrowed_array():
    """add hands one array to two inputs: adding x's second contribution into it would change y's gradient."""
    x, y = leaf(3), leaf(3, seed=1)
    g = np.array([1.0, 2.0, 3.0])
    total = x + y
    gx, gy, gt = mv.grad(total + x * 10 + x * 100, [x, y, total], g)
    np.testing.assert_array_equal(gx.data, 111 * g)
    np.testing.assert_array_equal(gy.data, g)
    np.testing.assert_array_equal(gt.data, g)
    np.testing.assert_array_equal(g, [1, 2, 3])


def test_gradients_can_be_changed_in_place_one_by_one():
    x, y, z = leaf(3), leaf(3), leaf(3)
    g = np.ones(3)
    (x + y).backward(g)
    z.sum().backward()
    for t in (x, y, z):
        t.grad.data[...] *= 2
    np.testing.assert_array_equal([x.grad.data, y.grad.data, z.grad.data], np.full((3, 3), 2.0))
    np.testing.assert_array_equal(g, 1)


def test_integer_inputs_and_numbers_have_no_gradient():
    x = leaf(3)
    (g,) = mv.grad((x * Tensor(np.array([1, 2, 3])) + 1).sum(), [x])
    np.testing.assert_array_equal(g.data, [1, 2, 3])
    with pytest.raises(TypeError, match="int64"):
        Tensor(np.array([1, 2]), requires_grad=True)


# ---- memory ----


def test_a_graph_dies_with_its_loss(no_gc):
    x = leaf(4)
    h = ops.softmax(x * 2)
    held = weakref.ref(h)
    loss = (h * h).sum()
    del h
    assert held() is not None
    del loss
    assert held() is None


@pytest.mark.parametrize("create_graph", [False, True])
def test_no_reference_cycles_after_backward(no_gc, create_graph):
    x = leaf(2, 4)
    w, b = leaf(4), leaf(4)
    h = ops.layer_norm(x, w, b)
    held = weakref.ref(h)
    loss = ops.cross_entropy(ops.gelu(h), np.array([0, 1]))
    gradients = mv.grad(loss, [x, w], create_graph=create_graph)
    if create_graph:
        second = mv.grad((gradients[0] * gradients[0]).sum(), [x])
        del second
    del h, loss, gradients
    assert held() is None
    assert gc.collect() == 0


def test_backward_frees_activations_as_it_walks(no_gc):
    x = leaf(3)
    spy = mv.op(lambda x: x + 0)
    dead = []
    spy.vjp(lambda g: dead.append(late() is None) or g)
    h = spy(x * 2)
    activation = ops.exp(h)
    late = weakref.ref(activation)
    loss = (activation * activation).sum()
    del h, activation
    assert late() is not None
    mv.grad(loss, [x])
    assert dead == [True], "while backward stands at the start of the graph, the activations of its end still live"


def test_no_grad_keeps_nothing(no_gc):
    x = leaf(3)
    with mv.no_grad():
        h = x * 2
        held = weakref.ref(h)
        y = h * h
        del h
        assert held() is None
    assert y.node is None
    assert not y.requires_grad


def test_a_rule_keeps_only_what_it_names(no_gc):
    x = leaf(3)
    h = x * 2
    array = weakref.ref(h)
    y = (h + 1).sum()
    del h
    assert array() is None, "add keeps its inputs although its rule does not ask for them"
    np.testing.assert_array_equal(mv.grad(y, [x])[0].data, [2, 2, 2])


# ---- second backward, versions ----


def test_a_second_backward_names_the_operation():
    x = leaf(3)
    y = ops.exp(x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"sum a second time.*retain_graph=True"):
        y.backward()
    with pytest.raises(RuntimeError, match=r"second time"):
        mv.grad(y, [x])


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_walk_into_a_part_that_was_freed_is_refused_not_cut_short(create_graph):
    x, w = leaf(4, 3), leaf(3, 2, seed=1)
    f = ops.tanh(x @ w)
    mv.grad(f.sum(), [x])
    with pytest.raises(RuntimeError, match="tanh a second time"):
        mv.grad((f * f).sum(), [w], create_graph=create_graph)
    (g,) = mv.grad((x * x * x).sum(), [x], create_graph=True, retain_graph=False)
    with pytest.raises(RuntimeError, match="a second time"):
        mv.grad(g.sum(), [x])


def test_a_walk_that_ends_before_what_was_freed_or_assigned_to():
    x = leaf(3)
    h = x * x
    h.sum().backward()
    np.testing.assert_array_equal(mv.grad((h * 3).sum(), [h])[0].data, [3, 3, 3])
    h = x * x
    x.assign_(np.ones(3))
    np.testing.assert_array_equal(mv.grad((h * 3).sum(), [h])[0].data, [3, 3, 3])


def test_a_gradient_asked_for_twice_is_two_arrays():
    x = leaf(3)
    first, second = mv.grad((x * 2).sum(), [x, x])
    first.data[:] = 0
    np.testing.assert_array_equal(second.data, [2, 2, 2])


def test_threads_add_to_one_gradient():
    p = mv.nn.Parameter(np.zeros(400_000, np.float32))

    def work():
        for _ in range(20):
            (p * 1.0).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(p.grad.data, 80)


def test_retain_graph():
    x = leaf(3)
    y = ops.softmax(x * x).max()
    (first,) = mv.grad(y, [x], retain_graph=True)
    (second,) = mv.grad(y, [x])
    np.testing.assert_array_equal(first.data, second.data)
    with pytest.raises(RuntimeError):
        mv.grad(y, [x])


@pytest.mark.parametrize("f", [lambda w: w * w, ops.gelu, lambda w: ops.linear(np.ones((2, 3)), w)])
def test_assigning_between_forward_and_backward_is_refused(f):
    w = leaf(3, 3)
    y = f(w).sum()
    w.assign_(np.zeros((3, 3)))
    assert w.version == 1
    with pytest.raises(RuntimeError, match=r"(multiply|gelu|linear): its input (x|weight) of shape \(3, 3\).*version 1, 0"):
        y.backward()


def test_assigning_what_no_rule_needs_is_fine():
    w = leaf(3)
    y = (w + 1).sum()
    w.assign_(np.zeros(3))
    np.testing.assert_array_equal(mv.grad(y, [w])[0].data, 1)


def test_assign():
    w = leaf(3, dtype=np.float32)
    with pytest.raises(ValueError, match=r"\(3,\), got \(2,\)"):
        w.assign_(np.zeros(2))
    w.assign_(np.array([1.0, 2, 3]))
    assert w.dtype == np.float32
    with pytest.raises(RuntimeError, match="multiply"):
        (w * 2).assign_(np.zeros(3))


# ---- arguments ----


def test_a_non_scalar_needs_a_cotangent():
    x = leaf(3)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"gy: expected the shape of y, \(3,\), got \(2,\)"):
        mv.grad(x * 2, [x], np.ones(2))
    np.testing.assert_array_equal(mv.grad(x * 2, [x], [1.0, 2.0, 3.0])[0].data, [2, 4, 6])


def test_what_grad_refuses():
    x = leaf(3)
    y = (x * 2).sum()
    with pytest.raises(TypeError, match=r"\[x\]"):
        mv.grad(y, x)
    with pytest.raises(ValueError, match=r"xs\[1\].*without requires_grad"):
        mv.grad(y, [x, Tensor(np.ones(2))])
    with pytest.raises(ValueError, match=r"xs\[0\].*ndarray"):
        mv.grad(y, [np.ones(3)])
    with pytest.raises(TypeError, match="y: expected a Tensor, got float64"):
        mv.grad(np.float64(1), [x])
    with pytest.raises(RuntimeError, match="nothing that requires a gradient"):
        Tensor(1.0).backward()


def test_numpy_does_not_swallow_a_tensor():
    x = leaf(3)
    with pytest.raises(TypeError, match="cannot be assigned"):
        x[0] = 1.0
    for f in (np.asarray, np.exp, np.sum, lambda t: np.concatenate([t, t]), lambda t: np.add(np.ones(3), t)):
        with pytest.raises(TypeError):
            f(x)
    for y in (np.full(3, 2.0) * x, np.full(3, 2.0) + x - np.full(3, 2.0), np.float64(2) * x, np.full(3, 2.0) / x):
        assert isinstance(y, Tensor)
        assert y.requires_grad
    (g,) = mv.grad((np.full(3, 2.0) * x).sum(), [x])
    np.testing.assert_array_equal(g.data, [2, 2, 2])
    assert isinstance(np.ones((2, 3)) @ leaf(3, 2), Tensor)


def test_numpy_is_a_read_only_view():
    x = leaf(3)
    assert np.shares_memory(x.numpy(), x.data)
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0] = 1


def test_shapes_that_do_not_multiply_are_both_named():
    for f, a, b in [(ops.matmul, (2, 3), (4, 5)), (ops.linear, (2, 3), (4, 5)), (ops.add, (2, 3), (4,)),
                    (ops.matmul, (2, 2, 3), (4, 3, 2))]:  # fmt: skip
        with pytest.raises(ValueError, match=f.name) as error:
            f(leaf(*a), leaf(*b))
        assert str(a) in str(error.value)
        assert str(b) in str(error.value)
    with pytest.raises(ValueError, match="two axes"):
        leaf(3) @ leaf(3, 2)


def test_two_devices_are_both_named(standin):
    for f in (ops.add, ops.matmul, ops.maximum, ops.linear):
        for other in (np.ones((2, 2)), Tensor(np.ones((2, 2)))):
            with pytest.raises(TypeError, match="cpu") as error:
                f(Tensor(standin.ones((2, 2))), other)
            assert "cuda" in str(error.value)
            assert f.name in str(error.value)
    with pytest.raises(TypeError, match="cuda"):
        Tensor(standin.ones(2)) * Tensor(2.0)
    logits = Tensor(standin.ones((2, 3)), requires_grad=True)  # labels may lie anywhere, at second order too
    (g,) = mv.grad(ops.cross_entropy(logits, np.array([0, 1])), [logits], create_graph=True)
    mv.grad((g * g).sum(), [logits])


# ---- recording ----


def test_no_grad_is_of_its_thread():
    x = leaf(3)
    inside, go = threading.Event(), threading.Event()
    seen = []

    def other():
        with mv.no_grad():
            inside.set()
            go.wait(10)
            seen.append((x * 2).requires_grad)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    assert (x * 2).requires_grad
    go.set()
    thread.join()
    assert seen == [False]


def test_no_grad_ends_with_an_error():
    x = leaf(3)
    with pytest.raises(ZeroDivisionError), mv.no_grad():
        1 / 0  # noqa: B018
    assert (x * 2).requires_grad


def test_derivatives_within_no_grad_are_those_without():
    """no_grad stops the recording of what the user computes, not of what backward has to compute again."""
    x = leaf(3)
    functions = [lambda x: ops.softmax(x), mv.checkpoint(lambda x: x * x * x)]
    for f in functions:
        y = f(x)
        (expected,) = mv.grad(y, [x], np.arange(3.0), retain_graph=True)
        with mv.no_grad():
            (found,) = mv.grad(y, [x], np.arange(3.0), create_graph=True)
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-13, atol=1e-16)
        assert found.requires_grad
        y = f(x)
        with mv.no_grad():
            (found,) = mv.grad(y, [x], np.arange(3.0))
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-13, atol=1e-16)


def test_create_graph_records_and_its_absence_does_not():
    x = leaf(3)
    y = (x * x * x).sum()
    (g,) = mv.grad(y, [x], create_graph=True)
    assert g.node is not None
    np.testing.assert_allclose(mv.grad(g.sum(), [x])[0].data, 6 * x.data)
    (g,) = mv.grad((x * x).sum(), [x])
    assert g.node is None
    assert not g.requires_grad


# ---- checkpoint ----


def mlp(w1, w2):
    return lambda x: ops.gelu(x @ w1) @ w2


def test_checkpoint_values_gradients_and_second_order():
    x, w1, w2 = leaf(2, 3), leaf(3, 4, seed=1), leaf(4, 2, seed=2)
    plain = mlp(w1, w2)
    for outer in (lambda f: f(x).sum(), lambda f: (f(x * 2) * f(x)).sum()):
        first = []
        for f in (plain, mv.checkpoint(plain)):
            y = outer(f)
            gradients = mv.grad(y, [x, w1, w2], create_graph=True)
            second = mv.grad(sum(((g * g).sum() for g in gradients), Tensor(0.0)), [x, w1, w2])
            fast = mv.grad(outer(f), [x, w1, w2])
            first.append([y, *gradients, *second, *fast])
        for a, b in zip(*first, strict=True):
            np.testing.assert_allclose(b.data, a.data, rtol=1e-12, atol=1e-13)


def test_checkpoint_frees_what_is_inside(no_gc):
    x = leaf(3)
    held = []

    def f(x):
        h = ops.exp(x)
        held.append(weakref.ref(h))
        return h * h

    y = mv.checkpoint(f)(x).sum()
    assert held[0]() is None
    np.testing.assert_allclose(mv.grad(y, [x])[0].data, 2 * np.exp(2 * x.data))
    assert len(held) == 2, "computed again during backward, once"
    assert held[1]() is None


def test_nested_checkpoints():
    x, w = leaf(3), leaf(3, seed=1)
    inner = mv.checkpoint(lambda x: ops.sin(x) * w)
    outer = mv.checkpoint(lambda x: inner(x * x) + inner(x))
    expected = mv.grad((ops.sin(x * x) * w + ops.sin(x) * w).sum(), [x, w])
    for a, b in zip(mv.grad(outer(x).sum(), [x, w]), expected):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-13)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x * 1.5])
@pytest.mark.parametrize("create_graph", [False, True])
def test_checkpoint_of_a_function_that_also_closes_over_its_argument(make, create_graph):
    x = leaf(3)
    z = make(x)

    def f(t):
        return t * z * z

    (g,) = mv.grad(mv.checkpoint(f)(z).sum(), [x], create_graph=create_graph)
    (expected,) = mv.grad((make(x) * make(x) * make(x)).sum(), [x])
    np.testing.assert_allclose(g.data, expected.data, rtol=1e-13)


def test_checkpoint_that_returns_what_was_there_before():
    x = leaf(3)
    outer = x * 2
    y = mv.checkpoint(lambda x: outer)(x)
    np.testing.assert_allclose(mv.grad((y + outer * outer).sum(), [x])[0].data, 8 * x.data + 2)
    y = mv.checkpoint(lambda t: t)(x)
    np.testing.assert_array_equal(mv.grad(y.sum(), [x])[0].data, [1, 1, 1])


def test_checkpoint_of_arrays_under_no_grad_and_of_what_is_no_tensor():
    double = mv.checkpoint(lambda x: x * 2)
    np.testing.assert_array_equal(double(np.ones(3)), [2, 2, 2])
    with mv.no_grad():
        assert double(leaf(3)).node is None
    with pytest.raises(TypeError, match="one Tensor, got tuple"):
        mv.checkpoint(lambda x: (x, x))(leaf(3))


def test_checkpoint_refuses_a_changed_argument_and_a_second_backward():
    w = leaf(3)
    y = mv.checkpoint(lambda w: w * w)(w).sum()
    w.assign_(np.zeros(3))
    with pytest.raises(RuntimeError, match="checkpoint"):
        y.backward()
    w = leaf(3)
    y = mv.checkpoint(lambda w: w * w)(w)
    z = y.sum()
    z.backward()
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()


def test_checkpoint_refuses_a_changed_parameter_from_outside():
    x, w = leaf(3), leaf(3, seed=1)
    y = mv.checkpoint(lambda x: x * w)(x).sum()
    w.assign_(np.zeros(3))
    with pytest.raises(RuntimeError, match="checkpoint"):
        y.backward()


# ---- anomalies ----


def test_anomaly_names_the_operation_and_the_line():
    x = Tensor(np.array([1.0, -1.0]), requires_grad=True)
    with pytest.raises(FloatingPointError, match=r"log at .*test_engine\.py:\d+ made a NaN.*\[-1, 1\]"), mv.anomaly(), \
         np.errstate(all="ignore"):
        ops.log(x)
    zero = Tensor(np.zeros(2), requires_grad=True)
    with np.errstate(all="ignore"), mv.anomaly():
        y = (ops.sqrt(zero) * 0).sum()
        with pytest.raises(FloatingPointError, match=r"gradient of sqrt \(computed at .*test_engine\.py:\d+\).*input x"):
            y.backward()
    assert np.isnan(ops.log(np.array([np.nan])))[0]  # outside nothing is searched


def test_anomaly_names_a_rule_that_widens():
    double = mv.op(lambda x: x * 2)
    double.vjp(lambda g: g * np.float64(2))
    x = leaf(3, dtype=np.float32)
    assert mv.grad(double(x).sum(), [x])[0].dtype == np.float32
    with mv.anomaly(), pytest.raises(FloatingPointError, match="float64"):
        double(x).sum().backward()
    with mv.anomaly():  # a cast may
        assert mv.grad(x.astype(np.float64).sum(), [x])[0].dtype == np.float32


def test_anomaly_looks_at_every_input_of_concatenate():
    x, y = leaf(2), leaf(2)
    with mv.anomaly(), pytest.raises(FloatingPointError, match="concatenate"):
        mv.grad(ops.concatenate(x, y), [x, y], np.array([1, 1, np.nan, 1]))


# ---- operations of a user ----


def define(factor):
    @mv.op
    def square(x):
        return x * x

    @square.vjp
    def _(g, x):
        return factor * g * x

    return square


def test_a_users_operation_works_at_once_and_can_be_defined_again():
    before = set(REGISTRY)
    x = leaf(3)
    for factor in (2, 3):
        square = define(factor)
        np.testing.assert_allclose(mv.grad(square(x).sum(), [x])[0].data, factor * x.data)
    (g,) = mv.grad(define(2)(x).sum(), [x], create_graph=True)
    np.testing.assert_allclose(mv.grad(g.sum(), [x])[0].data, [2, 2, 2])
    assert set(REGISTRY) == before


def test_the_registry_refuses_a_name_twice():
    from minivit.autograd.registry import register

    with pytest.raises(ValueError, match="exp"):
        register(REGISTRY["exp"])


def test_inputs_by_keyword_left_out_and_options():
    @mv.op
    def scaled(x, weight=None, *, power=2, sign):
        return sign * (x if weight is None else x * weight) ** power

    @scaled.vjp
    def _(g, x, weight, power, sign, needs):
        assert needs == (True, False)
        factor = 1 if weight is None else weight
        return sign * g * power * (x * factor) ** (power - 1) * factor, None

    x = leaf(3)
    for y in (scaled(x, sign=-1), scaled(x=x, sign=-1), scaled(x, None, sign=-1)):
        np.testing.assert_allclose(mv.grad(y.sum(), [x])[0].data, -2 * x.data)
    y = scaled(weight=2.0, x=x, power=1, sign=1)
    np.testing.assert_allclose(mv.grad(y.sum(), [x])[0].data, [2, 2, 2])
    for bad in (lambda: scaled(x), lambda: scaled(sign=1), lambda: scaled(x, sign=1, sing=2), lambda: scaled(x, 1, 2, 3)):
        with pytest.raises(TypeError, match="scaled"):
            bad()


def test_a_rule_that_asks_for_what_there_is_not():
    f = mv.op(lambda x: x)
    with pytest.raises(TypeError, match="asks for 'y', which is none of g, out, needs, x, x_shape"):
        f.vjp(lambda g, y: g)


@pytest.mark.parametrize("f", [
    lambda s: ops.scaled_dot_product_attention(*[np.ones((1, 1, 2, 3), np.float32)] * 3, scale=s),
    lambda s: ops.layer_norm(np.ones((2, 3), np.float32), np.ones(3, np.float32), np.ones(3, np.float32), eps=s),
    lambda s: ops.cross_entropy(np.ones((2, 3), np.float32), np.array([0, 1]), label_smoothing=s),
])  # fmt: skip
def test_a_tensor_as_an_option_would_lose_its_gradient(f):
    with pytest.raises(TypeError, match="is a Tensor that requires a gradient, but it is an option"):
        f(mv.nn.Parameter(np.float32(0.3)))
    f(Tensor(np.float32(0.3)).item())


def test_an_operation_of_any_number_of_inputs_has_no_others():
    with pytest.raises(TypeError, match=r"f: \*ys comes after x"):

        @mv.op
        def f(x, *ys):
            return x


def test_an_operation_without_a_rule():
    @mv.op
    def cube(x):
        return x**3

    np.testing.assert_array_equal(cube(np.array([2.0])), [8.0])
    with pytest.raises(TypeError, match=r"cube has no rule.*@cube.vjp"):
        cube(leaf(3))


def test_a_rule_with_too_few_or_too_many_gradients():
    @mv.op
    def f(x, y):
        return x * y

    for rule, count in ((lambda g: g, 1), (lambda g: (g, g, g), 3)):
        f.vjp(rule)
        with pytest.raises(ValueError, match=rf"f\.vjp: expected 2 gradients, one per input, got {count}"):
            f(leaf(3), leaf(3)).sum().backward()


def test_an_error_of_the_forward_names_operation_and_shapes():
    @mv.op
    def broken(x, y):
        raise ValueError("something")

    with pytest.raises(ValueError, match=r"broken: something \[x \(2,\), y float\]"):
        broken(np.ones(2), 1.0)

"""What must hold for every operation, one function each: `test_every_operation.py` runs them on every operation of the
registry, `plant_faults.py` runs them on operations that it has broken.

A check takes the operation, a sample of inputs and a random generator, and raises AssertionError.
"""

import sys

import numpy as np
import pytest

import minivit as mv
from minivit.autograd import REGISTRY, Tensor
from minivit.autograd.samples import Sample, samples
from minivit.backend import array_code, to_numpy
from tests import cupy_standin

STEP = 1e-3  # of finite differences; samples keep 0.1 from a kink
LINEAR = {  # in the wanted inputs together
    "add", "astype", "broadcast_to", "col2im", "concatenate", "getitem", "identity", "im2col", "negative", "pad",
    "reshape", "scatter_add", "subtract", "sum", "transpose", "where",
}  # fmt: skip
VIEWS = {"reshape", "transpose", "getitem", "broadcast_to", "im2col", "col2im"}  # whose result may share its input's memory
BITWISE_SUMS = 1e-12  # relative: sums in another order


# ---- finite differences ----


def slope(f, xs, i, direction):
    """d/dt f(..., x_i + t·direction, ...) at 0: central differences with one Richardson step, and their error bar."""

    def central(h):
        there, back = ([x + s * h * direction if j == i else x for j, x in enumerate(xs)] for s in (1, -1))
        return (f(there) - f(back)) / (2 * h)

    coarse, fine = central(STEP), central(STEP / 2)
    return (4 * fine - coarse) / 3, abs(fine - coarse) / 3


def check_slopes(f, gradients, xs, rng, what):
    """The gradients of the scalar function f against its slopes in random directions, input by input."""
    for i, (x, g) in enumerate(zip(xs, gradients)):
        assert g.shape == x.shape, f"{what}: the gradient of input {i} has shape {g.shape}, the input {x.shape}"
        direction = rng.normal(size=x.shape)
        direction = np.where(np.isfinite(x), direction, 0)
        numeric, bar = slope(f, xs, i, direction)
        terms = g * direction
        analytic, size = terms.sum(), np.abs(terms).sum() + abs(f(xs))
        assert abs(analytic - numeric) <= 1e-7 * size + 0.1 * bar, (
            f"{what}: along a direction in input {i} (shape {x.shape}) the slope is {numeric:.10g} ± {bar:.1g}, "
            f"the gradient says {analytic:.10g}"
        )


# ---- calls ----


def as_tensors(sample, dtype=None, xp=np):
    """The arguments with Tensors for the wanted inputs."""
    return [
        Tensor(xp.asarray(a if dtype is None else a.astype(dtype)), requires_grad=True) if i in sample.wanted
        else xp.asarray(a) if isinstance(a, np.ndarray) else a
        for i, a in enumerate(sample.args)
    ]  # fmt: skip


def wanted(sample, args):
    return [args[i] for i in sample.wanted]


def with_wanted(sample, values):
    values = dict(zip(sample.wanted, values))
    return [values.get(i, a) for i, a in enumerate(sample.args)]


def cotangent(op, sample, rng):
    return np.asarray(rng.normal(size=np.shape(op(*sample.args, **sample.options))))


def gradients(op, sample, g, dtype=None, **keywords):
    args = as_tensors(sample, dtype)
    return [t.data for t in mv.grad(op(*args, **sample.options), wanted(sample, args), g, **keywords)]


def close(a, b, tolerance=1e-10, size=0.0):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(size, largest(b)) + 1e-300)


def largest(a):
    return np.abs(np.asarray(a)[np.isfinite(a)]).max(initial=0)


def all_close(found, expected, tolerance=1e-10, size=0.0):
    """Gradients. One may be zero because terms of the size of the others cancel, and is so to their rounding only; or all,
    because terms of the cotangent's size do: then that is the `size`."""
    size = max([size, *map(largest, expected)])
    for a, b in zip(found, expected, strict=True):
        close(a, b, tolerance, size)


def derived(op, sample, order, rng):
    """The scalar function of the wanted inputs and the cotangent whose gradient is the derivative of `order`.

    Order 1 is ⟨g, f(x)⟩; each further order takes the gradient of the one before and multiplies it by constants. With
    `record` False the outermost gradient is computed as for a first order, by the fast rules, so that the finite
    differences of it do not stand on the recorded computation that they are to check.
    """

    def first(xs, record=True):
        return (op(*with_wanted(sample, xs[:-1]), **sample.options) * xs[-1]).sum()

    def next_order(f, weights):
        def higher(xs, record=True):
            terms = [(w * d).sum() for w, d in zip(weights, mv.grad(f(xs), xs, create_graph=record))]
            return sum(terms[1:], terms[0])

        return higher

    xs = [sample.args[i] for i in sample.wanted] + [cotangent(op, sample, rng)]
    f = first
    for _ in range(order - 1):
        f = next_order(f, [rng.normal(size=x.shape) for x in xs])
    return f, xs


def check_order(op, sample, rng, order):
    f, xs = derived(op, sample, order, rng)
    tensors = [Tensor(x, requires_grad=True) for x in xs]
    found = [t.data for t in mv.grad(f(tensors), tensors)]
    value = lambda at: f([Tensor(x, requires_grad=True) for x in at], record=False).item()  # noqa: E731
    check_slopes(value, found, xs, rng, f"order {order}")


# ---- the checks ----


def first_order(op, sample, rng):
    check_order(op, sample, rng, 1)


def second_order(op, sample, rng):
    check_order(op, sample, rng, 2)


def third_order(op, sample, rng):
    check_order(op, sample, rng, 3)


def arrays_and_tensors_agree(op, sample, rng):
    on_arrays = op(*sample.args, **sample.options)
    assert not isinstance(on_arrays, Tensor)
    plain = op(*[Tensor(a) if i in sample.wanted else a for i, a in enumerate(sample.args)], **sample.options)
    recorded = op(*as_tensors(sample), **sample.options)
    assert (plain.node, plain.requires_grad) == (None, False)
    assert recorded.node is not None
    assert recorded.requires_grad
    np.testing.assert_array_equal(plain.data, on_arrays)
    np.testing.assert_array_equal(recorded.data, on_arrays)


def linear_in_the_cotangent(op, sample, rng):
    g = cotangent(op, sample, rng)
    for one, two, zero in zip(gradients(op, sample, g), gradients(op, sample, 2 * g), gradients(op, sample, 0 * g)):
        np.testing.assert_array_equal(two, 2 * one)
        np.testing.assert_array_equal(zero, 0 * one)


def every_subset_of_needs(op, sample, rng):
    """A gradient asked for alone is the one that comes with the others."""
    g = cotangent(op, sample, rng)
    together = gradients(op, sample, g)
    for i, expected in zip(sample.wanted, together):
        (alone,) = gradients(op, sample._replace(wanted=(i,)), g)
        np.testing.assert_array_equal(alone, expected)


def nothing_is_changed_and_twice_is_the_same(op, sample, rng):
    g = cotangent(op, sample, rng)
    args = as_tensors(sample)
    inputs = wanted(sample, args)
    others = [a for i, a in enumerate(args) if i not in sample.wanted]
    before = [np.array(t.data) for t in inputs], [np.array(a) for a in others if a is not None], g.copy()
    y = op(*args, **sample.options)
    value = np.array(y.data)
    once = [np.array(t.data) for t in mv.grad(y, inputs, g, retain_graph=True)]
    twice = mv.grad(y, inputs, g)  # what was saved is as it was
    for a, b in zip(once, twice):
        np.testing.assert_array_equal(a, b.data)
    np.testing.assert_array_equal(y.data, value)
    after = [t.data for t in inputs], [np.array(a) for a in others if a is not None], g
    for a, b in zip([*before[0], *before[1], before[2]], [*after[0], *after[1], after[2]]):
        np.testing.assert_array_equal(a, b)


def no_memory_is_shared(op, sample, rng):
    """The result is not its input (but for the operations that give views), no gradient is the cotangent or another."""
    g = cotangent(op, sample, rng)
    args = as_tensors(sample)
    y = op(*args, **sample.options)
    if op.name not in VIEWS:
        for t in wanted(sample, args):
            assert not np.shares_memory(y.data, t.data), "the result shares memory with an input"
    results = [t.data for t in mv.grad(y, wanted(sample, args), g)]
    for i, a in enumerate(results):
        assert a.flags.writeable, f"gradient {i} cannot be written to"
        for b in (g, *(t.data for t in wanted(sample, args)), *results[:i]):
            assert not np.shares_memory(a, b), f"gradient {i} shares memory with the cotangent, an input or another"


def dtypes_are_kept(op, sample, rng):
    """float32 in, float32 out and back, close to float64; float64 likewise."""
    g = cotangent(op, sample, rng)
    double, exact = op(*sample.args, **sample.options), gradients(op, sample, g)
    args = as_tensors(sample, np.float32)
    with mv.anomaly():  # in which a rule must not leave the dtype to the engine
        mv.grad(op(*args, **sample.options), wanted(sample, args), g)
    single = [a.data if isinstance(a, Tensor) else a for a in args]
    y = op(*args, **sample.options)
    found = mv.grad(y, wanted(sample, args), g)
    if op.name != "astype":
        assert {np.asarray(a).dtype for a in (double, *exact)} == {np.dtype(float)}
        assert np.asarray(op(*single, **sample.options)).dtype == np.float32, "arrays: float32 in, another dtype out"
        assert y.dtype == np.float32, f"float32 in, {y.dtype} out"
    assert all(t.dtype == np.float32 for t in found), f"gradients of float32 are {[t.dtype for t in found]}"
    close(y.data, double, 2e-4)
    all_close([t.data for t in found], exact, 2e-3)


def adjoint(op, sample, rng):
    """⟨A u, v⟩ = ⟨u, Aᵀ v⟩ for a linear operation: no step, no truncation, the same numbers."""
    us = [rng.normal(size=sample.args[i].shape) for i in sample.wanted]
    zero = with_wanted(sample, [np.zeros_like(u) for u in us])
    moved = op(*with_wanted(sample, us), **sample.options) - op(*zero, **sample.options)  # a constant input drops out
    v = rng.normal(size=np.shape(moved))
    back = gradients(op, sample, v)
    left, terms = np.sum(moved * v), [u * b for u, b in zip(us, back)]
    size = sum(np.abs(t).sum() for t in terms) + np.abs(moved * v).sum()
    assert abs(left - sum(t.sum() for t in terms)) <= BITWISE_SUMS * size + 1e-300


def fused_is_its_reference(op, sample, rng):
    """Value, gradients, and the gradients of the gradients, which the engine takes from the reference."""
    g = cotangent(op, sample, rng)
    close(op(*sample.args, **sample.options), op.reference(*sample.args, **sample.options))
    all_close(gradients(op, sample, g), gradients(op.reference, sample, g))
    weights = [rng.normal(size=sample.args[i].shape) for i in sample.wanted]

    def twice(f):
        args = as_tensors(sample)
        gt = Tensor(g, requires_grad=True)
        first = mv.grad(f(*args, **sample.options), wanted(sample, args), gt, create_graph=True)
        total = sum(((w * d).sum() for w, d in zip(weights, first)), Tensor(0.0))
        return [t.data for t in mv.grad(total, [*wanted(sample, args), gt])]

    all_close(twice(op), twice(op.reference))


def fused_in_small_blocks(op, sample, rng):
    """The loops over blocks that stay in cache, with blocks of a row or two: samples fill only one."""
    blocks = mv.backend.blocks.__globals__  # the function of that name hides the module
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(blocks, "BLOCK_BYTES", int(rng.integers(1, 200)))
        fused_is_its_reference(op, sample, rng)


def device_is_host(op, sample, rng):
    """NumPy against the stand-in for CuPy: forward, backward, and backward recorded."""
    g = cotangent(op, sample, rng)
    with pytest.MonkeyPatch.context() as patch:
        xp = cupy_standin.install(patch)
        index = sample.options.get("index")  # index arrays live where the data lives
        move = lambda a: xp.asarray(a) if isinstance(a, np.ndarray) else a  # noqa: E731
        options = {**sample.options}
        if index is not None:
            options["index"] = tuple(map(move, index)) if isinstance(index, tuple) else move(index)
        args = as_tensors(sample, xp=xp)
        y = op(*args, **options)
        assert isinstance(y.data, xp.ndarray)
        close(to_numpy(y.data), op(*sample.args, **sample.options), BITWISE_SUMS)
        for keywords in ({"retain_graph": True}, {"create_graph": True}):
            found = [t.data for t in mv.grad(y, wanted(sample, args), xp.asarray(g), **keywords)]
            assert all(isinstance(a, xp.ndarray) for a in found)
            all_close([to_numpy(a) for a in found], gradients(op, sample, g))


def kernels_are_array_code(op, sample, rng):
    """float32 by compiled kernels, where there is a compiler, against the array code: value, and gradients also alone."""
    g = cotangent(op, sample, rng)
    args = as_tensors(sample, np.float32)
    found = op(*args, **sample.options).data, gradients(op, sample, g, np.float32)
    alone = [gradients(op, sample._replace(wanted=(i,)), g, np.float32)[0] for i in sample.wanted]
    with array_code():
        expected = op(*args, **sample.options).data, gradients(op, sample, g, np.float32)
    close(found[0], expected[0], 1e-5)
    all_close(found[1], expected[1], 2e-5, largest(g))  # ∂x of a layer norm of one number: rounding beside 0
    all_close(alone, expected[1], 2e-5, largest(g))


def kinks(op, sample, rng):
    """What holds where a function has no derivative: conventions, so equality."""
    for args, options, expected in KINKS.get(op.name, ()):
        tensors = [Tensor(np.array(a), requires_grad=True) for a in args]
        found = mv.grad(op(*tensors, **options), tensors, gy=options_shape(op, args, options))
        for f, e in zip(found, expected):
            np.testing.assert_array_equal(f.data, np.array(e))


def options_shape(op, args, options):
    return np.full(np.shape(op(*map(np.array, args), **options)), 3.0)


KINKS = {  # name -> (inputs, options, gradients for a cotangent of 3 everywhere)
    "relu": [(([-1.0, 0.0, 2.0],), {}, ([0.0, 0.0, 3.0],))],
    "abs": [(([-1.0, 0.0, 2.0],), {}, ([-3.0, 0.0, 3.0],))],
    "sign": [(([-1.0, 0.0, 2.0],), {}, ([0.0, 0.0, 0.0],))],
    "clip": [(([-2.0, -1.0, 0.0, 1.0, 2.0],), {"low": -1.0, "high": 1.0}, ([0.0, 0.0, 3.0, 0.0, 0.0],))],
    "maximum": [(([0.0, 1.0, 2.0], [1.0, 1.0, 1.0]), {}, ([0.0, 1.5, 3.0], [3.0, 1.5, 0.0]))],
    "max": [
        (([[2.0, 1.0], [2.0, 2.0]],), {"axis": 0}, ([[1.5, 0.0], [1.5, 3.0]],)),
        (([[2.0, 1.0], [2.0, 2.0]],), {"axis": None}, ([[1.0, 0.0], [1.0, 1.0]],)),
        (([[2.0, 1.0], [2.0, 2.0]],), {"axis": (0, 1), "keepdims": True}, ([[1.0, 0.0], [1.0, 1.0]],)),
    ],
    "sqrt": [(([4.0, 0.25],), {}, ([0.75, 3.0],))],
    "power": [(([0.0, 2.0],), {"exponent": 2}, ([0.0, 12.0],)), (([0.0, 2.0],), {"exponent": 1}, ([3.0, 3.0],)),
              (([0.0, 2.0],), {"exponent": 0}, ([0.0, 0.0],))],
}  # fmt: skip


# ---- of the engine, through functions that use a value more than once ----


def _once_alone_and_within(x):
    return x * x + x


def _six_uses(x):
    y = x * x
    return (y + x) * y + x + x + y


def _an_input_of_an_input(x):
    return mv.ops.layer_norm(x, mv.ops.tanh(x[0]), x[1] * x[0])


def _attention_to_itself(x):
    q = mv.ops.reshape(mv.ops.softmax(x), shape=(1, 1, *x.shape))
    return mv.ops.scaled_dot_product_attention(q, q * 2, q)


def _checkpointed(x):
    return mv.checkpoint(lambda z: _six_uses(z) * x)(x * 2)


def _a_constant_rule(x):
    step = mv.op(lambda x: (x > 0) * 1.0)
    step.vjp(lambda g, x_shape: np.zeros(x_shape))  # an array, whatever g is
    y = x * x
    return y * x + step(x + 5) + step(x - 5)


def unbroadcast_is_the_adjoint(rng):
    for _ in range(20):
        (x,), options, _ = samples("broadcast_to", rng)
        small, shape = x.shape, options["shape"]
        values, u = rng.normal(size=shape), rng.normal(size=small)
        back = mv.autograd.unbroadcast(values, small)
        assert back.shape == small
        close(np.sum(back * u), np.sum(values * np.broadcast_to(u, shape)))


def a_wrong_shape_is_named(rng):
    for broadcasts in (False, True):
        wrong = mv.op(lambda x, y: x + y, broadcasts=broadcasts)
        wrong.vjp(lambda g: (g, g[..., None].sum(axis=0)))
        x, y = (Tensor(rng.normal(size=(2, 3)), requires_grad=True) for _ in range(2))
        with pytest.raises(ValueError, match=r"input y has shape \(3, 1\), the input has shape \(2, 3\)"):
            mv.grad((wrong(x, y)).sum(), [x, y])
    bare = mv.op(lambda x: x * 2)
    bare.vjp(lambda g: (2 * g)[None])
    with pytest.raises(ValueError, match=r"input x has shape \(1, 2, 3\), the input has shape \(2, 3\)"):
        mv.grad(bare(x).sum(), [x])
    number = mv.op(lambda x: x * 2)
    number.vjp(lambda g: 2.0)
    with pytest.raises(TypeError, match="input x is a float"):
        mv.grad(number(x).sum(), [x])


def _composition(f, order):
    def check(rng):
        for shape in ((), (3, 4)) if f in (_once_alone_and_within, _six_uses, _checkpointed, _a_constant_rule) else ((3, 4),):
            check_order(f, Sample((np.asarray(rng.normal(size=shape)),), {}, (0,)), rng, order)

    return check


ENGINE_CHECKS = {
    **{
        f"{f.__name__.strip('_')} to order {order}": _composition(f, order)
        for f in (_once_alone_and_within, _six_uses, _an_input_of_an_input, _attention_to_itself, _checkpointed,
                  _a_constant_rule)
        for order in (1, 2, 3)
    },
    "unbroadcast_is_the_adjoint": unbroadcast_is_the_adjoint,
    "a_wrong_shape_is_named": a_wrong_shape_is_named,
}


def checks(op):
    """The checks that apply to an operation, by name, the telling ones first."""
    chosen = [first_order, arrays_and_tensors_agree, linear_in_the_cotangent, every_subset_of_needs,
              nothing_is_changed_and_twice_is_the_same, no_memory_is_shared, dtypes_are_kept, second_order, device_is_host]
    if op.name in LINEAR:
        chosen.append(adjoint)
    if op.reference is not None:
        chosen += [fused_is_its_reference, fused_in_small_blocks, kernels_are_array_code]
    if op.name in KINKS:
        chosen.append(kinks)
    return {check.__name__: check for check in chosen}


def run(name, check, seed):
    """One check of one operation on the sample of one seed."""
    rng = np.random.default_rng(seed)
    check(REGISTRY[name], samples(name, rng), rng)


assert "cupy" not in sys.modules or sys.modules["cupy"] is not cupy_standin.cupy

"""The record of a function's steps: complete, right, or refused; and nothing is left changed behind it."""

import math
import threading

import numpy as np
import pytest

import minivit as mv
from minivit.autograd.tensor import mode
from minivit.checking.tracing import trace
from tests.checking.wrong_rules import draw
from tests.checking.wrong_steps import RIGHT


def in_place(x):
    y = x * 2
    y += 1
    y[0] = x[1] * x[0]
    return np.exp(y, out=y)


def stacked(x):
    first, second = np.split(x, 2)
    return np.concatenate([first.sum(keepdims=True), np.stack([second, second.T]).reshape(-1)])


def through_a_view(x):
    y = x * 2
    y[1:] *= x[1:]
    return y


def masked(x):
    return np.where(x > 0, x, 0.1 * x) + np.maximum(x, 0.3)


FUNCTIONS = {"in_place": in_place, "stacked": stacked, "masked": masked, "einsum": lambda x: np.einsum("i,j->ij", x, x),
             "vectorize": lambda x: np.vectorize(math.erf)(x) * x, "operation": lambda x: mv.ops.gelu(x) * x,
             "through_a_view": through_a_view}  # fmt: skip


def walked(steps, g, i):
    """The gradient put together from the Jacobians of the steps."""
    cotangents = {s.index: np.zeros(s.value.size) for s in steps}
    cotangents[steps[-1].index] = g.reshape(-1)
    for s in reversed(steps):
        for slot, p in enumerate(s.parents):
            cotangents[p.index] = cotangents[p.index] + s.jacobian(slot).T @ cotangents[s.index]
    return cotangents[i].reshape(steps[i].value.shape)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_steps_lead_to_the_gradient(name):
    f = FUNCTIONS[name]
    (x,) = draw([(6,)], 1)
    steps = trace(f, [x], [0], ["x"])
    y = f(x.copy())
    assert steps is not None
    assert (steps[-1].value == y).all()
    g = draw([y.shape], 2)[0]
    expected = mv.checking.numerical_gradient(f, x, g).value
    assert np.allclose(walked(steps, g, 0), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("name", "f", "vjp", "shapes"), RIGHT, ids=[r[0] for r in RIGHT])
def test_the_steps_of_a_layer_lead_to_its_gradient(name, f, vjp, shapes):
    inputs = draw(shapes, 3)
    steps = trace(f, inputs, range(len(inputs)), ["x"] * len(inputs))
    if name == "windows":  # np.stack of slices of a record is fine; a list of slices is what it is
        assert steps is not None
    y = f(*inputs)
    g = draw([np.shape(y)], 4)[0]
    right = vjp(g, *inputs)
    for i, gradient in enumerate(right if isinstance(right, tuple) else (right,)):
        assert np.allclose(walked(steps, g, i), gradient, rtol=1e-7, atol=1e-9)


def changes_behind_a_view(x):
    y = x * 2
    row = y[0]
    row += x[1]  # y changes too, which no record of y tells
    return y * x


@pytest.mark.parametrize("f", [lambda x: float(x[0, 0]) * x, lambda x: np.array([math.sin(v) for v in x[0]]),
                               changes_behind_a_view, lambda x: np.asarray(x) * 2, lambda x: x.tolist(), lambda x: 1 / 0,
                               lambda x: np.ones(3)], ids=range(7))  # fmt: skip
def test_no_record_rather_than_a_wrong_one(f):
    assert trace(f, draw([(2, 3)], 0), [0], ["x"]) is None


def test_nothing_stays_changed():
    vectorize = np.vectorize.__call__
    trace(lambda x: mv.ops.exp(x) / 0 + [], draw([(2,)], 0), [0], ["x"])
    assert np.vectorize.__call__ is vectorize
    assert mode.intercept is None


def test_several_threads_may_check_at_once():
    vectorize = np.vectorize.__call__
    erf = np.vectorize(math.erf)
    (x,) = draw([(3,)], 0)

    def check(found):
        for _ in range(10):
            with pytest.raises(mv.GradcheckError) as caught:
                mv.gradcheck(lambda x: erf(x) * x, x, vjp=lambda g, x: g * erf(x))
            found.append(caught.value.report.findings[0].code)

    found = []
    threads = [threading.Thread(target=check, args=(found,)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == ["missing_term"] * 40
    assert np.vectorize.__call__ is vectorize


def test_a_check_within_a_traced_function():
    def f(x):
        mv.gradcheck(lambda z: z * 2, np.ones(2), vjp=lambda g, z: 2 * g)
        return np.exp(x)

    assert len(trace(f, draw([(2,)], 0), [0], ["x"])) == 2


def test_a_step_knows_its_line():
    steps = trace(in_place, draw([(3,)], 0), [0], ["x"])
    assert [s.text for s in steps[1:3]] == ["y = x * 2", "y += 1"]
    assert steps[2].line == steps[1].line + 1


def test_an_operation_inside_a_function_is_named():
    @mv.op
    def swish(x):
        s = 1 / (1 + np.exp(-x))
        return x * s

    @swish.vjp
    def _(g, x):
        return g / (1 + mv.ops.exp(-x))

    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(lambda x: mv.ops.tanh(swish(x)).sum(), draw([(2, 3)], 0)[0])
    finding = caught.value.report.findings[0]
    assert finding.code == "missing_term"
    assert finding.evidence["operation"] == "swish"
    assert "s = 1 / (1 + np.exp(-x))" in finding.message


def test_the_line_is_the_function_s_own():
    """Also where its module is called something with numpy, or is one of ours; a bare ufunc's is that of no caller."""
    space = {"np": np, "__name__": "my_numpy_layers"}
    exec("def layer(x):\n    return np.exp(x)", space)
    x = draw([(3,)], 1)[0]
    assert trace(space["layer"], [x], [0], ["x"])[-1].line == 2
    reuse = mv.exercises.find("product").module.reuse
    assert trace(reuse, [x, x.copy()], [0, 1], ["x", "y"])[-1].text == "return x * s"
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(np.multiply, x, x + 1, vjp=lambda g, x, y: (g, g * x))
    assert "(line" not in str(caught.value)

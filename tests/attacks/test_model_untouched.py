"""An attack leaves the model as it was: parameters, gradients, modes; also when something raises halfway."""

import gc
import weakref

import numpy as np
import pytest

import minivit as mv
from tests.attacks.victims import Net, images

ATTACKS = {
    "fgsm": lambda model, x, y: mv.attacks.fgsm(model, x, y, eps=0.1),
    "pgd": lambda model, x, y: mv.attacks.pgd(model, x, y, eps=0.1, steps=4),
    "curve": lambda model, x, y: mv.attacks.robust_accuracy(model, (x, y), eps=[0, 0.1], steps=4),
}


def state(model):
    modules = list(model.modules())
    return (
        [m.training for m in modules],
        [getattr(m, "step", None) for m in modules],
        [(p.data.tobytes(), p.version, p.requires_grad) for p in model.parameters()],
        [None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes()) for p in model.parameters()],
    )


def prepared(**options):
    model = Net(**options)
    model.eval()
    model.training = model.dropout.training = True  # frozen submodules within a module in training
    next(model.parameters()).grad = mv.Tensor(np.ones((12, 8), "float32"))
    return model


@pytest.mark.parametrize("name", ATTACKS)
def test_everything_is_as_before(name):
    model = prepared()
    x, y = images(0, 5, dtype="float32")
    before = state(model)
    ATTACKS[name](model, x, y)
    assert state(model) == before
    assert model.calls > 1
    assert not np.any([any(modes) for modes in model.modes])  # evaluation mode throughout


@pytest.mark.parametrize(("name", "call"), [("fgsm", 1), ("fgsm", 2), ("pgd", 1), ("pgd", 2), ("pgd", 5), ("curve", 3)])
def test_everything_is_as_before_after_an_error(name, call):
    model = prepared(fails_at=call)
    x, y = images(0, 5, dtype="float32")
    before = state(model)
    with pytest.raises(ArithmeticError, match="the model's own trouble"):
        ATTACKS[name](model, x, y)
    assert model.calls == call
    assert state(model) == before
    t = mv.Tensor(np.ones(2), requires_grad=True)
    assert (t * t).requires_grad  # recording is on again


def test_an_attack_within_no_grad_is_the_same_attack_and_leaves_it_on():
    model = Net()
    x, y = images(0, 5, dtype="float32")
    expected = ATTACKS["pgd"](model, x, y)
    with mv.no_grad():
        np.testing.assert_array_equal(ATTACKS["pgd"](model, x, y).x_adv, expected.x_adv)
        t = mv.Tensor(np.ones(2), requires_grad=True)
        assert not (t * t).requires_grad


def test_no_graph_survives():
    seen = []

    def model(x):
        seen.append(weakref.ref(x))
        h = x.reshape(x.shape[0], 12)
        seen.append(weakref.ref(h))
        return h[:, :3] * 2.0

    x, y = images(0, 5)
    gc.disable()
    try:
        results = [ATTACKS[name](model, x, y) for name in ATTACKS]
        assert all(ref() is None for ref in seen)
    finally:
        gc.enable()
    assert len(results) == 3


def test_parameters_get_no_gradient_computed():
    """A parameter's rule would raise; only the gradient of the images is asked for."""

    @mv.op
    def scale(x, weight):
        return x * weight

    @scale.vjp
    def _(g, weight, needs):
        assert not needs[1]
        return g * weight, None

    weight = mv.Tensor(np.full(3, 2.0), requires_grad=True)
    x, y = images(0, 5)
    r = mv.attacks.pgd(lambda v: scale(v.reshape(v.shape[0], 12)[:, :3], weight), x, y, eps=0.1, steps=2)
    assert weight.grad is None
    assert (r.loss > 0).all()

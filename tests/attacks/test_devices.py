"""Attacks on the device of the model: through the strict stand-in for CuPy everywhere, on a GPU where there is one."""

import numpy as np
import pytest

import minivit as mv
from minivit.attacks.norms import NORMS
from minivit.attacks.victim import checked_together, require_finite
from tests import cupy_standin
from tests.attacks.victims import Net, images, mlp


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_images_on_the_device_give_the_same_attack(xp, norm, targeted):
    x, y = images(0, 5)
    t = (y + 1) % 3 if targeted else None
    host, there = mlp(0, 12), mlp(0, 12, xp=xp)
    keywords = {"eps": {"linf": 0.1, "l2": 0.4, "l1": 1.3}[norm], "norm": norm, "batch_size": 3}
    for attack, more in ((mv.attacks.fgsm, {}), (mv.attacks.pgd, {"steps": 4, "restarts": 2})):
        expected = attack(host, x, y, targets=t, **keywords, **more)
        r = attack(there, xp.asarray(x), xp.asarray(y), targets=None if t is None else xp.asarray(t), **keywords, **more)
        np.testing.assert_allclose(r.x_adv, expected.x_adv, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(r.success, expected.success)
        for value in (r.x_adv, r.success, r.loss, r.prediction, r.prediction_adv, *r.distance.values()):
            assert type(value) is np.ndarray


def test_a_model_on_the_device_takes_images_from_the_host(standin):
    x, y = images(0, 6, dtype="float32")
    expected = mv.attacks.pgd(Net(), x, y, eps=0.1, steps=3)
    model = Net().to("cuda")
    r = mv.attacks.pgd(model, x, y, eps=0.1, steps=3)
    np.testing.assert_allclose(r.x_adv, expected.x_adv, atol=1e-5)
    curve = mv.attacks.robust_accuracy(model, (x, y), eps=[0, 0.1], steps=3)
    assert curve.accuracy[0] >= curve.accuracy[1]


def test_bad_images_on_the_device(standin):
    x, y = images(0, 5, dtype="float32")
    model = mlp(0, 12, dtype="float32", xp=standin)
    with pytest.raises(ValueError, match="x: pixels range from 0 to 255"):
        mv.attacks.fgsm(model, standin.asarray(x * 255), y)
    x[3, 0] = np.nan
    with pytest.raises(ValueError, match="x: image 3 contains NaN"):
        mv.attacks.fgsm(model, standin.asarray(x), y)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_of_pgd_waits_for_nothing(standin, norm):
    x, y = images(0, 6, dtype="float32")
    model = Net().to("cuda")

    def waits(steps, restarts):
        before = cupy_standin.synchronizations()
        mv.attacks.pgd(model, x, y, eps=0.1, norm=norm, steps=steps, restarts=restarts)
        return cupy_standin.synchronizations() - before

    assert waits(2, 1) == waits(9, 1) == waits(2, 3)


def test_what_was_not_asked_in_between_is_said_at_the_end(standin):
    """On a GPU the model's answers are checked once per batch; a NaN on the way is an error all the same."""
    x, y = images(0, 6, dtype="float32")
    net = Net().to("cuda")
    calls = []

    def breaks(at, factor):
        def model(images):
            calls.append(len(images))
            return net(images) * (factor if len(calls) == at else 1.0)

        calls.clear()
        return model

    for at in (4, 6):
        with pytest.raises(ValueError, match="model: its logits contain NaN"):
            mv.attacks.pgd(breaks(at, float("nan")), standin.asarray(x), y, eps=0.1, steps=3)
    with pytest.raises(ValueError, match="model: the gradient of the loss by the images contains NaN"):
        mv.attacks.pgd(lambda images: net(images) + mv.ops.sqrt(images.sum() * 0.0), standin.asarray(x), y, steps=2)
    mv.attacks.pgd(breaks(0, 1.0), standin.asarray(x), y, eps=0.1, steps=3)
    assert len(calls) > 6  # so that the fourth and the sixth were in the middle


def test_a_check_outside_of_an_attack_is_made_at_once(standin):
    with checked_together():
        require_finite(standin.ones(2), "well")
        require_finite(np.ones(2), "well")
        with pytest.raises(ValueError, match="on the host"):
            require_finite(np.full(2, np.inf), "on the host")
    with pytest.raises(ValueError, match="at once"):
        require_finite(standin.full(2, np.nan), "at once")
    reached = []
    with pytest.raises(ValueError, match="later"), checked_together():  # noqa: PT012
        require_finite(standin.full(2, np.nan), "later")
        reached.append(True)
    assert reached

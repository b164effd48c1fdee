"""Attacks on the device of the model: through the strict stand-in for CuPy everywhere, on a GPU where there is one."""

import numpy as np
import pytest

import minivit as mv
from minivit.attacks.norms import NORMS
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

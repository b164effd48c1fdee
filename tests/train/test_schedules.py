"""Schedules and the average of weights."""

import numpy as np
import pytest

import minivit as mv
from minivit.train import EMA, warmup_cosine


def test_warmup_cosine_end_points():
    lr = [warmup_cosine(step, steps=100, warmup=10, peak=2.0, final=0.5) for step in range(101)]
    np.testing.assert_allclose(lr[:10], np.arange(1, 11) * 0.2)
    assert lr[10] == 2.0
    assert lr[55] == pytest.approx(1.25)  # half way down
    assert lr[100] == 0.5
    assert all(a > b for a, b in zip(lr[10:], lr[11:]))
    assert warmup_cosine(0, steps=5, peak=1.0) == 1.0
    assert warmup_cosine(7, steps=5, peak=1.0) == 0.0
    with pytest.raises(ValueError, match="warmup"):
        warmup_cosine(0, steps=5, warmup=6, peak=1.0)


def test_ema_is_the_bias_corrected_average():
    rng = np.random.default_rng(0)
    p = mv.nn.Parameter(rng.standard_normal((3, 2)))
    ema = EMA([p], decay=0.9)
    plain = np.zeros((3, 2))
    for t in range(1, 8):
        theta = rng.standard_normal((3, 2))
        p.assign_(theta)
        ema.update()
        plain = 0.9 * plain + 0.1 * theta
        np.testing.assert_allclose(ema.average[0], plain / (1 - 0.9**t), rtol=1e-12)
        if t == 1:
            np.testing.assert_array_equal(ema.average[0], theta)


def test_ema_applied_and_state():
    p = mv.nn.Parameter(np.array([1.0], np.float32))
    ema = EMA([p], decay=0.5)
    ema.update()
    p.assign_(np.array([4.0]))
    ema.update()
    with ema.applied():
        assert p.numpy()[0] == pytest.approx(3.0)  # (1 + 2 * 4) / 3
        assert p.dtype == np.float32
    assert p.numpy()[0] == 4.0
    again = EMA([p], decay=0.5)
    again.load_state_dict(ema.state_dict())
    again.update()
    ema.update()
    np.testing.assert_array_equal(again.average[0], ema.average[0])
    again.apply()
    np.testing.assert_array_equal(p.numpy(), ema.average[0])
    with pytest.raises(ValueError, match="state"):
        again.load_state_dict({"t": np.array(1)})
    with pytest.raises(ValueError, match="decay"):
        EMA([p], decay=1.0)


def test_an_average_follows_a_model_that_moves():
    layer = mv.nn.Linear(2, 2)
    ema = EMA(layer.parameters(), decay=0.9)
    layer.to(dtype="float64")
    layer.weight.assign_(np.full((2, 2), 1 / 3))
    ema.update()
    ema.apply()
    assert layer.weight.numpy()[0, 0] == 1 / 3
    with pytest.raises(ValueError, match="params: there are none"):
        EMA(iter(()))

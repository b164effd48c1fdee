"""Loss scaling, by hand and in the loop: an overflow leaves out a step and halves S, and a run in float16 can be resumed."""

import json
import math

import numpy as np
import pytest

import minivit as mv
from minivit.io import read_jsonl
from minivit.train import LossScaler
from tests.cupy_standin import synchronizations
from tests.train.small import OPTIONS, digits, make_model

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def data():
    return digits()


def weights(model):
    return list(model.state_dict().values())


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# ---- the scaler ----


def test_its_rule():
    scaler = LossScaler(growth_interval=3)
    assert scaler.factor == 2.0**16
    for norm, factor, step in ((1.0, 16, True), (2.0, 16, True), (np.inf, 15, False), (1.0, 15, True), (np.nan, 14, False),
                               (0.0, 14, True), (1.0, 14, True), (1.0, 15, True), (1.0, 15, True)):  # fmt: skip
        assert scaler.update(norm) is step
        assert scaler.factor == 2.0**factor
    assert scaler.skipped == 2
    again = LossScaler(growth_interval=3)
    again.load_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert vars(again) == vars(scaler)
    with pytest.raises(ValueError, match="state: expected factor, good_steps, skipped; got factor"):
        again.load_state_dict({"factor": 1.0})


def test_a_model_that_gives_nan_is_not_scaled_down_for_ever():
    scaler = LossScaler(2.0**-24)
    assert not scaler.update(math.nan)
    with pytest.raises(FloatingPointError, match="the model itself gives NaN or infinity"):
        scaler.update(math.nan)
    assert scaler.factor == 2.0**-25


def test_scaling_and_unscaling_change_no_bit_of_a_float32_gradient():
    p = mv.nn.Parameter(np.random.default_rng(0).normal(size=5).astype(np.float32))
    (p * p * p).sum().backward()
    expected, scaler = p.grad.numpy().copy(), LossScaler()
    p.grad = None
    scaler.scale((p * p * p).sum()).backward()
    np.testing.assert_array_equal(p.grad.numpy(), expected * 2.0**16)
    held = p.grad.data
    scaler.unscale([p, mv.nn.Parameter(np.ones(2, np.float32))])
    np.testing.assert_array_equal(p.grad.numpy(), expected)
    assert held is not p.grad.data


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: LossScaler(3), ValueError, "factor: expected a power of two"),
    (lambda: LossScaler(0), ValueError, "factor"),
    (lambda: LossScaler(float("inf")), ValueError, "factor"),
    (lambda: LossScaler("big"), ValueError, "factor"),
    (lambda: LossScaler(growth_interval=0), ValueError, "growth_interval: expected a number of steps"),
    (lambda: LossScaler(growth_interval=1.5), ValueError, "growth_interval"),
    (lambda: LossScaler().scale(mv.Tensor(np.ones((), np.float16))), TypeError, "loss: is float16"),
])
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def by_hand(model, data, steps, scaler):
    """The loop of the module's docstring; the losses."""
    optimizer, losses = mv.train.AdamW(model.named_parameters(), lr=3e-3), []
    images = mv.Tensor(data.images[:64]).to(model.device)
    for _ in range(steps):
        optimizer.zero_grad()
        with mv.autocast():
            loss = mv.ops.cross_entropy(model(images), data.labels[:64])
        scaler.scale(loss).backward()
        scaler.unscale(model.parameters())
        norm = mv.train.clip_grad_norm(model.parameters(), 1.0)
        if scaler.update(norm):
            optimizer.step()
        losses.append(loss)
    return losses


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_loop_by_hand(standin, data, device):
    model = make_model(dropout=0.0).to(device)
    losses = by_hand(model, data[0], 25, LossScaler(2.0**10))
    assert float(losses[-1]) < 0.5 * float(losses[0])
    assert all(p.dtype == np.float32 for p in model.parameters())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy tells of every inf
def test_an_overflow_leaves_out_the_step_and_halves(data):
    model = make_model(dropout=0.0)
    before, scaler = weights(model), LossScaler(2.0**40)
    by_hand(model, data[0], 1, scaler)
    assert same(weights(model), before)
    assert (scaler.factor, scaler.skipped) == (2.0**39, 1)
    by_hand(model, data[0], 30, scaler)
    assert not same(weights(model), before)
    assert all(np.isfinite(w).all() for w in weights(model))
    assert 2.0**10 < scaler.factor < 2.0**36


def test_a_step_waits_for_a_gpu_once(standin, data):
    model = make_model(dropout=0.0).to("cuda")
    by_hand(model, data[0], 1, LossScaler())
    before = synchronizations()
    by_hand(model, data[0], 3, LossScaler())
    assert synchronizations() - before == 3


# ---- in the loop ----


def test_it_learns_as_in_float32(data):
    found = {}
    for precision in ("float32", "float16"):
        model = make_model(dropout=0.0)
        history = mv.train.fit(model, *data, epochs=5, lr=1e-2, batch_size=16, precision=precision, **QUIET)
        found[precision] = history[-1]
        assert model.dtype == np.float32
    assert found["float16"]["train_loss"] == pytest.approx(found["float32"]["train_loss"], rel=0.2)
    assert found["float16"]["train_loss"] != found["float32"]["train_loss"]
    assert found["float16"]["skipped"] == 0
    assert "skipped" not in found["float32"]


def test_the_optimizer_sees_gradients_of_the_usual_size(data):
    """With plain descent and without clipping, S would otherwise be in the step."""
    found = {}
    for precision in ("float32", "float16"):
        model = make_model(dropout=0.0)
        mv.train.fit(model, data[0], epochs=1, lr=1e-2, optimizer="sgd", clip_norm=None, precision=precision, **QUIET)
        found[precision] = np.concatenate([w.ravel() for w in weights(model)])
    start = np.concatenate([w.ravel() for w in weights(make_model(dropout=0.0))])
    moved, expected = (found[precision] - start for precision in ("float16", "float32"))
    assert np.linalg.norm(moved - expected) < 2e-2 * np.linalg.norm(expected)


def test_its_products_are_of_float16_on_a_gpu(standin, data):
    from tests.cupy_standin import products

    mv.train.fit(make_model().to("cuda"), data[0][:32], epochs=1, batch_size=32, precision="float16", **QUIET)
    assert {call["dtype"] for call in products if call["name"] == "gemmEx"} >= {"float16"}


def too_large(monkeypatch, factor):
    """Training begins with another S."""
    monkeypatch.setattr(mv.train.loop, "LossScaler", lambda: LossScaler(factor))


def test_an_overflow_in_the_loop(data, monkeypatch):
    too_large(monkeypatch, 2.0**40)
    model = make_model()
    history = mv.train.fit(model, data[0], epochs=4, batch_size=20, ema=0.9, precision="float16", **QUIET)
    skipped = [row["skipped"] for row in history]
    assert 5 < sum(skipped) < 30
    assert skipped[0] == 10  # every step of the first epoch
    assert skipped[-1] < 5
    assert history[0]["train_accuracy"] < history[-1]["train_accuracy"]


def test_a_gradient_that_is_never_finite_is_an_error(data, monkeypatch):
    def objective(model, images, labels, indices, step):
        logits = model(images)
        return mv.ops.cross_entropy(logits, labels) + mv.ops.sqrt(model.head.bias * 0.0).sum(), logits

    too_large(monkeypatch, 2.0**2)
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 3: the gradient's norm is nan"):
        mv.train.fit(make_model(), data[0], epochs=1, objective=objective, precision="float16", batch_size=20, **QUIET)


@pytest.mark.parametrize("steps", [3, 7])
def test_a_resumed_run_ends_with_the_same_bits(data, tmp_path, monkeypatch, steps):
    """S falls at first and is doubled twice later, before and after the stop."""
    monkeypatch.setattr(mv.train.loop, "LossScaler", lambda: LossScaler(2.0**30, growth_interval=4))
    options = {**OPTIONS, "precision": "float16", "checkpoint_every": 0}
    model = make_model()
    history = mv.train.fit(model, *data, run_dir=tmp_path / "whole", **options)
    assert 0 < sum(row["skipped"] for row in history) < 18
    real = mv.train.CrossEntropy.__call__

    def stops(self, model, images, labels, indices, step):
        if step == steps:
            raise InterruptedError
        return real(self, model, images, labels, indices, step)

    monkeypatch.setattr(mv.train.CrossEntropy, "__call__", stops)
    with pytest.raises(InterruptedError):
        mv.train.fit(make_model(), *data, run_dir=tmp_path / "stopped", **options)
    monkeypatch.setattr(mv.train.CrossEntropy, "__call__", real)
    resumed = make_model()
    resumed_history = mv.train.fit(resumed, *data, resume=tmp_path / "stopped", **options)
    assert same(weights(resumed), weights(model))
    assert [row["skipped"] for row in resumed_history] == [row["skipped"] for row in history]
    assert [row["skipped"] for row in read_jsonl(tmp_path / "stopped" / "metrics.jsonl")] == [r["skipped"] for r in history]
    with pytest.raises(ValueError, match="precision was 'float16' and is 'float32' now"):
        mv.train.fit(make_model(), *data, resume=tmp_path / "whole", **{**options, "precision": "float32"})


def test_an_unknown_precision_is_refused(data):
    with pytest.raises(ValueError, match="precision: expected 'float32' or 'float16', got 'half'"):
        mv.train.fit(make_model(), data[0], epochs=1, precision="half", **QUIET)


def test_adversarial_training_takes_it_too(data):
    model = mv.defenses.adversarial_train(make_model(), data[0][:64], eps=0.1, epochs=1, steps=2, precision="float16", **QUIET)
    assert model.dtype == np.float32

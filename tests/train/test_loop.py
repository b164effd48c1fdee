"""The loop: it learns, it is a function of its seed, the test set decides nothing, and what is wrong is said first."""

import re
import threading

import numpy as np
import pytest

import minivit as mv
from tests.cupy_standin import synchronizations
from tests.train.small import Linear, digits, make_model

QUIET = {"progress": False}


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.fixture(scope="module")
def data():
    return digits()


def test_it_learns_and_its_history_says_so(data):
    train, test = data
    model = make_model(dropout=0.0)
    history = mv.train.fit(model, train, test, epochs=6, lr=1e-2, batch_size=16, shift=0, validation=0.1, **QUIET)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 1.5
    assert history[-1]["test_accuracy"] > 0.5
    assert history[-1]["step"] == 6 * 12  # 180 images of 200 remain, in batches of 16
    # the loop measures what evaluate measures
    measured = mv.train.evaluate(model, test)
    assert measured == {"accuracy": history[-1]["test_accuracy"], "loss": history[-1]["test_loss"]}
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_same_seed_same_bytes(data):
    train, test = data
    trained = []
    for seed in (1, 1, 2):
        model = make_model()
        mv.train.fit(model, train, test, epochs=1, seed=seed, **QUIET)
        trained.append(model)
    assert same_weights(trained[0], trained[1])
    assert not same_weights(trained[0], trained[2])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_parameters_stay_as_they_are(data, tmp_path, optimizer):
    model = mv.models.ViT(image_size=8, patch_size=4, channels=1, embed_dim=16, depth=2, num_heads=2, num_classes=10)
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith("head")
    before = model.state_dict()
    options = {"ema": 0.9, "validation": 0.2, "keep": "best", "lr": 1e-2, "optimizer": optimizer, "shift": 0}
    mv.train.fit(model, data[0], epochs=2, run_dir=tmp_path / "run", **options, **QUIET)
    for name, a in model.state_dict().items():
        assert np.array_equal(a, before[name]) != name.startswith("head"), name
    for p in model.parameters():
        p.requires_grad = False
    with pytest.raises(ValueError, match="model: requires_grad is False for all of its parameters"):
        mv.train.fit(model, data[0], epochs=1, **QUIET)
    result = mv.attacks.pgd(model, data[0].images[:4], data[0].labels[:4], steps=2)
    assert result.success.shape == (4,)


def test_the_global_generator_is_not_touched(data):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    mv.train.fit(make_model(), data[0], epochs=1, **QUIET)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_test_set_never_selects(data, keep):
    train, test = data
    wrong = mv.data.Dataset(test.images, (test.labels + 1) % 10, test.classes)
    trained = []
    for held_out in (test, wrong, None):
        model = make_model()
        mv.train.fit(model, train, held_out, epochs=4, lr=1e-2, validation=0.2, keep=keep, **QUIET)
        trained.append(model)
    assert same_weights(trained[0], trained[1])
    assert same_weights(trained[0], trained[2])


def test_keep_best_keeps_the_best_of_validation(data):
    train, _ = data
    model = make_model()
    history = mv.train.fit(model, train, epochs=5, lr=0.1, validation=0.2, keep="best", optimizer="sgd", **QUIET)
    _, held_back = train.split(0.2, 0)
    accuracy = history.column("validation_accuracy")
    assert mv.train.evaluate(model, held_back)["accuracy"] == accuracy.max()
    assert accuracy.max() > accuracy[0] or accuracy.argmax() == 0


def test_ema_is_what_is_measured_and_what_remains(data):
    train, test = data
    plain, averaged = make_model(dropout=0.0), make_model(dropout=0.0)
    mv.train.fit(plain, train, test, epochs=2, lr=1e-2, **QUIET)
    history = mv.train.fit(averaged, train, test, epochs=2, lr=1e-2, ema=0.9, **QUIET)
    assert not same_weights(plain, averaged)
    assert mv.train.evaluate(averaged, test)["loss"] == history[-1]["test_loss"]


def test_a_step_by_hand(data):
    """One epoch of one batch is: the gradient of the loss, clipped, one step of AdamW at the schedule's rate."""
    train = data[0][:20]
    model, twin = Linear(), Linear()
    mv.train.fit(model, train, epochs=1, batch_size=20, shift=0, lr=0.1, clip_norm=0.01, label_smoothing=0.1, **QUIET)
    opt = mv.train.AdamW(twin.named_parameters(), lr=0.1, weight_decay=0.05)
    (images, labels, _), = mv.data.batches(train, 20, seed=0, epoch=0)
    mv.ops.cross_entropy(twin(images), labels, label_smoothing=0.1).backward()
    mv.train.clip_grad_norm(twin.parameters(), 0.01)
    opt.step()
    assert same_weights(model, twin)


def test_dropout_is_a_function_of_the_step(data):
    """A model that was called before, in training mode, draws nothing else for it."""
    train, _ = data
    fresh, used = make_model(), make_model()
    for _ in range(3):
        used(train.images[:4])
    for model in (fresh, used):
        mv.train.fit(model, train, epochs=1, **QUIET)
    assert same_weights(fresh, used)


def test_an_objective_of_ones_own(data):
    seen = []

    def objective(model, images, labels, indices, step):
        seen.append((step, len(indices)))
        np.testing.assert_array_equal(labels, data[0].labels[indices])
        logits = model(images)
        return mv.ops.cross_entropy(logits, labels) * 0.0, logits

    model = Linear()
    start = model.state_dict()["head.bias"]
    mv.train.fit(model, data[0], epochs=1, batch_size=64, objective=objective, **QUIET)
    assert seen == [(0, 64), (1, 64), (2, 64), (3, 8)]
    np.testing.assert_array_equal(model.state_dict()["head.bias"], start)


def test_float64_stays_float64(data):
    model = Linear().to(dtype="float64")
    mv.train.fit(model, data[0], data[1], epochs=1, ema=0.9, **QUIET)
    assert model.head.weight.dtype == np.float64


def test_on_the_other_device(standin, data):
    model, twin = make_model().to("cuda"), make_model()
    for m in (model, twin):
        mv.train.fit(m, data[0][:64], data[1], epochs=1, ema=0.9, **QUIET)
    assert model.device == "cuda"
    there, here = model.state_dict(), twin.state_dict()
    width = make_model().config.embed_dim
    for name, b in here.items():
        a = there[name]
        if name.endswith("qkv.bias"):  # that of the keys shifts all scores of a row: its gradient is 0, to rounding, and
            a, b = (np.delete(v, np.s_[width : 2 * width]) for v in (a, b))  # Adam makes steps of the rounding
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_step_waits_for_a_gpu_once(standin, data):
    """For its loss, the norm of its gradient and how many were right, together."""

    def waits(epochs):
        before = synchronizations()
        mv.train.fit(make_model().to("cuda"), data[0][:64], epochs=epochs, batch_size=16, ema=0.9, **QUIET)
        return synchronizations() - before

    assert waits(5) - waits(2) == 3 * 4


def test_it_runs_beside_the_main_thread(data):
    result = []
    thread = threading.Thread(target=lambda: result.append(mv.train.fit(Linear(), data[0], epochs=1, **QUIET)))
    thread.start()
    thread.join()
    assert len(result[0]) == 1


# ---- a loss that is no longer finite ----


class Breaks(Linear):
    """Takes the logarithm of a negative number from the third call on."""

    calls = 0

    def forward(self, x):
        logits = super().forward(x)
        self.calls += self.training
        return logits if self.calls < 3 else mv.ops.log(logits * 0.0 - 1.0)


def test_nan_names_epoch_step_operation_and_line(data):
    model = Breaks()
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 3: the loss is nan.*log at .*made a NaN"):
        mv.train.fit(model, data[0], epochs=2, batch_size=50, **QUIET)
    assert all(np.isfinite(a).all() for a in model.state_dict().values())
    assert all(p.grad is None for p in model.parameters())


def test_weights_that_overflow_are_taken_back(data):
    model = Linear()
    with pytest.raises(FloatingPointError, match="epoch 1, step"):
        mv.train.fit(model, data[0], epochs=2, lr=1e38, optimizer="sgd", clip_norm=None, warmup=0, **QUIET)
    assert all(np.isfinite(a).all() for a in model.state_dict().values())


def test_nan_in_the_gradient_alone(data):
    def objective(model, images, labels, indices, step):
        logits = model(images)
        root = mv.ops.sqrt(model.head.bias * 0.0).sum()  # 0, with an infinite derivative
        return mv.ops.cross_entropy(logits, labels) + root, logits

    with pytest.raises(FloatingPointError, match=r"gradient's norm is nan.*gradient of"):
        mv.train.fit(Linear(), data[0], epochs=1, objective=objective, **QUIET)


# ---- evaluate and predict ----


def test_predict_and_evaluate(data):
    _, test = data
    model = make_model(dropout=0.5)
    modes = [module.training for module in model.modules()]
    logits = mv.train.predict(model, test.images, batch_size=7)
    assert isinstance(logits, np.ndarray)
    assert logits.shape == (60, 10)
    np.testing.assert_allclose(logits, mv.train.predict(model, test.images), rtol=1e-4, atol=1e-5)  # no dropout
    assert modes == [module.training for module in model.modules()]
    assert mv.train.predict(model, test.images[:0]).shape == (0, 10)
    measured = mv.train.evaluate(model, test)
    assert measured["accuracy"] == np.mean(logits.argmax(1) == test.labels)
    assert measured["loss"] == pytest.approx(float(mv.ops.cross_entropy(logits, test.labels)), rel=1e-5)
    with pytest.raises(ValueError, match="no images"):
        mv.train.evaluate(model, test[:0])
    with pytest.raises(TypeError, match="Dataset"):
        mv.train.evaluate(model, test.images)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_of_which_none_is_the_highest(data, value):
    def model(images):
        logits = np.zeros((len(images), 10), np.float32)
        logits[1, 3] = value
        return logits

    with pytest.raises(FloatingPointError, match="NaN or infinite for 1 of 60 images"):
        mv.train.evaluate(model, data[1])


def test_predict_leaves_pixels_of_0_to_255_to_the_model(data):
    with pytest.raises(TypeError, match="uint8"):
        mv.train.predict(make_model(), (10 * data[1].images[:2]).astype("uint8"))


def test_data_of_other_classes_are_refused(data):
    train, test = data
    names = [f"digit {i}" for i in range(10)]
    named = mv.data.Dataset(train.images, train.labels, names)
    turned = mv.data.Dataset(test.images, 9 - test.labels, names[::-1])
    model = make_model()
    with pytest.raises(ValueError, match="test: its classes are digit 9, .* those that the model learned digit 0"):
        mv.train.fit(model, named, turned, epochs=1, progress=False)
    mv.train.fit(model, named, epochs=1, progress=False)
    assert model.classes == tuple(names)
    for f in (mv.train.evaluate, mv.attacks.robust_accuracy):
        with pytest.raises(ValueError, match="dataset: its classes are digit 9"):
            f(model, turned)
    mv.train.evaluate(model, test)  # mere numbers fit
    mv.attacks.robust_accuracy(model, (turned.images, turned.labels), eps=0)  # whose names nobody gave


def test_predict_restores_modes_after_an_error(data):
    model = make_model()
    with pytest.raises(ValueError):
        mv.train.predict(model, np.zeros((1, 9, 9, 1), np.float32))
    assert all(module.training for module in model.modules())


def test_any_callable_can_be_evaluated(data):
    net = Linear()
    assert mv.train.evaluate(lambda x: net(x), data[1]) == mv.train.evaluate(net, data[1])


# ---- what is said ----


def test_lines_where_nobody_watches(data, capsys):
    mv.train.fit(Linear(), data[0], data[1], epochs=2)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert re.match(r"epoch 1/2  train loss \d\.\d+ acc .*test loss .*img/s", lines[0])


def test_a_bar_on_a_terminal(data, capsys, monkeypatch):
    monkeypatch.setattr("minivit.train.progress._somebody_watches", lambda: True)
    mv.train.fit(Linear(), data[0], epochs=2)
    err = capsys.readouterr().err
    assert "epoch 2/2" in err
    assert "img/s" in err
    assert "8/8" in err


def test_plot_and_repr(data):
    history = mv.train.fit(Linear(), data[0], data[1], epochs=3, validation=0.1, **QUIET)
    loss, *_ = history.plot().axes
    assert any(np.array_equal(line.get_ydata(), history.column("test_loss")) for line in loss.lines)
    assert "3 epochs" in repr(history)
    assert "no epochs" in repr(mv.train.History())


# ---- bad arguments, before the first step ----


@pytest.mark.parametrize(("options", "message"), [
    ({"epochs": 0}, "epochs"), ({"batch_size": 0}, "batch_size"), ({"seed": -1}, "seed"), ({"lr": -1.0}, "lr"),
    ({"optimizer": "lion"}, "adamw"), ({"warmup": 1.0}, "warmup"), ({"validation": 1.0}, "validation"),
    ({"clip_norm": 0}, "clip_norm"), ({"shift": 8}, "shift"), ({"shift": 0.5}, "shift"), ({"ema": 1.5}, "decay"),
    ({"keep": "first"}, "keep"), ({"keep": "best"}, "validation"), ({"label_smoothing": 1.0}, "label_smoothing"),
    ({"checkpoint_every": -1}, "checkpoint_every"),
])
def test_bad_options(data, options, message):
    model = Linear()
    start = model.state_dict()["head.weight"]
    with pytest.raises((ValueError, TypeError), match=message):
        mv.train.fit(model, data[0], **QUIET, **options)
    np.testing.assert_array_equal(model.state_dict()["head.weight"], start)


def test_data_that_do_not_fit_the_model(data):
    train, test = data
    with pytest.raises(ValueError, match=r"labels reach 9, but the model has 7 classes.*num_classes=10"):
        mv.train.fit(Linear(classes=7), train, **QUIET)
    with pytest.raises(ValueError, match=r"8"):
        mv.train.fit(make_model(image_size=12), train, **QUIET)
    with pytest.raises(ValueError, match="test: its images"):
        mv.train.fit(Linear(), train, mv.data.Dataset(np.zeros((2, 9, 9, 1), np.float32), [0, 1]), **QUIET)
    with pytest.raises(TypeError, match="train: expected a Dataset"):
        mv.train.fit(Linear(), train.images, **QUIET)
    with pytest.raises(ValueError, match="train: has no images"):
        mv.train.fit(Linear(), train[:0], **QUIET)
    with pytest.raises(TypeError, match="Module"):
        mv.train.fit(lambda x: x, train, **QUIET)

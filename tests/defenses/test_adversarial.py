"""Adversarial training: it hardens, its attack is PGD, and the model that is given stays as it is."""

import os
import signal

import numpy as np
import pytest

import minivit as mv
from minivit.defenses import AdversarialCrossEntropy, adversarial_train
from tests.cupy_standin import synchronizations
from tests.train.small import Linear, digits, make_model

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def data():
    return digits(600)


class MLP(mv.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = mv.nn.Linear(64, 64), mv.nn.Linear(64, 10, seed=1)
        self.dropout = mv.nn.Dropout(0.1)

    def forward(self, images):
        x = mv.ops.relu(self.hidden(mv.ops.im2col(images, patch_size=8)[:, 0]))
        return self.head(self.dropout(x))


def robust(model, test):
    r = mv.attacks.pgd(model, test.images, test.labels, eps=0.15, steps=10)
    return 1 - r.success.mean()


def test_it_hardens_a_trained_model_and_leaves_that_one_alone(data):
    train, test = data
    model = MLP()
    mv.train.fit(model, train, epochs=10, lr=1e-2, shift=0, **QUIET)
    model.train()
    before = model.state_dict()
    hardened, history = adversarial_train(
        model, train, test, eps=0.15, epochs=8, lr=5e-3, shift=0, return_history=True, **QUIET
    )
    assert model.training
    assert all(np.array_equal(a, before[name]) for name, a in model.state_dict().items())
    assert not any(module.training for module in hardened.modules())
    assert isinstance(hardened, MLP)
    assert robust(model, test) < 0.3  # 0.18 to 0.23 with four seeds
    assert robust(hardened, test) > robust(model, test) + 0.25
    assert len(history) == 8
    again = adversarial_train(model, train, test, eps=0.15, epochs=8, lr=5e-3, shift=0, **QUIET)
    assert all(np.array_equal(a, b) for a, b in zip(again.state_dict().values(), hardened.state_dict().values()))


def test_from_scratch_on_natural_and_adversarial_images(data):
    train, test = data
    fresh = MLP()
    hardened = adversarial_train(
        fresh, train, test, eps=0.15, epochs=12, lr=1e-2, shift=0, natural_weight=0.5, eps_warmup=4, **QUIET
    )
    natural = MLP()
    mv.train.fit(natural, train, epochs=12, lr=1e-2, shift=0, **QUIET)
    assert robust(hardened, test) > robust(natural, test) + 0.2
    assert mv.train.evaluate(hardened, test)["accuracy"] > 0.8


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("step_size", [None, 0.03])
def test_its_attack_is_pgd(data, norm, step_size):
    train, _ = data
    eps = 2.0 if norm == "l1" else 0.1  # in a small l1 ball every start ends in the same few corners
    model = make_model(dropout=0.3)
    objective = AdversarialCrossEntropy(eps=eps, norm=norm, steps=3, step_size=step_size, seed=4)
    x, y, indices = train.images[:9], train.labels[:9], np.arange(9) * 7
    modes = [module.training for module in model.modules()]
    x_adv = objective.attack(model, x, y, indices, step=11)
    assert modes == [module.training for module in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    here = int(mv.backend.random.hash_bits(4, "adversarial training", 11))
    expected = mv.attacks.pgd(
        model, x, y, eps=eps, norm=norm, steps=3, step_size=step_size, keep="last", seed=here, index=indices
    )
    np.testing.assert_array_equal(x_adv, expected.x_adv)
    assert np.abs(x_adv - x).max() > 0.01
    other = objective.attack(model, x, y, indices, step=12)
    assert not np.array_equal(other, x_adv)


def test_eps_rises(data):
    train, _ = data
    model = Linear()
    objective = AdversarialCrossEntropy(eps=0.2, eps_warmup=10)
    for step, eps in ((0, 0.02), (4, 0.1), (9, 0.2), (50, 0.2)):
        x_adv = objective.attack(model, train.images[:20], train.labels[:20], np.arange(20), step)
        assert np.abs(x_adv - train.images[:20]).max() == pytest.approx(eps, rel=1e-5)


def test_the_mixture_is_the_weighted_sum(data):
    train, _ = data
    model = Linear()
    x, y, indices = train.images[:20], train.labels[:20], np.arange(20)
    mixed = AdversarialCrossEntropy(eps=0.2, natural_weight=0.25, label_smoothing=0.1)
    loss, logits = mixed(model, x, y, indices, 3)
    x_adv = mixed.attack(model, x, y, indices, 3)
    parts = [float(mv.ops.cross_entropy(model(images), y, label_smoothing=0.1)) for images in (x, x_adv)]
    assert parts[1] > parts[0]
    assert float(loss) == pytest.approx(0.25 * parts[0] + 0.75 * parts[1], rel=1e-5)
    np.testing.assert_allclose(logits.numpy(), model(x_adv).numpy(), rtol=1e-5, atol=1e-6)
    alone, _ = AdversarialCrossEntropy(eps=0.2, label_smoothing=0.1)(model, x, y, indices, 3)
    assert float(alone) == pytest.approx(parts[1], rel=1e-5)


def test_it_can_be_stopped_and_resumed(data, tmp_path, monkeypatch):
    train, test = data[0][:128], data[1]
    options = {"eps": 0.1, "steps": 2, "epochs": 3, "natural_weight": 0.5, "eps_warmup": 1, **QUIET}
    whole = adversarial_train(make_model(), train, test, **options)
    real = AdversarialCrossEntropy.attack

    def stopping(self, model, images, labels, indices, step):
        if step == 4:
            raise KeyError("the power went")
        return real(self, model, images, labels, indices, step)

    monkeypatch.setattr(AdversarialCrossEntropy, "attack", stopping)
    with pytest.raises(KeyError):
        adversarial_train(make_model(), train, test, run_dir=tmp_path, checkpoint_every=0, **options)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"training\.objective\.eps was 0\.1 and is 0\.2"):
        adversarial_train(make_model(), train, test, resume=tmp_path, **(options | {"eps": 0.2}))
    resumed = adversarial_train(make_model(), train, test, resume=tmp_path, **options)
    assert all(np.array_equal(a, b) for a, b in zip(resumed.state_dict().values(), whole.state_dict().values()))


@pytest.mark.parametrize("lr", [1e38, 3e38])
def test_a_divergence_under_attack_is_named(data, lr):
    options = {"lr": lr, "optimizer": "sgd", "weight_decay": 3e-38, "clip_norm": None, "warmup": 0, **QUIET}
    with pytest.raises(FloatingPointError, match=r"epoch 1, step \d+: the loss is (nan|inf)"):
        adversarial_train(Linear(), data[0], eps=0.1, steps=1, **options)


def test_on_the_other_device(standin, data):
    train, test = data[0][:64], data[1]
    options = {"eps": 0.1, "steps": 2, "epochs": 1, "natural_weight": 0.5, **QUIET}
    a = adversarial_train(Linear().to("cuda"), train, test, **options)
    b = adversarial_train(Linear(), train, test, **options)
    assert a.device == "cuda"
    np.testing.assert_allclose(a.state_dict()["head.weight"], b.state_dict()["head.weight"], rtol=1e-4, atol=1e-6)


def test_a_step_waits_for_a_gpu_twice(standin, data):
    """At the end of its attack, and at its own."""

    def waits(epochs, steps):
        before = synchronizations()
        options = {"eps": 0.1, "steps": steps, "epochs": epochs, "batch_size": 16, **QUIET}
        adversarial_train(make_model().to("cuda"), data[0][:64], natural_weight=0.5, **options)
        return synchronizations() - before

    assert waits(4, 1) - waits(2, 1) == waits(4, 3) - waits(2, 3) == 2 * 2 * 4


@pytest.mark.parametrize(("options", "message"), [
    ({"eps": -0.1}, "eps"), ({"eps": 8}, "eps"), ({"eps": float("nan")}, "eps"), ({"norm": "l3"}, "norm"),
    ({"steps": 0}, "steps"), ({"step_size": -1}, "step_size"), ({"natural_weight": 1}, "natural_weight"),
    ({"eps_warmup": 11}, "eps_warmup"), ({"objective": print}, "objective"), ({"batch_size": 0}, "batch_size"),
    ({"epoch": 3}, "epoch"), ({"natural_weight": "a"}, "natural_weight: expected a number"),
    ({"eps_warmup": "2"}, "eps_warmup: expected a number"), ({"epochs": 2.5}, "epochs: expected an integer"),
])
def test_bad_arguments(data, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        adversarial_train(Linear(), data[0], **(QUIET | {"eps": 0.1} | options))


@pytest.mark.parametrize(("options", "message"), [
    ({"eps": -0.1}, "eps"), ({"eps": 8}, "the range of a pixel"), ({"norm": "Linf"}, "did you mean 'linf'"),
    ({"steps": 0}, "steps"), ({"step_size": 0}, "step_size"), ({"natural_weight": -3.0}, "natural_weight"),
    ({"label_smoothing": 1.5}, "label_smoothing"), ({"eps_warmup": -1}, "eps_warmup"),
    ({"bounds": (1, 0)}, r"bounds: expected lo < hi, got \(1.0, 0.0\)"), ({"bounds": 1}, "bounds: expected two numbers"),
])
def test_an_objective_that_makes_no_sense_is_not_made(options, message):
    with pytest.raises(ValueError, match=message):
        mv.defenses.AdversarialCrossEntropy(**{"eps": 0.1} | options)


def test_what_is_refused_leaves_no_folder(data, tmp_path):
    with pytest.raises(ValueError, match="label_smoothing"):
        adversarial_train(Linear(), data[0], eps=0.1, label_smoothing=1.5, run_dir=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_or_no_data(data):
    with pytest.raises(TypeError, match="model"):
        adversarial_train(lambda x: x, data[0], eps=0.1)
    with pytest.raises(TypeError, match="train"):
        adversarial_train(Linear(), data[0].images, eps=0.1)


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C, with a run", "infinite"])
def test_what_was_trained_before_the_end_is_not_lost(data, tmp_path, monkeypatch, how):
    train, _ = data
    model, calls = MLP(), []
    before = model.state_dict()
    attack = AdversarialCrossEntropy.__call__

    def stopped(self, *args):
        calls.append(0)
        if len(calls) == 4 and how != "infinite":
            os.kill(os.getpid(), signal.SIGINT)
        return attack(self, *args)

    monkeypatch.setattr(AdversarialCrossEntropy, "__call__", stopped)
    options = {"lr": 1e30, "optimizer": "sgd", "clip_norm": None} if how == "infinite" else {"lr": 1e-2}
    if "run" in how:
        options["run_dir"] = tmp_path / "run"
    with np.errstate(all="ignore"), pytest.raises((mv.train.TrainingInterrupted, FloatingPointError)) as caught:
        adversarial_train(model, train, eps=0.1, steps=1, epochs=2, **options, **QUIET)
    trained = caught.value.model.state_dict()
    assert any(not np.array_equal(trained[name], before[name]) for name in before)
    assert all(np.array_equal(a, before[name]) for name, a in model.state_dict().items())
    assert ("the exception's `.model`" in str(caught.value)) == ("run" not in how)  # a run has it on disk
    if "run" in how:
        assert f"mv.defenses.adversarial_train(model, train, test, ..., resume={str(tmp_path / 'run')!r})" in str(caught.value)
        del options["run_dir"]
        adversarial_train(model, train, eps=0.1, steps=1, epochs=2, resume=tmp_path / "run", **options, **QUIET)


def test_the_best_on_natural_images_is_not_to_be_had(data):
    with pytest.raises(ValueError, match="keep: 'best' would select by the accuracy on natural images"):
        adversarial_train(MLP(), data[0], validation=0.2, keep="best", epochs=1, **QUIET)

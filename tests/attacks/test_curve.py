"""Robust accuracy against eps: its counts, its intervals, and what it hands to the attack."""

import functools
import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest

import minivit as mv
from minivit.attacks.curve import wilson
from tests.attacks.victims import binary, images, mlp

MODEL = mlp(3, 12)
X, _ = images(3, 40)
Y = MODEL(mv.Tensor(X)).numpy().argmax(axis=1)
Y[:4] = (Y[:4] + 1) % 3  # four that are wrong as they are
EPS = [0.05, 0.0, 0.2, 0.01, 0.1]


def test_accuracy_counts_what_every_attack_up_to_eps_leaves():
    curve = mv.attacks.robust_accuracy(MODEL, (X, Y), eps=EPS, steps=5, restarts=2, seed=3, batch_size=16)
    np.testing.assert_array_equal(curve.eps, EPS)
    fooled = np.zeros(40, bool)
    expected = {}
    for eps in sorted(EPS):
        fooled |= mv.attacks.pgd(MODEL, X, Y, eps=eps, steps=5, restarts=2, seed=3).success
        expected[eps] = 1 - fooled.mean()
    np.testing.assert_allclose(curve.accuracy, [expected[eps] for eps in EPS])
    assert curve.accuracy[1] == 0.9
    assert 0 < curve.accuracy[2] < curve.accuracy[0] < 0.9
    np.testing.assert_array_equal(curve.n, 40)
    np.testing.assert_array_equal(curve.smallest[:4], 0.0)
    np.testing.assert_array_equal(np.isinf(curve.smallest).mean(), curve.accuracy[2])
    assert (curve.norm, curve.attack, len(curve)) == ("linf", "pgd", 5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_curve_of_a_linear_model_is_its_distribution_of_radii(norm):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=8), rng.uniform(0.4, 0.6, (60, 8))
    b = -float(np.median(x @ w))
    margin = x @ w + b
    radius = np.abs(margin) / np.linalg.norm(w, {"linf": 1, "l2": 2, "l1": np.inf}[norm])
    eps = np.quantile(radius, [0.0, 0.2, 0.5, 0.9, 1.0]) * 1.0001
    curve = mv.attacks.robust_accuracy(binary(w, b), (x, (margin < 0).astype(int)), "fgsm", eps, norm)
    np.testing.assert_allclose(curve.accuracy, [(radius > e).mean() for e in eps])


def test_an_attack_of_ones_own_gets_the_keywords_it_takes():
    calls = []

    def plain(model, x, y, eps):
        calls.append((len(x), eps))
        return SimpleNamespace(success=np.arange(len(x)) < 3)

    def full(model, x, y, *, eps, **keywords):
        calls.append(keywords)
        return SimpleNamespace(success=np.zeros(len(x), bool))

    curve = mv.attacks.robust_accuracy(MODEL, SimpleNamespace(images=X, labels=Y), plain, [0.2, 0.1])
    assert calls == [(36, 0.1), (33, 0.2)]  # ascending, and only what still stands
    np.testing.assert_allclose(curve.accuracy, [30 / 40, 33 / 40])
    assert curve.attack == "plain"
    calls.clear()
    mv.attacks.robust_accuracy(MODEL, (X, Y), full, 0.1, "l2", bounds=(0, 2), seed=5, batch_size=7, limit=6, extra=1)
    (keywords,) = calls
    np.testing.assert_array_equal(keywords.pop("index"), [4, 5])
    assert keywords == {"norm": "l2", "bounds": (0, 2), "seed": 5, "batch_size": 7, "extra": 1}


def test_what_a_partial_has_bound_stays():
    seeds = []

    def attack(model, x, y, *, eps, seed, **keywords):
        seeds.append(seed)
        return SimpleNamespace(success=np.zeros(len(x), bool))

    for seed in (7, 8):
        mv.attacks.robust_accuracy(MODEL, (X, Y), functools.partial(attack, seed=seed), 0.1)
    assert seeds == [7, 8]
    with pytest.raises(ValueError, match="attack: eps is bound in it"):
        mv.attacks.robust_accuracy(MODEL, (X, Y), functools.partial(attack, eps=0.3), 0.1)


def test_a_partial_says_the_norm_and_bounds_that_the_radii_are_in():
    weak = functools.partial(mv.attacks.pgd, norm="l2", bounds=(0, 3), steps=1)
    curve = mv.attacks.robust_accuracy(MODEL, (X, Y), weak, [0.1, 2.0])
    assert (curve.norm, curve.attack) == ("l2", "pgd")
    same = mv.attacks.robust_accuracy(MODEL, (X, Y), "pgd", [0.1, 2.0], "l2", bounds=(0, 3), steps=1)
    np.testing.assert_array_equal(curve.smallest, same.smallest)
    for name, value in (("targets", Y), ("index", np.arange(40))):
        with pytest.raises(ValueError, match=name):
            mv.attacks.robust_accuracy(MODEL, (X, Y), functools.partial(mv.attacks.pgd, **{name: value}), 0.1)


@pytest.mark.parametrize("success", [lambda n: np.zeros(n, int), lambda n: np.zeros(n - 1, bool), lambda n: [0.0] * n])
def test_success_that_is_no_bool_for_each_image_is_refused(success):
    def attack(model, x, y, *, eps):
        return SimpleNamespace(success=np.asarray(success(len(x))))

    with pytest.raises(TypeError, match=r"attack: expected 36 bools in the \.success of what attack returns, got"):
        mv.attacks.robust_accuracy(MODEL, (X, Y), attack, 0.1)


def test_nothing_is_attacked_where_nothing_stands():
    wrong = (MODEL(mv.Tensor(X)).numpy().argmax(axis=1) + 1) % 3
    curve = mv.attacks.robust_accuracy(MODEL, (X, wrong), lambda *_, **__: pytest.fail("called"), [0.1, 0.2])
    np.testing.assert_array_equal(curve.accuracy, 0.0)


def test_limit_and_data_sets():
    data = mv.data.Dataset(X.astype("float32"), Y)
    curve = mv.attacks.robust_accuracy(MODEL, data, eps=[0], limit=10)
    assert (curve.accuracy[0], curve.n[0]) == (0.6, 10)
    curve = mv.attacks.robust_accuracy(MODEL, (mv.Tensor(X), mv.Tensor(Y)), eps=[0, 0.1], limit=10)
    np.testing.assert_array_equal(curve.accuracy, mv.attacks.robust_accuracy(MODEL, (X, Y), eps=[0, 0.1], limit=10).accuracy)


def test_wilson_interval():
    low, high = wilson(np.array([0.0, 0.5, 1.0]), 10)
    # the bounds are the p at which the share lies 1.96 standard deviations of p away
    for share, p in ((0.5, low[1]), (0.5, high[1]), (0.0, high[0]), (1.0, low[2])):
        assert abs(share - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 10), rel=1e-6)
    assert low[0] == 0
    assert high[2] == 1


def test_repr_is_a_table():
    lines = repr(mv.attacks.robust_accuracy(MODEL, (X, Y), eps=EPS, steps=2)).splitlines()
    assert lines[0] == "robust accuracy, pgd, linf, 40 images"
    assert lines[3].split()[:2] == ["0.0000", "90.00"]
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"attack": "pdg"}, ValueError, "attack: got 'pdg', expected one of 'fgsm', 'pgd'; did you mean 'pgd'"),
        ({"attack": 3}, TypeError, "attack: expected a name"),
        ({"eps": []}, ValueError, "eps: expected a number or a list"),
        ({"eps": [0, 8]}, ValueError, "eps: got 8, beyond"),
        ({"eps": [0.1, -0.1]}, ValueError, "eps: expected a radius >= 0"),
        ({"norm": "l3"}, ValueError, "norm: got 'l3'"),
        ({"limit": 0}, ValueError, "limit: expected an integer of at least 1"),
        ({"dataset": (X[:0], Y[:0])}, ValueError, "dataset: it has no images"),
        ({"targets": Y}, ValueError, "targets: robust accuracy is about any wrong answer"),
        ({"dataset": (X, Y + 3), "eps": 0}, ValueError, "y: image . has label"),
        ({"stepz": 3}, TypeError, "stepz"),
    ],
)
def test_bad_input(change, error, text):
    with pytest.raises(error, match=text):
        mv.attacks.robust_accuracy(**{"model": MODEL, "dataset": (X, Y), "eps": [0.1], **change})


def test_every_named_attack_exists_and_has_the_common_arguments():
    for name in mv.attacks.names():
        takes = list(inspect.signature(getattr(mv.attacks, name)).parameters)
        assert takes[:5] == ["model", "x", "y", "eps", "norm"]
        assert {"targets", "bounds", "batch_size"} <= set(takes)

"""What holds for every attack on every model: properties over random models, images, labels, norms and radii."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minivit as mv
from minivit.attacks.loss import input_gradient, objective
from minivit.attacks.norms import NORMS, diameter
from minivit.attacks.pgd import iterates
from tests.attacks.victims import images, linear, mlp

D = 12
seeds = st.integers(0, 10_000)
norms = st.sampled_from(NORMS)
keeps = st.sampled_from(["best", "last"])
few = settings(max_examples=40)


@st.composite
def cases(draw):
    """(model, x, y, a random attack, its keywords)."""
    seed, dtype, norm = draw(seeds), draw(st.sampled_from(["float32", "float64"])), draw(norms)
    x, y = images(seed, draw(st.sampled_from([1, 2, 5])), dtype=dtype)
    share = draw(st.sampled_from([0.0, 0.01, 0.1, 0.4, 1.0]))
    keywords = {"eps": share * diameter(D, norm, (0.0, 1.0)), "norm": norm}
    if draw(st.booleans()):
        keywords["targets"] = (y + 1) % 3
    name = draw(st.sampled_from(["fgsm", "pgd"]))
    if name == "pgd":
        keywords |= {
            "steps": draw(st.sampled_from([1, 4])),
            "random_start": draw(st.booleans()),
            "restarts": draw(st.sampled_from([1, 2])),
            "keep": draw(keeps),
            "seed": seed,
            "batch_size": draw(st.sampled_from([2, 256])),
        }
    return mlp(seed, D, dtype=dtype), x, y, getattr(mv.attacks, name), keywords


@few
@given(cases())
def test_an_attack_stays_within_its_limits_and_tells_the_truth(case):
    model, x, y, attack, keywords = case
    x_before, y_before, state = x.tobytes(), y.tobytes(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    r = attack(model, x, y, **keywords)
    again = attack(model, x, y, **keywords)

    assert (x.tobytes(), y.tobytes()) == (x_before, y_before)
    assert np.random.get_state()[1].tobytes() == state  # noqa: NPY002
    assert (r.x_adv.shape, r.x_adv.dtype) == (x.shape, x.dtype)
    assert not np.shares_memory(r.x_adv, x)
    assert np.isfinite(r.x_adv).all()
    assert r.x_adv.min() >= 0
    assert r.x_adv.max() <= 1
    delta = (r.x_adv - x).reshape(len(x), -1)
    for norm, order in (("linf", np.inf), ("l2", 2), ("l1", 1)):
        np.testing.assert_allclose(r.distance[norm], np.linalg.norm(delta, order, axis=1), rtol=1e-5, atol=1e-7)
    assert r.distance[r.norm].max() <= r.eps * (1 + 1e-5) + 1e-6
    if r.eps == 0:
        np.testing.assert_array_equal(r.x_adv, x)
    # one image, asked for again, whatever happened during the attack
    fresh = model(mv.Tensor(r.x_adv)).numpy()
    targets = keywords.get("targets")
    expected = fresh.argmax(axis=1) != y if targets is None else fresh.argmax(axis=1) == targets
    np.testing.assert_array_equal(r.success, expected)
    np.testing.assert_array_equal(r.prediction_adv, fresh.argmax(axis=1))
    np.testing.assert_array_equal(r.prediction, model(mv.Tensor(x)).numpy().argmax(axis=1))
    loss = mv.ops.cross_entropy(fresh, y if targets is None else targets, reduction="none")
    np.testing.assert_allclose(r.loss, loss if targets is None else -loss, rtol=1e-4, atol=1e-6)

    assert r.x_adv.tobytes() == again.x_adv.tobytes()
    for name in ("success", "loss", "prediction", "prediction_adv"):
        np.testing.assert_array_equal(getattr(r, name), getattr(again, name))


@few
@given(seeds, norms, keeps)
def test_an_image_meets_the_same_attack_in_any_order_batch_and_company(seed, norm, keep):
    model = mlp(seed, D)
    x, y = images(seed, 7)
    keywords = {"eps": 0.05 * diameter(D, norm, (0, 1)), "norm": norm, "steps": 4, "restarts": 2, "keep": keep, "seed": seed}
    whole = mv.attacks.pgd(model, x, y, **keywords)
    order = np.random.default_rng(seed).permutation(7)[:5]
    part = mv.attacks.pgd(model, x[order], y[order], **keywords, index=order, batch_size=2)
    np.testing.assert_allclose(part.x_adv, whole.x_adv[order], atol=1e-9)
    np.testing.assert_allclose(part.loss, whole.loss[order], atol=1e-8)
    twins = mv.attacks.pgd(model, x[[3, 3]], y[[3, 3]], **keywords, index=[6, 6])
    np.testing.assert_allclose(twins.x_adv[0], twins.x_adv[1], atol=1e-9)


def test_seed_and_index_change_the_start():
    model = mlp(0, D)
    x, y = images(0, 3)
    base = {"eps": 0.1, "steps": 1, "step_size": 0.0, "keep": "last"}
    a = mv.attacks.pgd(model, x, y, **base)
    assert not np.array_equal(a.x_adv, mv.attacks.pgd(model, x, y, **base, seed=1).x_adv)
    assert not np.array_equal(a.x_adv, mv.attacks.pgd(model, x, y, **base, index=[3, 4, 5]).x_adv)
    by_generator = [mv.attacks.pgd(model, x, y, **base, seed=np.random.default_rng(5)).x_adv for _ in range(2)]
    np.testing.assert_array_equal(*by_generator)


def test_each_restart_begins_elsewhere_and_without_a_random_start_there_is_one():
    model = mlp(0, D)
    x, y = images(0, 3)
    r = mv.attacks.pgd(model, x, y, eps=0.1, steps=2, restarts=3)
    assert r.history.shape == (3, 3)
    assert len(np.unique(r.history[:, 0])) == 3
    r = mv.attacks.pgd(model, x, y, eps=0.1, steps=2, restarts=3, random_start=False)
    assert r.history.shape == (1, 3)


@few
@given(seeds, norms, st.booleans())
def test_keep_best_is_the_best_of_all_that_was_seen(seed, norm, targeted):
    """Against the iterates themselves: success first, then the higher loss, x among the candidates."""
    model = mlp(seed, D)
    x, y = images(seed, 4)
    eps = 0.08 * diameter(D, norm, (0, 1))
    targets = (y + 1) % 3 if targeted else None
    options = {"eps": eps, "norm": norm, "step_size": 0.7 * eps}  # long steps, so that the last is often not the best
    r = mv.attacks.pgd(model, x, y, steps=5, random_start=False, targets=targets, **options)
    walk = list(iterates(model, x, y, x, steps=5, targets=targets, bounds=(0, 1), **options))
    assert len(walk) == 6
    for i in range(4):
        goal = [(logits[i].argmax() == targets[i]) if targeted else (logits[i].argmax() != y[i]) for _, _, logits in walk]
        best = max(range(6), key=lambda t: (goal[t], walk[t][1][i]))  # noqa: B023
        np.testing.assert_allclose(r.x_adv[i], walk[best][0][i], atol=1e-12)
        assert r.success[i] == goal[best]
    last = mv.attacks.pgd(model, x, y, steps=5, random_start=False, targets=targets, keep="last", **options)
    np.testing.assert_array_equal(last.x_adv, walk[-1][0])
    np.testing.assert_allclose(last.history[0], [loss.mean() for _, loss, _ in walk], rtol=1e-12)
    best, last = (mv.attacks.pgd(model, x, y, steps=5, seed=seed, targets=targets, keep=k, **options) for k in ("best", "last"))
    np.testing.assert_array_equal(best.history, last.history)  # the same walk from a random start
    np.testing.assert_array_equal(best.prediction, r.prediction)
    np.testing.assert_allclose(last.loss.mean(), last.history[0, -1], rtol=1e-9)  # x, though it may be better, is no candidate


@few
@given(seeds, norms)
def test_more_work_never_gives_a_worse_image(seed, norm):
    """Steps and restarts of one seed are a prefix of more of them, and x itself is a candidate."""
    model = mlp(seed, D)
    x, y = images(seed, 4)
    eps = 0.05 * diameter(D, norm, (0, 1))

    def worth(**more):
        r = mv.attacks.pgd(model, x, y, eps=eps, norm=norm, step_size=0.4 * eps, **more)
        return 1000.0 * r.success + r.loss

    clean = 1000.0 * (model(mv.Tensor(x)).numpy().argmax(axis=1) != y)
    clean = clean + mv.ops.cross_entropy(model(mv.Tensor(x)).numpy(), y, reduction="none")
    for less, more in (
        (clean, worth(steps=1)),
        (worth(steps=2), worth(steps=4)),
        (worth(steps=2), worth(steps=2, restarts=3)),
    ):
        assert (more >= less - 1e-9).all()


@few
@given(seeds, norms, st.booleans())
def test_one_step_of_pgd_without_a_random_start_is_fgsm(seed, norm, targeted):
    model = mlp(seed, D)
    x, y = images(seed, 3)
    eps = 0.1 * diameter(D, norm, (0, 1))
    keywords = {"eps": eps, "norm": norm, "targets": (y + 1) % 3 if targeted else None}
    fgsm = mv.attacks.fgsm(model, x, y, **keywords)
    pgd = mv.attacks.pgd(model, x, y, steps=1, step_size=eps, random_start=False, keep="last", **keywords)
    np.testing.assert_allclose(pgd.x_adv, fgsm.x_adv, rtol=0, atol=1e-12)


@few
@given(seeds)
def test_fgsm_is_the_formula(seed):
    """x + eps sign(dl/dx), with the gradient of the cross-entropy itself; towards a target minus."""
    model = mlp(seed, D)
    x, y = images(seed, 3)
    t = (y + 2) % 3
    for labels, sign, targets in ((y, 1, None), (t, -1, t)):
        images_ = mv.Tensor(x, requires_grad=True)
        (g,) = mv.grad(mv.ops.cross_entropy(model(images_), labels, reduction="sum"), [images_])
        expected = np.clip(x + sign * 0.1 * np.sign(g.numpy()), 0, 1)
        np.testing.assert_array_equal(mv.attacks.fgsm(model, x, y, eps=0.1, targets=targets).x_adv, expected)


@few
@given(seeds, norms)
def test_what_does_not_change_the_classifier_does_not_change_the_attack(seed, norm):
    rng = np.random.default_rng(seed)
    x, y = images(seed, 4)
    model = mlp(seed, D)
    keywords = {"eps": 0.05 * diameter(D, norm, (0, 1)), "norm": norm, "steps": 3, "restarts": 2}
    r = mv.attacks.pgd(model, x, y, **keywords)

    shifted = mv.attacks.pgd(lambda v: model(v) + 3.0, x, y, **keywords)
    np.testing.assert_allclose(shifted.x_adv, r.x_adv, atol=1e-9)

    order = rng.permutation(3)  # class c is called order.index(c) now
    renamed = mv.attacks.pgd(lambda v: model(v)[:, order], x, np.argsort(order)[y], **keywords)
    np.testing.assert_allclose(renamed.x_adv, r.x_adv, atol=1e-9)

    two = linear(rng.normal(size=(D, 2)), np.zeros(2))
    stretched = mv.attacks.pgd(lambda v: two(v) * 7.0, x, y % 2, **keywords)
    np.testing.assert_allclose(stretched.x_adv, mv.attacks.pgd(two, x, y % 2, **keywords).x_adv, atol=1e-9)

    mirrored = mv.attacks.pgd(lambda v: model(1.0 - v), 1.0 - x, y, random_start=False, **keywords)
    straight = mv.attacks.pgd(model, x, y, random_start=False, **keywords)
    np.testing.assert_allclose(1.0 - mirrored.x_adv, straight.x_adv, atol=1e-9)


# ---- the loss and its direction ----


@few
@given(seeds, st.booleans())
def test_objective_is_the_cross_entropy_and_its_direction_the_gradient(seed, targeted):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(5, 4)) * 10 ** rng.uniform(-1, 1)
    y = rng.integers(0, 4, 5)
    logits = mv.Tensor(z, requires_grad=True)
    losses = mv.ops.cross_entropy(logits, y, reduction="none")
    (g,) = mv.grad(losses.sum(), [logits])
    sign = -1 if targeted else 1
    found, direction = objective(z, (y + 1) % 4, y) if targeted else objective(z, y)
    np.testing.assert_allclose(found, sign * losses.numpy(), rtol=1e-9, atol=1e-13)
    p = mv.ops.softmax(z)[np.arange(5), y]
    np.testing.assert_allclose(direction * (1 - p)[:, None], sign * g.numpy(), rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("norm", NORMS)
def test_large_logits_do_not_hide_the_gradient(norm):
    """In float32 the probability of a class that leads by 17 is 1, and the gradient of the cross-entropy is 0."""
    x, _ = images(0, 6, dtype="float32")
    w = np.random.default_rng(0).normal(size=(D, 3)).astype("float32")
    y = (x.reshape(6, D) @ w).argmax(axis=1)
    keywords = {"eps": 0.15 * diameter(D, norm, (0, 1)), "norm": norm, "random_start": False}
    small = mv.attacks.pgd(linear(w, 0.0), x, y, **keywords)
    large = mv.attacks.pgd(linear(w * 300, 0.0), x, y, **keywords)
    assert small.success.all()
    assert large.success.all()


def test_loss_of_a_certain_model_is_not_rounded_to_zero():
    loss, _ = objective(np.array([[40.0, 0.0, 0.0]], "float32"), np.array([0]))
    assert loss[0] == pytest.approx(2 * np.exp(-40.0), rel=1e-12)
    loss, _ = objective(np.array([[0.0, 1000.0]]), np.array([0]))
    assert loss[0] == 1000.0


def test_gradients_of_images_are_summed_not_averaged():
    model = mlp(1, D)
    x, y = images(1, 4)
    _, _, g = input_gradient(model, x, y)
    _, _, g0 = input_gradient(model, x[:1], y[:1])
    np.testing.assert_allclose(g[:1], g0, rtol=1e-12)


# ---- sizes and shapes ----


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("shape", [(12,), (4, 3), (2, 3, 2), (1, 2, 3, 2)])
def test_any_number_of_images_of_any_shape(shape, n, norm):
    x, y = images(2, n, shape)
    calls = []

    def model(v):
        calls.append(v.shape)
        return mlp(2, D)(v)

    for r in (
        mv.attacks.fgsm(model, x, y, eps=0.1, norm=norm, batch_size=2),
        mv.attacks.pgd(model, x, y, eps=0.1, norm=norm, steps=2, batch_size=2),
    ):
        assert r.x_adv.shape == x.shape
        assert r.success.shape == r.loss.shape == r.prediction.shape == r.prediction_adv.shape == (n,)
        assert len(r) == n
        assert f"{r.success.sum()} of {n} misclassified" in repr(r)
    assert all(s[0] > 0 for s in calls)


def test_images_that_are_all_misclassified_count_as_fooled_and_are_still_made_worse():
    model = mlp(0, D)
    x, _ = images(0, 4)
    y = model(mv.Tensor(x)).numpy().argmin(axis=1)
    r = mv.attacks.pgd(model, x, y, eps=0.1)
    assert r.success.all()
    assert (r.loss > mv.ops.cross_entropy(model(mv.Tensor(x)).numpy(), y, reduction="none")).all()


def test_other_bounds():
    model = mlp(0, D)
    x, y = images(0, 4)
    there = mv.attacks.pgd(lambda v: model((v + 1.0) / 2.0), 2 * x - 1, y, eps=0.2, bounds=(-1, 1))
    here = mv.attacks.pgd(model, x, y, eps=0.1)
    np.testing.assert_allclose((there.x_adv + 1) / 2, here.x_adv, atol=1e-9)


def test_labels_and_images_may_be_lists_tensors_and_views():
    model = mlp(0, D)
    x, y = images(0, 4)
    expected = mv.attacks.fgsm(model, x, y, eps=0.1).x_adv
    np.testing.assert_array_equal(mv.attacks.fgsm(model, x.tolist(), y.tolist(), eps=0.1).x_adv, expected)
    np.testing.assert_array_equal(mv.attacks.fgsm(model, mv.Tensor(x), mv.Tensor(y), eps=0.1).x_adv, expected)
    wide = np.repeat(x, 2, axis=2)[:, :, ::2]
    np.testing.assert_array_equal(mv.attacks.fgsm(model, wide, y.astype("uint8"), eps=0.1).x_adv, expected)


def test_progress_bar_counts_every_pass(monkeypatch):
    import tqdm.auto

    bars = []

    class Bar(tqdm.std.tqdm):
        def __init__(self, **keywords):
            super().__init__(**keywords, file=open("/dev/null", "w"))  # noqa: SIM115
            bars.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    x, y = images(0, 5)
    mv.attacks.pgd(mlp(0, D), x, y, eps=0.1, steps=3, restarts=2, batch_size=2, progress=True)
    assert bars[0].total == bars[0].n == 3 * 2 * 4
    mv.attacks.pgd(mlp(0, D), x, y, eps=0.1, steps=3)
    assert len(bars) == 1

"""A linear classifier's least perturbation is known: margin / dual norm of w. An attack succeeds exactly beyond it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minivit as mv
from minivit.attacks.norms import NORMS
from tests.attacks.victims import binary

few = settings(max_examples=30)
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
FAR = (-100.0, 100.0)  # a box that is never met


def problem(seed, d=8, n=6):
    rng = np.random.default_rng(seed)
    w, b = rng.normal(size=d), rng.normal()
    x = rng.normal(size=(n, d))
    margin = x @ w + b
    return w, b, x, (margin < 0).astype(int), np.abs(margin)


@few
@given(st.integers(0, 10_000), st.sampled_from(NORMS), st.sampled_from([1.0, 1e3]))
def test_attacks_succeed_exactly_beyond_the_least_radius(seed, norm, scale):
    w, b, x, y, margin = problem(seed)
    model = binary(w, b, scale)
    radius = margin / np.linalg.norm(w, DUAL[norm])
    for i in range(len(x)):
        for factor, fooled in ((1 - 1e-6, False), (1 + 1e-6, True)):
            keywords = {"eps": radius[i] * factor, "norm": norm, "bounds": FAR}
            one = x[i : i + 1], y[i : i + 1]
            assert mv.attacks.fgsm(model, *one, **keywords).success == fooled
            assert mv.attacks.pgd(model, *one, **keywords, steps=7, random_start=False).success == fooled
            r = mv.attacks.pgd(model, *one, **keywords, steps=7, random_start=False, targets=1 - one[1])
            assert r.success == fooled


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_end_at_the_least_radius_too(norm):
    w, b, x, y, margin = problem(1, n=20)
    radius = margin / np.linalg.norm(w, DUAL[norm])
    for i in range(len(x)):
        for factor, fooled in ((1 - 1e-6, False), (1.02, True)):
            eps = radius[i] * factor
            keywords = {"eps": eps, "norm": norm, "bounds": FAR, "steps": 60, "step_size": 0.3 * eps, "index": [i]}
            assert mv.attacks.pgd(binary(w, b), x[i : i + 1], y[i : i + 1], **keywords).success == fooled


@few
@given(st.integers(0, 10_000))
def test_with_the_box_in_the_way_pgd_in_linf_reaches_the_optimum(seed):
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=8), rng.random((5, 8))
    model, y, eps = binary(w, 0.0), np.zeros(5, int), 0.4
    best = np.where(w > 0, np.maximum(x - eps, 0.0), np.minimum(x + eps, 1.0))  # lowers w.x as far as it can be
    for r in (
        mv.attacks.fgsm(model, x, y, eps=eps),
        mv.attacks.pgd(model, x, y, eps=eps, steps=10, seed=seed, keep="last"),
    ):
        np.testing.assert_allclose(r.x_adv, best, atol=1e-12)


@few
@given(st.integers(0, 10_000))
def test_with_the_box_in_the_way_pgd_in_l2_reaches_the_optimum(seed):
    """Steps along the gradient and true projections solve a linear problem on ball and box; clipping instead does not."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=8), rng.random((5, 8))
    eps = 0.7
    r = mv.attacks.pgd(binary(w, 0.0), x, np.zeros(5, int), eps=eps, norm="l2", steps=60, step_size=0.6, seed=seed)
    for i in range(5):
        least, most = 0.0, 1e4  # the optimum is clip(-s w), with s so large that its length is eps
        for _ in range(200):
            middle = (least + most) / 2
            short = np.linalg.norm(np.clip(-middle * w, -x[i], 1 - x[i])) < eps
            least, most = (middle, most) if short else (least, middle)
        best = np.clip(-most * w, -x[i], 1 - x[i]) @ w
        assert (r.x_adv[i] - x[i]) @ w == pytest.approx(best, rel=1e-4)

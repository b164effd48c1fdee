"""Distances, steepest steps, projections and random starts, against slow and independent ways to the same."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivit.attacks.norms import NORMS, distance, project, random_start, steepest

seeds = st.integers(0, 10_000)
norms = st.sampled_from(NORMS)


def problem(seed, spread=1.0, n=3, dtype="float64", bounds=(0.0, 1.0)):
    """(anywhere z, centers x, a radius): some pixels at their bounds, ties, and sizes over many orders."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 9))
    lo, hi = bounds
    x = lo + (hi - lo) * np.clip(rng.normal(0.5, 0.4, (n, d)), 0, 1)
    z = x + rng.normal(size=(n, d)) * spread * 10 ** rng.uniform(-2, 0.5)
    z[rng.random(z.shape) < 0.2] = z[0, 0]
    z = np.where(rng.random(z.shape) < 0.2, x, z)
    return z.astype(dtype), x.astype(dtype), float(10 ** rng.uniform(-2, 0.3))


def norm_of(delta, norm):
    return np.linalg.norm(delta, {"linf": np.inf, "l2": 2, "l1": 1}[norm])


def by_bisection(z, x, eps, norm, bounds):
    """One image's projection: halve the interval of the multiplier 200 times."""
    v, lo, hi = z - x, bounds[0] - x, bounds[1] - x

    def change(multiplier):
        if norm == "l2":
            return np.clip(v / (1 + multiplier), lo, hi)
        if norm == "l1":
            return np.clip(np.sign(v) * np.maximum(np.abs(v) - multiplier, 0), lo, hi)
        return np.clip(np.clip(v, -eps, eps), lo, hi)

    if norm == "linf" or norm_of(change(0.0), norm) <= eps:
        return x + change(0.0)
    least, most = 0.0, 1.0
    while norm_of(change(most), norm) > eps:
        most *= 2
    for _ in range(200):
        middle = (least + most) / 2
        least, most = (middle, most) if norm_of(change(middle), norm) > eps else (least, middle)
    return x + change(most)


@given(seeds, norms)
def test_projection_agrees_with_bisection(seed, norm):
    z, x, eps = problem(seed)
    expected = np.array([by_bisection(*pair, eps, norm, (0.0, 1.0)) for pair in zip(z, x)])
    np.testing.assert_allclose(project(z, x, eps, norm), expected, rtol=0, atol=1e-9)


@given(seeds, norms)
def test_projection_is_the_nearest_of_all_allowed_points(seed, norm):
    z, x, eps = problem(seed, n=1)
    p = project(z, x, eps, norm)
    rng = np.random.default_rng(seed)
    others = x + rng.normal(size=(400, x.shape[1])) * eps
    others = np.clip(others, 0, 1)
    sizes = np.array([norm_of(delta, norm) for delta in others - x])[:, None]
    others = x + (others - x) * np.minimum(1, eps / np.maximum(sizes, 1e-300))  # allowed: shrinking stays in the box
    # of a convex set, p is the nearest point to z exactly if z - p makes no acute angle with any way into the set
    assert ((others - p) @ (z - p)[0]).max() <= 1e-9


@given(seeds, norms, st.sampled_from(["float32", "float64"]))
def test_projection_is_allowed_idempotent_and_leaves_what_is_inside(seed, norm, dtype):
    z, x, eps = problem(seed, dtype=dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    p = project(z, x, eps, norm)
    assert p.dtype == dtype
    assert p.min() >= 0
    assert p.max() <= 1
    assert distance(p, x, norm).max() <= eps * (1 + tolerance) + tolerance
    np.testing.assert_allclose(project(p, x, eps, norm), p, rtol=0, atol=tolerance)
    inside = x + (p - x) * np.asarray(0.9, dtype)
    np.testing.assert_allclose(project(inside, x, eps, norm), inside, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(project(z, x, 0.0, norm), x)


@given(seeds, norms)
def test_projection_brings_no_two_points_further_apart(seed, norm):
    z, x, eps = problem(seed)
    other = z + np.random.default_rng(seed).normal(size=z.shape)
    before = np.linalg.norm(z - other, axis=1)
    after = np.linalg.norm(project(z, x, eps, norm) - project(other, x, eps, norm), axis=1)
    assert (after <= before + 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_projection_without_a_box_and_with_another(norm):
    z, x, eps = problem(3, spread=3, bounds=(-2.0, 5.0))
    for bounds in ((-2.0, 5.0), (-math.inf, math.inf)):
        expected = np.array([by_bisection(*pair, eps, norm, bounds) for pair in zip(z, x)])
        np.testing.assert_allclose(project(z, x, eps, norm, bounds), expected, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_of_no_images_and_of_images_as_images(norm):
    assert project(np.zeros((0, 2, 2, 1)), np.zeros((0, 2, 2, 1)), 0.1, norm).shape == (0, 2, 2, 1)
    z, x, eps = problem(5, n=4)
    shape = (4, 1, x.shape[1], 1)
    np.testing.assert_array_equal(
        project(z.reshape(shape), x.reshape(shape), eps, norm), project(z, x, eps, norm).reshape(shape)
    )


def test_projection_where_the_stopped_pixels_use_up_the_radius_to_the_last_bit():
    """What is left for the others is then 0 but for rounding, which may be negative."""
    rng = np.random.default_rng(0)
    room = rng.random((20_000, 6))
    room *= 0.5 / np.linalg.norm(room[:, :5], axis=1, keepdims=True)
    x = 1 - np.minimum(room, 1.0)
    v = room * rng.uniform(5, 10, room.shape)
    v[:, 5] = 1e-12
    p = project(x + v, x, 0.5, "l2")  # a warning, of the root of a negative number, is an error here
    np.testing.assert_allclose(p[:, :5], 1.0, atol=1e-6)
    assert distance(p, x, "l2").max() <= 0.5 + 1e-14


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"norm": "Linf"}, ValueError, "norm: got 'Linf', expected one of 'linf', 'l2', 'l1'"),
    ({"eps": -0.1}, ValueError, "eps: expected a radius"), ({"eps": np.nan}, ValueError, "eps: expected a radius"),
    ({"z": np.zeros((3, 4))}, ValueError, r"z: got shape \(3, 4\), expected that of x"),
    ({"x": np.zeros((2, 4), np.uint8)}, TypeError, "x: expected an array of floats, got uint8"),  # 0 - 1 would be 255
    ({"z": np.zeros((2, 4), int)}, TypeError, "z: expected an array of floats"),
])
def test_projection_on_nothing_that_is_meant(change, error, message):
    with pytest.raises(error, match=message):
        project(**{"z": np.zeros((2, 4)), "x": np.zeros((2, 4)), "eps": 0.1} | change)


@pytest.mark.parametrize("call", [
    lambda x: distance(x, x, "L2"), lambda x: steepest(x, x, 0.1, 0.1, "max", (0, 1)),
    lambda x: random_start(x, 0.1, 2, 0, 0, np.arange(2)),
])
def test_an_unknown_norm_is_none_of_the_three(call):
    with pytest.raises(ValueError, match="norm: got .*, expected one of 'linf', 'l2', 'l1'"):
        call(np.zeros((2, 4)))


def test_projection_of_many_pixels_in_float32():
    """Sums over 150,000 pixels in float32 would be off by more than this."""
    rng = np.random.default_rng(0)
    x = rng.random((2, 150_528), dtype=np.float32)
    z = x + rng.normal(size=x.shape).astype("float32")
    for norm, eps in (("l2", 3.0), ("l1", 255.0)):
        assert distance(project(z, x, eps, norm), x, norm) == pytest.approx(eps, rel=1e-5)


# ---- steepest ----


@given(seeds, st.sampled_from(["linf", "l2"]))
def test_steepest_step_has_the_size_and_the_dual_norm_for_its_rise(seed, norm):
    g, x, size = problem(seed)
    s = steepest(g, x, size, 1.0, norm, (0.0, 1.0))
    np.testing.assert_allclose(distance(s, 0 * s, norm), np.where(g.any(axis=1), size, 0.0), rtol=1e-12)
    dual = np.abs(g).sum(axis=1) if norm == "linf" else np.linalg.norm(g, axis=1)
    np.testing.assert_allclose((s * g).sum(axis=1), size * dual, rtol=1e-12)


def test_steepest_step_in_l1_takes_the_largest_pixels_that_can_move():
    g = np.array([[0.1, -3.0, 2.0, 1.0, 0.0]])
    x = np.array([[0.5, 0.0, 0.7, 0.5, 0.5]])  # the pixel of the largest gradient is at its bound already
    one = steepest(g, x, 0.2, 0.2, "l1", (0.0, 1.0))  # eps 0.2: one pixel
    np.testing.assert_allclose(one, [[0, 0, 0.2, 0, 0]], atol=1e-6)
    full = steepest(g, x, 0.4, 0.2, "l1", (0.0, 1.0))  # 0.3 fit into pixel 2, the rest goes to the next
    np.testing.assert_allclose(full, [[0, 0, 0.3, 0.1, 0]], atol=1e-6)
    two = steepest(g, x, 0.4, 1.0, "l1", (0.0, 1.0))  # eps 1: two pixels
    np.testing.assert_allclose(two, [[0, 0, 0.2, 0.2, 0]], atol=1e-6)
    free = steepest(g, x, 0.4, 1.0, "l1", (-math.inf, math.inf))  # no box: all on the largest
    np.testing.assert_allclose(free, [[0, -0.4, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("size", [0.5, 4.0, 16.0, 40.0])
def test_steepest_step_in_l1_spends_all_that_the_box_has_room_for(size):
    rng = np.random.default_rng(0)
    x, g = rng.random((50, 64)), rng.standard_normal((50, 64))
    x[:, 10:30] = rng.integers(0, 2, (50, 20))  # at the border, half of them with nowhere to go
    g[:, :5] = 0
    s = steepest(g, x, size, size, "l1", (0.0, 1.0))
    room = (np.where(g > 0, 1 - x, x) * (g != 0)).sum(axis=1)
    np.testing.assert_allclose(distance(s, 0 * s, "l1"), np.minimum(room, size), rtol=1e-5)
    assert (x + s).min() > -1e-12
    assert (x + s).max() < 1 + 1e-12
    assert (s * g >= 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", NORMS)
def test_steepest_step_does_not_depend_on_how_small_the_gradient_is(norm, dtype):
    """Squares of 1e-25 vanish in float32."""
    g = np.random.default_rng(0).normal(size=(2, 6)).astype(dtype)
    x = np.full((2, 6), 0.5, dtype)
    expected = steepest(g, x, 0.1, 0.1, norm, (0.0, 1.0))
    np.testing.assert_allclose(
        steepest(g * np.asarray(2.0**-110, dtype), x, 0.1, 0.1, norm, (0.0, 1.0)), expected, rtol=1e-6
    )
    assert expected.dtype == dtype


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_step_of_a_zero_gradient_is_zero(norm):
    np.testing.assert_array_equal(steepest(np.zeros((2, 3)), np.full((2, 3), 0.5), 0.1, 0.1, norm, (0.0, 1.0)), 0.0)


# ---- random starts ----


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_is_uniform_in_the_ball(norm):
    d, n, eps = 3, 20_000, 0.5
    x = np.zeros((n, d))
    delta = random_start(x, eps, norm, 0, 0, np.arange(n))
    r = distance(delta, x, norm) / eps
    assert r.max() <= 1
    # a ball of radius r holds the share r^d of the volume: r^d is uniform; four standard errors
    assert np.mean(r**d) == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / 12 / n))
    assert np.mean(r**d < 0.25) == pytest.approx(0.25, abs=4 * math.sqrt(0.1875 / n))
    assert np.abs(delta.mean(axis=0)).max() < 4 * eps / math.sqrt(3 * n)
    # no pixel is preferred, and so no sign: the same spread in each, and in each half
    spread = np.abs(delta).mean(axis=0)
    assert spread.max() / spread.min() < 1.05
    assert (delta > 0).mean(axis=0) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_is_a_function_of_seed_restart_and_index(norm):
    x = np.zeros((3, 4), "float32")
    a = random_start(x, 0.5, norm, 7, 0, np.array([4, 9, 4]))
    np.testing.assert_array_equal(a[0], a[2])
    np.testing.assert_array_equal(random_start(x[:1], 0.5, norm, 7, 0, np.array([9]))[0], a[1])
    assert a.dtype == "float32"
    for seed, restart in ((8, 0), (7, 1)):
        other = random_start(x, 0.5, norm, seed, restart, np.array([4, 9, 4]))
        assert not np.isclose(other[0], a[0]).any()


@pytest.mark.parametrize("norm", NORMS)
def test_a_center_outside_the_box_and_a_box_turned_round_are_refused(norm):
    x = np.full((1, 4), -2.0)
    with pytest.raises(ValueError, match=r"x: its values range from .*-2.* outside bounds=\(0\.0, 1\.0\)"):
        project(x + 0.05, x, 0.1, norm)
    with pytest.raises(ValueError, match=r"bounds: expected lo < hi, got \(1.0, 0.0\)"):
        project(x + 2.4, x + 2.5, 0.2, norm, bounds=(1, 0))

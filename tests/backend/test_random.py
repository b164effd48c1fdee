"""Counted random numbers: pure functions of their place, the same on every device, and random enough."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivit.backend import random, to_numpy
from minivit.backend.random import as_seed, bernoulli, hash_bits, normal, permutation, uniform

KINDS = {
    "uniform": uniform,
    "uniform64": lambda *place, **more: uniform(*place, dtype="float64", **more),
    "bernoulli": lambda *place, **more: bernoulli(0.3, *place, **more),
    "normal": normal,
}


# Known answers. Change one of these, and no run of an earlier version can be repeated.


KNOWN = {
    "bits": [17591386606171913160, 8982016961547797374],
    "uniform": [0.614777147769928, 0.8253483772277832, 0.1256449818611145],
    "uniform64": [0.6147771977300579, 0.8253483951920072],
    "bernoulli": [0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1],
    "permutation": [1, 0, 2, 3, 6, 5, 7, 4],
    "normal": [0.6297694368615561, -1.2293320406494501, 0.046497197420682965],
}


def test_the_hash_is_splitmix64():
    # The first outputs of SplitMix64 with the seed 1234567, as its other implementations are tested
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert hash_bits(1234567, np.arange(4)).tolist() == expected


def test_known_answers():
    assert int(hash_bits(0, 0)) == 0xE220A8397B1DCDAF
    assert hash_bits(0, "dropout", 3, np.arange(2)).tolist() == KNOWN["bits"]
    assert uniform(1, "x", shape=3).tolist() == KNOWN["uniform"]
    assert uniform(1, "x", shape=2, dtype="float64").tolist() == KNOWN["uniform64"]
    assert bernoulli(0.5, 1, "x", shape=12).astype(int).tolist() == KNOWN["bernoulli"]
    assert permutation(8, 1, "epoch", 2).tolist() == KNOWN["permutation"]
    np.testing.assert_allclose(normal(1, "x", shape=3, dtype="float64"), KNOWN["normal"], rtol=1e-14)


# A number is a function of its place


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_place_gives_the_same_number_and_another_another(kind):
    draw = KINDS[kind]
    first = draw(5, "noise", 7, shape=(4, 100))
    assert np.array_equal(first, draw(5, "noise", 7, shape=(4, 100)))
    for other in [(6, "noise", 7), (5, "noise", 8), (5, "nois", 7), (5, 7, "noise"), (5, "noise"), (5, "noise", 7, 0)]:
        assert not np.array_equal(first, draw(*other, shape=(4, 100)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_array_begins_with_the_shorter_one(kind):
    draw = KINDS[kind]
    long = draw(0, 1, shape=40_001)  # several blocks, an odd number
    for n in (0, 1, 7, 16_384, 16_385, 40_000):
        assert np.array_equal(draw(0, 1, shape=n), long[:n])
    assert np.array_equal(draw(0, 1, shape=(3, 4, 5)).ravel(), long[:60])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3,), (5, 7), (129, 131), ()])
def test_shards_of_a_batch_see_the_rows_of_the_whole(kind, shape):
    draw = KINDS[kind]
    index = np.array([4, 0, 9, 2, 3, 1, 8])
    whole = draw(0, 12, index, shape=shape)
    assert whole.shape == (7, *shape)
    shards = [draw(0, 12, part, shape=shape) for part in (index[:3], index[3:4], index[4:])]
    assert np.array_equal(np.concatenate(shards), whole)
    alone = np.stack([draw(0, 12, int(i), shape=shape) for i in index])
    assert np.array_equal(alone, whole)


def test_the_flat_index_is_the_last_coordinate():
    rows, columns = np.arange(30)[:, None], np.arange(20)
    assert np.array_equal(uniform(3, 1, rows, columns), uniform(3, 1, np.arange(30), shape=20))
    assert np.array_equal(hash_bits(3, 1, 2, columns), hash_bits(int(hash_bits(3, 1, 2)), columns))


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), st.data())
def test_ints_and_arrays_walk_the_same_path(seed, path, data):
    as_array = data.draw(st.lists(st.booleans(), min_size=len(path), max_size=len(path)))
    mixed = [np.array([c], "uint64") if array else c for c, array in zip(path, as_array)]
    assert hash_bits(seed, *mixed).ravel()[0] == hash_bits(seed, *path)


def test_negative_numbers_in_arrays_wrap():
    assert hash_bits(0, np.array([-1]))[0] == hash_bits(0, 2**64 - 1)
    assert hash_bits(0, np.array([-1], "int8"))[0] == hash_bits(0, 2**64 - 1)


def test_coordinates_are_not_changed():
    index = np.arange(5, dtype="uint64")
    hash_bits(0, index)
    hash_bits(0, index, index[:, None])
    assert index.tolist() == [0, 1, 2, 3, 4]


# Devices and surroundings


@pytest.mark.parametrize("kind", [*KINDS, "hash_bits"])
def test_every_device_gives_the_same_bits(xp, kind):
    if kind == "hash_bits":
        host, device = hash_bits(9, "a", np.arange(1000)), hash_bits(9, "a", xp.asarray(np.arange(1000)))
        assert np.array_equal(hash_bits(9, 4), to_numpy(hash_bits(9, 4, xp=xp)))
    else:
        draw = KINDS[kind]
        host, device = draw(9, "a", 3, shape=(50, 1000)), draw(9, "a", 3, shape=(50, 1000), xp=xp)
        index = np.array([3, 1, 4])
        rows = draw(9, index, shape=11, xp=xp)  # an index on the host serves both
        assert type(rows) is xp.ndarray
        assert np.array_equal(to_numpy(rows), draw(9, index, shape=11))
        if kind != "normal":
            rows = draw(9, xp.asarray(index), shape=11)
            assert type(rows) is xp.ndarray
            assert np.array_equal(to_numpy(rows), draw(9, index, shape=11))
    assert type(device) is xp.ndarray
    assert device.dtype == host.dtype
    assert np.array_equal(to_numpy(device), host)


def test_drawing_does_not_make_the_host_wait(standin):
    from tests.cupy_standin import synchronizations

    before = synchronizations()
    uniform(0, standin.asarray(np.arange(3)), shape=(2, 2))
    bernoulli(0.5, 0, 1, shape=5, xp=standin)
    normal(0, 1, shape=5, xp=standin)
    assert synchronizations() == before


def test_the_global_generator_is_not_touched():
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    key, pos = state["key"].copy(), state["pos"]
    for draw in KINDS.values():
        draw(0, 1, shape=10)
    permutation(10, 0)
    after = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    assert np.array_equal(after["key"], key)
    assert after["pos"] == pos


def test_integers_wrap_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hash_bits(2**64 - 1, 2**64 - 1, np.array([2**64 - 1, 0], "uint64"), 2**64 - 1)
        uniform(2**64 - 1, shape=())
        uniform(2**64 - 1, 2**64 - 1)
        normal(0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_dtypes(kind):
    draw = KINDS[kind]
    assert draw(0, 1).shape == ()
    assert draw(0, 1, shape=()).shape == ()
    assert draw(0, 1, shape=3).shape == (3,)
    assert draw(0, 1, shape=(0, 3)).shape == (0, 3)
    assert draw(0, np.arange(0), shape=(2, 3)).shape == (0, 2, 3)
    assert draw(0, np.arange(4)).shape == (4,)
    assert draw(0, np.arange(4)[:, None], np.arange(3), shape=2).shape == (4, 3, 2)
    assert draw(0, shape=2).shape == (2,)
    dtype = {"uniform": "f4", "uniform64": "f8", "bernoulli": "?", "normal": "f4"}[kind]
    assert draw(0, 1, shape=3).dtype == draw(0, 1).dtype == np.dtype(dtype)
    if kind == "normal":
        assert normal(0, 1, shape=3, dtype="float64").dtype == np.float64


# Random enough. Fixed seeds: each test passes or fails for good; the bounds are 4 standard deviations or more.


@pytest.mark.parametrize("place", [(0,), (1,), (0, 0, 0), (0, "dropout", 17), (2**63, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_is_uniform(place, dtype):
    n = 200_000
    u = uniform(*place, shape=n, dtype=dtype).astype("float64")
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / n)
    assert_flat(np.bincount((u * 256).astype(int), minlength=256))
    pairs = (u[0::2] * 16).astype(int) * 16 + (u[1::2] * 16).astype(int)  # neighbors
    assert_flat(np.bincount(pairs, minlength=256))


def assert_flat(counts):
    """Chi-square against equal counts; for k cells it is about normal, mean k - 1 and variance 2 (k - 1)."""
    k, expected = len(counts), counts.sum() / len(counts)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi2 - (k - 1)) < 4.5 * np.sqrt(2 * (k - 1))


def test_float32_uses_all_of_its_24_bits():
    u = uniform(0, 0, shape=100_000)
    multiples = u * np.float32(2**24)
    assert np.array_equal(multiples, np.floor(multiples))
    assert (multiples % 2 == 1).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_bernoulli_has_its_rate(p):
    n = 200_000
    mask = bernoulli(p, 3, "mask", shape=n)
    assert abs(mask.mean() - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_bernoulli_at_the_ends():
    assert not bernoulli(0, 0, shape=100_000).any()
    assert bernoulli(1, 0, shape=100_000).all()
    assert bernoulli(1.0, 0, 5).shape == ()
    assert bernoulli(np.nextafter(1.0, 0), 0, shape=1000).all()
    assert not bernoulli(5e-324, 0, shape=1000).any()


def test_bernoulli_agrees_with_the_uniform_of_its_place():
    for p in (0.25, 0.1, 1 / 3):
        assert np.array_equal(bernoulli(p, 1, 2, shape=10_000), uniform(1, 2, shape=10_000, dtype="float64") < p)


@pytest.mark.parametrize("shape", [(200_001,), (200, 1001)])
def test_normal_is_normal(shape):
    z = normal(4, "weights", shape=shape, dtype="float64").ravel()
    n = z.size
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)
    assert abs((z[:-1] * z[1:]).mean()) < 4 / np.sqrt(n)
    assert abs((np.abs(z) < 1).mean() - 0.6826895) < 4 * np.sqrt(0.22 / n)
    assert abs((z > 2).mean() - 0.0227501) < 4 * np.sqrt(0.0222 / n)


def test_places_side_by_side_are_not_correlated():
    # Rows: seeds, then steps, then images side by side; every pair of rows must look independent
    n = 20_000
    rows = [uniform(seed, 0, shape=n) for seed in range(16)]
    rows += [uniform(0, step, 3, shape=n) for step in range(16)]
    rows += list(uniform(0, "noise", np.arange(16), shape=n))
    correlation = np.corrcoef(np.array(rows, "float64"))
    assert np.abs(correlation - np.eye(48)).max() < 5 / np.sqrt(n)  # 1128 pairs


def test_one_bit_of_input_changes_half_of_the_output():
    places = np.arange(2000, dtype="uint64")
    bits = hash_bits(0, 7, places)
    for bit in range(64):  # of the last coordinate
        changed = bits ^ hash_bits(0, 7, places ^ np.uint64(1 << bit))
        flips = np.unpackbits(changed.view("uint8")).reshape(2000, 64).mean(axis=0)
        assert np.abs(flips - 0.5).max() < 0.06, bit  # 5.4 standard deviations
    for bit in range(64):  # of the seed, and of a coordinate before the last
        for other in (hash_bits(1 << bit, 7, places), hash_bits(0, 7 ^ 1 << bit, places)):
            flips = np.unpackbits((bits ^ other).view("uint8")).reshape(2000, 64).mean(axis=0)
            assert np.abs(flips - 0.5).max() < 0.06, bit


def test_every_bit_is_set_half_of_the_time():
    ones = np.unpackbits(hash_bits(0, np.arange(50_000)).view("uint8")).reshape(50_000, 64).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 4.5 * 0.5 / np.sqrt(50_000)


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_has_every_number_once(n):
    order = permutation(n, 0, "epoch", 1)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_permutation_is_fair():
    orders = np.array([permutation(5, 0, "epoch", i) for i in range(5000)])
    for position in range(5):
        assert_flat(np.bincount(orders[:, position], minlength=5))
    names, counts = np.unique(orders @ 10 ** np.arange(5), return_counts=True)
    assert len(names) == 120
    assert_flat(counts)


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: uniform(-1, 0), ValueError, r"seed is -1, expected 0 <= seed < 2\*\*64"),
        (lambda: uniform(2**64, 0), ValueError, "seed is 18446744073709551616"),
        (lambda: uniform(1.0, 0), TypeError, r"seed is 1.0 \(float\), expected an int"),
        (lambda: uniform(True, 0), TypeError, "seed is True"),
        (lambda: uniform(None, 0), TypeError, "seed is None"),
        (lambda: uniform("0", 0), TypeError, "seed is '0'"),
        (lambda: uniform(np.random.default_rng(0), 0), TypeError, "as_seed"),
        (lambda: uniform(0, -3), ValueError, "coordinate is -3"),
        (lambda: uniform(0, 0.5), TypeError, "coordinate is 0.5 .*integer array or a string"),
        (lambda: uniform(0, [1, 2]), TypeError, r"coordinate is \[1, 2\] \(list\)"),
        (lambda: uniform(0, np.ones(2)), TypeError, "array of float64, expected integers"),
        (lambda: uniform(0, np.ones(2, bool)), TypeError, "array of bool"),
        (lambda: uniform(0), ValueError, "no coordinates"),
        (lambda: hash_bits(0), ValueError, "no coordinates"),
        (lambda: uniform(0, shape=-1), ValueError, "shape is -1"),
        (lambda: uniform(0, shape=2.0), TypeError, "shape is 2.0"),
        (lambda: uniform(0, 1, dtype="float16"), ValueError, "dtype is float16"),
        (lambda: normal(0, 1, dtype="int32"), ValueError, "dtype is int32"),
        (lambda: bernoulli(1.5, 0, 1), ValueError, "p is 1.5"),
        (lambda: bernoulli(-0.1, 0, 1), ValueError, "p is -0.1"),
        (lambda: bernoulli(float("nan"), 0, 1), ValueError, "p is nan"),
        (lambda: bernoulli("0.5", 0, 1), ValueError, "p is '0.5'"),
        (lambda: permutation(-1, 0), ValueError, "n is -1"),
        (lambda: permutation(2.0, 0), TypeError, "n is 2.0"),
        (lambda: permutation(3, 0, np.arange(3)), TypeError, "permutation: coordinates"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_devices_that_do_not_fit_are_named(standin):
    index = standin.asarray(np.arange(3))
    with pytest.raises(TypeError, match="coordinate is on the GPU but xp is NumPy"):
        uniform(0, index, shape=2, xp=np)
    with pytest.raises(TypeError, match="normals are drawn on the host"):
        normal(0, index, shape=2)


def test_a_generator_becomes_a_seed():
    generator = np.random.default_rng(0)
    first, second = as_seed(generator), as_seed(generator)
    assert first != second
    assert first == as_seed(np.random.default_rng(0))
    assert as_seed(7) == as_seed(np.int64(7)) == 7
    with pytest.raises(ValueError, match="seed is -7"):
        as_seed(-7)
    uniform(first, 0)


def test_numpy_seeds_are_the_ints_they_hold():
    assert hash_bits(np.uint64(5), np.int32(3)) == hash_bits(5, 3)


def test_blocks_do_not_show(monkeypatch):
    expected = [uniform(0, np.arange(5), shape=(3, 7)), bernoulli(0.5, 0, 1, shape=100)]
    for size in (1, 10, 64):
        monkeypatch.setattr(random, "_BLOCK", size)
        assert np.array_equal(uniform(0, np.arange(5), shape=(3, 7)), expected[0])
        assert np.array_equal(bernoulli(0.5, 0, 1, shape=100), expected[1])

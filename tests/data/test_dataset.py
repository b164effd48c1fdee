"""What a data set takes, what it refuses, and that splits and orders are the same ones always."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivit.data import Dataset, batches

IMAGES = np.linspace(0, 1, 6 * 4 * 5 * 3, dtype=np.float32).reshape(6, 4, 5, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def nan_images():
    images = IMAGES.copy()
    images[4, 1, 2, 0] = np.nan
    return images


@pytest.mark.parametrize(
    ("images", "labels", "classes", "error", "words"),
    [
        ((IMAGES * 255).astype(np.uint8), LABELS, None, TypeError, "images must be floats in .*uint8: divide by 255"),
        (np.ones((6, 4, 5, 3), int), LABELS, None, TypeError, "int64: divide by 255"),
        (IMAGES > 0.5, LABELS, None, TypeError, "images must be floats.*bool"),
        (IMAGES.astype(complex), LABELS, None, TypeError, "complex128"),
        (IMAGES * 255, LABELS, None, ValueError, r"\[0, 255\]: they look like 0 to 255: divide by 255"),
        (IMAGES * 1.5, LABELS, None, ValueError, r"\[0, 1.5\]: rescale"),
        (IMAGES - 0.5, LABELS, None, ValueError, "look normalized"),
        (IMAGES * np.float64(1e300), LABELS, None, ValueError, "inf"),
        (nan_images(), LABELS, None, ValueError, r"NaN, in 1 of 6, first in images\[4\]"),
        (np.ones((6, 28, 28)), LABELS, None, ValueError, r"\(6, 28, 28\): gray images lack the channel"),
        (np.ones((28, 28)), LABELS, None, ValueError, "one gray image"),
        (np.ones(6), LABELS, None, ValueError, "reshape"),
        (np.ones((6, 3, 32, 32)), LABELS, None, ValueError, "channels first.*transpose"),
        (np.ones((6, 1, 28, 28)), LABELS, None, ValueError, "channels first"),
        (np.ones((0, 4, 5, 3)), LABELS[:0], None, ValueError, "must not be empty"),
        (np.ones((6, 4, 0, 3)), LABELS, None, ValueError, "must not be empty"),
        (IMAGES, LABELS.astype(float), None, TypeError, "labels must be integers.*float64"),
        (IMAGES, LABELS > 0, None, TypeError, "labels must be integers.*bool"),
        (IMAGES, ["a"] * 6, None, TypeError, "labels must be integers.*<U1"),
        (IMAGES, np.eye(3)[LABELS], None, ValueError, r"one-hot rows become labels.argmax"),
        (IMAGES, LABELS[:, None], None, ValueError, r"labels must be \(6,\).*\(6, 1\)"),
        (IMAGES, LABELS[:5], None, ValueError, r"labels must be \(6,\).*\(5,\)"),
        (IMAGES, 3, None, ValueError, r"labels must be \(6,\)"),
        (IMAGES, LABELS - 1, None, ValueError, r"negative: labels\[0\] is -1"),
        (IMAGES, LABELS + 2**40, None, ValueError, "indices of classes"),
        (IMAGES, LABELS.astype(np.uint64) + 2**63, None, ValueError, "indices of classes"),
        (IMAGES, LABELS, ["cat", "dog"], ValueError, r"labels must lie in 0\.\.1 \(2 classes\), they reach 2"),
        (IMAGES, LABELS, "abc", TypeError, "classes must be a list of names"),
        (IMAGES, LABELS, [1, 2, 3], TypeError, "classes must be a list of names"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(images, labels, classes, error, words):
    with pytest.raises(error, match=words):
        Dataset(images, labels, classes)


def test_what_it_holds():
    data = Dataset(IMAGES.astype(np.float64), LABELS.astype(np.uint8), ["cat", "dog", "eel", "fox"])
    assert data.images.dtype == np.float32
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.images, IMAGES)
    assert (len(data), data.num_classes, data.image_shape) == (6, 4, (4, 5, 3))
    assert repr(data) == "Dataset(6 images of 4x5x3, 4 classes: cat, dog, eel, fox)"
    assert Dataset(IMAGES, LABELS).classes == ("0", "1", "2")


def test_numbers_that_are_one_only_up_to_float32s_rounding_are_taken():
    assert Dataset(np.full((1, 2, 2, 1), 1 + 1e-12), [0]).images.max() == 1


def test_parts():
    data = Dataset(IMAGES, LABELS)
    for part, index in [
        (data[1:4], [1, 2, 3]),
        (data[::-2], [5, 3, 1]),
        (data[[3, 1]], [3, 1]),
        (data[data.labels == 2], [2, 5]),
        (data.subset(np.array([0, 0], np.uint8)), [0, 0]),
        (data[:0], []),
        (data[[]], []),
    ]:
        assert isinstance(part, Dataset)
        assert part.classes == data.classes
        np.testing.assert_array_equal(part.images, IMAGES[index].reshape(-1, 4, 5, 3))
        np.testing.assert_array_equal(part.labels, LABELS[np.array(index, int)])
    image, label = data[-1]
    np.testing.assert_array_equal(image, IMAGES[5])
    assert label == 2
    assert [label for _, label in data] == LABELS.tolist()
    for bad, error in [([6], IndexError), ([0.5], TypeError), ("a", TypeError), ([True], IndexError), (9, IndexError)]:
        with pytest.raises(error):
            data[bad]


def numbered(labels):
    """A data set whose image i holds i, so that images can be told apart."""
    n = len(labels)
    return Dataset((np.arange(n, dtype=np.float32) / max(n, 1)).reshape(n, 1, 1, 1), labels)


def which(data, n):
    return np.rint(data.images[:, 0, 0, 0] * n).astype(int)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.05, 0.95), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_a_split_is_disjoint_whole_stratified_and_fixed(labels, fraction, seed):
    data, n = numbered(labels), len(labels)
    if not 0 < round(fraction * n) < n:
        with pytest.raises(ValueError, match="fraction"):
            data.split(fraction, seed)
        return
    rest, part = data.split(fraction, seed)
    first, second = which(rest, n), which(part, n)
    assert sorted([*first, *second]) == list(range(n))
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()
    assert len(part) == round(fraction * n)
    shares = {label: labels.count(label) * len(part) / n for label in set(labels)}
    kept = any(labels.count(label) - int(share) <= 1 for label, share in shares.items())  # by a class that would lose its last
    for label, share in shares.items():
        difference = abs((part.labels == label).sum() - share)
        assert difference < 1 or (kept and difference == 1)
    np.testing.assert_array_equal(which(data.split(fraction, seed)[1], n), second)


def test_pixels_out_by_rounding_are_led_back():
    images = np.full((1, 2, 2, 1), 0.5, "float32")
    images[0, 0, 0], images[0, 1, 1] = 1 + 2e-7, -1e-9
    data = Dataset(images, [0])
    assert data.images.min() == 0
    assert data.images.max() == 1
    assert images.max() > 1, "the array given was written to"
    images[0, 0, 0] = 1.0001
    with pytest.raises(ValueError, match=r"not \[-9.9\S+, 1.0001\]: rescale or clip them"):
        Dataset(images, [0])


def test_a_class_of_one_image_stays_where_it_is_learned():
    rest, part = numbered([0] + 11 * [1, 2, 3, 4, 5]).split(0.2)
    assert set(part.labels) <= set(rest.labels)
    assert len(part) == 11


def test_another_seed_is_another_split_and_another_order():
    data = numbered([0, 1] * 50)
    splits = [tuple(which(data.split(0.3, seed)[1], 100)) for seed in range(5)]
    orders = [tuple(which(data.shuffled(seed), 100)) for seed in range(5)]
    assert len(set(splits)) == len(set(orders)) == 5
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert orders[2] == tuple(which(data.shuffled(2), 100))
    with pytest.raises(ValueError, match="seed: expected an integer of at least 0"):
        data.shuffled(-1)
    with pytest.raises(TypeError, match="seed: expected an integer, got 1.5"):
        data.shuffled(1.5)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, 0.001, float("nan")])
def test_a_split_with_an_empty_part_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        numbered([0, 1] * 5).split(fraction)


@given(n=st.integers(1, 40), size=st.integers(1, 45), drop_last=st.booleans())
@settings(max_examples=60, deadline=None)
def test_batches_walk_over_every_image_once(n, size, drop_last):
    data = numbered(np.arange(n) % 3)
    walk = list(batches(data, size, seed=1, epoch=2, drop_last=drop_last))
    sizes = [len(labels) for _, labels, _ in walk]
    assert sizes == [size] * (n // size) + ([n % size] if n % size and not drop_last else [])
    seen = np.concatenate([indices for _, _, indices in walk]) if walk else np.zeros(0, int)
    assert len(set(seen)) == len(seen) == sum(sizes)
    for images, labels, indices in walk:
        np.testing.assert_array_equal(images, data.images[indices])
        np.testing.assert_array_equal(labels, data.labels[indices])


def test_the_order_is_a_function_of_seed_and_epoch():
    data = numbered(np.zeros(200, int))

    def order(seed, epoch, size=7):
        return tuple(np.concatenate([indices for _, _, indices in batches(data, size, seed, epoch)]))

    assert order(3, 5) == order(3, 5) == order(3, 5, size=200)
    assert len({order(0, 0), order(0, 1), order(1, 0), order(1, 1), tuple(range(200))}) == 5
    expected = np.random.Generator(np.random.Philox(key=[3, 5])).permutation(200)  # what the docs promise
    assert order(3, 5) == tuple(expected)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    order(1, 1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_a_bad_batch_size_is_refused_at_the_call():
    for bad, error in [(0, ValueError), (-3, ValueError), (1.5, TypeError)]:
        with pytest.raises(error, match="batch_size"):
            batches(numbered([0]), bad, seed=0, epoch=0)

"""Shifts: exactly what a loop over pixels does, every move equally often, the same ones always."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivit.data import shift


def moved(image, down, right):
    """The twin: one pixel at a time."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                out[row, column] = image[row - down, column - right]
    return out


def moves(images, out, m):
    """For each image the move (down, right) that made `out` of it, found by trying all."""
    all_moves = [(down, right) for down in range(-m, m + 1) for right in range(-m, m + 1)]
    return [[move for move in all_moves if np.array_equal(moved(a, *move), b)] for a, b in zip(images, out)]


@given(
    batch=st.integers(0, 4), height=st.integers(1, 6), width=st.integers(1, 6), channels=st.integers(1, 3),
    data=st.data(), dtype=st.sampled_from([np.float32, np.float64, np.uint8]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_each_image_is_moved_by_one_whole_move(batch, height, width, channels, data, dtype):
    m = data.draw(st.integers(0, min(height, width) - 1))
    images = np.arange(1, batch * height * width * channels + 1).astype(dtype).reshape(batch, height, width, channels)
    before = images.copy()
    out = shift(images, m, seed=data.draw(st.integers(0, 9)), step=3)
    assert (out.shape, out.dtype) == (images.shape, images.dtype)
    assert not np.shares_memory(out, images)
    np.testing.assert_array_equal(images, before)
    assert all(found for found in moves(images, out, m))


def test_every_move_is_equally_likely():
    m, n = 2, 5000
    image = np.arange(1, 26, dtype=np.float32).reshape(5, 5, 1)
    out = shift(np.repeat(image[None], n, axis=0), m, seed=0, step=0)
    every = [(down, right) for down in range(-m, m + 1) for right in range(-m, m + 1)]
    counts = [(out == moved(image, *move)).all(axis=(1, 2, 3)).sum() for move in every]
    assert sum(counts) == n
    assert min(counts) > 150  # 200 expected of each of the 25, standard deviation 14
    assert max(counts) < 250


def test_moves_are_a_function_of_seed_and_step():
    images = np.random.default_rng(0).random((64, 6, 6, 1), dtype=np.float32)
    results = [shift(images, 2, seed, step).tobytes() for seed in range(3) for step in range(3)]
    assert len(set(results)) == 9
    assert shift(images, 2, 1, 2).tobytes() == results[5]
    assert shift(images, 0, 1, 2).tobytes() == images.tobytes()


@pytest.mark.parametrize(
    ("images", "max_shift", "error", "words"),
    [
        (np.ones((4, 4)), 1, ValueError, "images must be"),
        (np.ones((1, 4, 5, 1)), 4, ValueError, "max_shift must be below"),
        (np.ones((1, 4, 5, 1)), -1, ValueError, "max_shift"),
        (np.ones((1, 4, 5, 1)), 0.5, TypeError, "max_shift"),
    ],
)
def test_bad_input(images, max_shift, error, words):
    with pytest.raises(error, match=words):
        shift(images, max_shift, 0, 0)

import numpy as np
import pytest

import minivit as mv
from tests.viz.conftest import shown


def numbers(ax):
    return {int(t.get_text()): t.get_position() for t in ax.texts}


def test_the_patches_are_numbered_row_by_row_and_the_sequence_shows_each(image):
    before = image.copy()
    fig = mv.viz.patches(image, 2)
    whole, grid, *sequence = fig.axes
    np.testing.assert_array_equal(shown(whole), image[..., 0])
    np.testing.assert_array_equal(shown(grid), image[..., 0])
    assert len(numbers(grid)) == len(sequence) == 6
    assert numbers(grid)[4] == (0.5, 2.5)  # x, y: the first of the second row
    assert numbers(grid)[3] == (4.5, 0.5)
    for i, ax in enumerate(sequence):
        r, c = divmod(i, 3)
        np.testing.assert_array_equal(shown(ax), image[2 * r : 2 * r + 2, 2 * c : 2 * c + 2, 0])
        assert ax.get_title() == str(i + 1)
    assert len(grid.lines) == 1 + 2
    np.testing.assert_array_equal(image, before)


def test_of_a_long_sequence_the_first_and_the_last_are_shown():
    image = np.random.default_rng(0).random((16, 16, 3))
    fig = mv.viz.patches(image, 2)
    titled = [ax for ax in fig.axes[2:] if ax.get_title()]
    assert [ax.get_title() for ax in titled] == [*map(str, range(1, 31)), "64"]
    np.testing.assert_array_equal(shown(titled[-1]), image[14:, 14:])
    assert any(t.get_text() == "…" for ax in fig.axes for t in ax.texts)


def test_where_numbers_do_not_fit_the_ends_of_the_rows_have_them():
    fig = mv.viz.patches(np.zeros((48, 48, 1)), 2)
    assert sorted(numbers(fig.axes[1]))[:4] == [1, 24, 25, 48]
    assert len(numbers(fig.axes[1])) == 48


@pytest.mark.parametrize(("patch_size", "error"), [
    (4, ValueError), (0, ValueError), (-2, ValueError), (2.0, TypeError), (True, TypeError), ("2", TypeError),
])
def test_a_patch_size_that_does_not_divide_or_is_none_is_refused(image, patch_size, error):
    with pytest.raises(error, match="patch_size"):
        mv.viz.patches(image, patch_size)


@pytest.mark.parametrize(("shape", "least"), [((8, 128), 0.3), ((128, 8), 0.3), ((16, 16), 2)])
def test_long_images_can_be_seen(shape, least):
    fig = mv.viz.patches(np.zeros((*shape, 1), np.float32), 4)
    fig.canvas.draw()
    assert max(fig.get_size_inches()) < 12
    for ax in fig.axes[:2]:
        assert min(ax.get_window_extent().size) > least * fig.dpi

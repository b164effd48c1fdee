import numpy as np
import pytest

import minivit as mv
from tests.viz.conftest import make, shown


def test_positions_shows_the_table_on_a_symmetric_scale():
    table = mv.models.sinusoidal(6, 8) * 0.5
    fig = mv.viz.positions(table)
    ax, _ = fig.axes
    np.testing.assert_array_equal(shown(ax), table)
    low, high = ax.images[0].get_clim()
    assert low == -high == -np.abs(table).max()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("dimension", "position")


def test_similarity_tiles_are_the_cosines_of_one_position_with_all():
    table = np.random.default_rng(0).normal(size=(6, 5))
    fig = mv.viz.position_similarity(table, (2, 3))
    ax, bar = fig.axes
    whole = shown(ax)
    i, j = 4, 2  # positions (1, 1) and (0, 2)
    cosine = table[i] @ table[j] / np.linalg.norm(table[i]) / np.linalg.norm(table[j])
    assert whole[1 * 3 + 0, 1 * 4 + 2] == pytest.approx(cosine)
    for r in range(2):
        for c in range(3):
            assert whole[3 * r + r, 4 * c + c] == pytest.approx(1)  # each is most like itself
    assert ax.images[0].get_clim() == (-1, 1)
    assert "cosine" in bar.get_ylabel()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "3"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2"]


def test_a_models_table_goes_without_the_class_token(model):
    table = model.pos_embed.numpy()[0, model.num_prefix :]
    np.testing.assert_allclose(shown(mv.viz.positions(model).axes[0]), table)
    whole = shown(mv.viz.position_similarity(model).axes[0])
    assert np.isfinite(whole).sum() == 36
    np.testing.assert_array_equal(shown(mv.viz.position_similarity(table, (2, 3)).axes[0]), whole)


def test_fixed_positions_of_a_model_are_shown_too():
    model = make(position="sinusoidal_2d")
    np.testing.assert_allclose(shown(mv.viz.positions(model).axes[0]), mv.models.sinusoidal_2d((2, 3), 8), rtol=1e-6)


def test_a_square_is_the_default_grid():
    fig = mv.viz.position_similarity(mv.models.sinusoidal(9, 4))
    assert len(fig.axes[0].get_xticks()) == len(fig.axes[0].get_yticks()) == 3


@pytest.mark.parametrize(
    ("source", "grid", "message"),
    [
        (np.ones((6, 4)), None, "grid: 2×2 is not 6"),
        (np.ones((6, 4)), (2, 2), "grid: 2×2 is not 6"),
        (np.eye(4)[:, :3], None, "position 3 is zero"),
        (np.ones(4), None, "table: expected"),
        (np.full((4, 2), np.nan), None, "NaN"),
        (make(position="relative"), None, "no table of absolute positions"),
        (make(position="none"), None, "no table of absolute positions"),
    ],
)
def test_bad_tables_are_refused(source, grid, message):
    with pytest.raises(ValueError, match=message):
        mv.viz.position_similarity(source, grid)

"""Position embeddings: the lecture's formula, the table of offsets, and what a transformer without positions cannot see."""

import math

import numpy as np
import pytest

import minivit as mv
from minivit.models import RelativePositionBias, sinusoidal, sinusoidal_2d
from tests.models.small import POSITIONS, pictures, small


def test_sinusoidal_is_the_lectures_formula():
    N, D = 50, 12
    table = sinusoidal(N, D)
    assert table.shape == (N, D)
    for pos in range(N):
        for j in range(D // 2):
            assert table[pos, 2 * j] == pytest.approx(math.sin(pos / 10000 ** (2 * j / D)), abs=1e-14)
            assert table[pos, 2 * j + 1] == pytest.approx(math.cos(pos / 10000 ** (2 * j / D)), abs=1e-14)


def test_sinusoidal_2d_encodes_the_row_and_the_column():
    rows, columns, D = 3, 5, 8
    table = sinusoidal_2d((rows, columns), D)
    assert table.shape == (rows * columns, D)
    for i in range(rows):
        for j in range(columns):
            np.testing.assert_array_equal(table[i * columns + j, :4], sinusoidal(rows, 4)[i])
            np.testing.assert_array_equal(table[i * columns + j, 4:], sinusoidal(columns, 4)[j])


def test_widths_that_sinusoids_do_not_fill():
    with pytest.raises(ValueError, match="dim: .* must be even, got 7"):
        sinusoidal(4, 7)
    with pytest.raises(ValueError, match="dim: .* must be divisible by 4, got 6"):
        sinusoidal_2d((2, 2), 6)


def test_the_index_of_a_window_of_two():
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert RelativePositionBias((2, 2), 1, class_token=False).index.tolist() == expected


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 2)])
def test_every_offset_has_an_entry_of_its_own(grid):
    rows, columns = grid
    N = rows * columns
    index = RelativePositionBias(grid, 2, class_token=True).index
    assert index.shape == (N + 1, N + 1)
    places = [(i, j) for i in range(rows) for j in range(columns)]
    entry = {}
    for a, (ai, aj) in enumerate(places, 1):
        for b, (bi, bj) in enumerate(places, 1):
            assert entry.setdefault((ai - bi, aj - bj), index[a, b]) == index[a, b]
    offsets = (2 * rows - 1) * (2 * columns - 1)
    assert sorted(entry.values()) == list(range(offsets))
    assert set(index[0, 1:]) == {offsets}
    assert set(index[1:, 0]) == {offsets + 1}
    assert index[0, 0] == offsets + 2


def test_the_bias_is_the_table_entry_of_each_head():
    bias = RelativePositionBias((2, 3), 4, class_token=True).to(dtype="float64")
    bias.table.assign_(np.random.default_rng(0).standard_normal(bias.table.shape))
    table, out = bias.table.numpy(), bias().numpy()
    assert out.shape == (4, 7, 7)
    for h in range(4):
        for i in range(7):
            for j in range(7):
                assert out[h, i, j] == table[bias.index[i, j], h]


def shuffled(x, order, P=4):
    """The images with their patches in another order."""
    return mv.ops.col2im(mv.ops.im2col(x, patch_size=P)[:, order], image_size=x.shape[1:3], patch_size=P)


ORDER = np.array([3, 0, 5, 1, 4, 2])


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("position", POSITIONS)
def test_only_without_positions_is_an_image_a_bag_of_patches(position, pool):
    model, x = small(position=position, pool=pool), pictures()
    y, again = model(x).numpy(), model(shuffled(x, ORDER)).numpy()
    if position == "none":
        np.testing.assert_allclose(again, y, rtol=1e-10, atol=1e-12)
    else:
        assert np.abs(again - y).max() > 1e-3 * np.abs(y).max()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_without_positions_the_tokens_are_shuffled_as_the_patches_are(pool):
    model, x = small(position="none", pool=pool), pictures()
    first = int(pool == "cls")
    order = np.concatenate([np.arange(first), ORDER + first])
    _, parts = model(x, intermediates=True)
    _, again = model(shuffled(x, ORDER), intermediates=True)
    for name in ("embedded", "block0", "block1"):
        np.testing.assert_allclose(again[name].numpy(), parts[name].numpy()[:, order], rtol=1e-9, atol=1e-12)
    for name in ("block0.attention", "block1.attention"):
        expected = parts[name].numpy()[:, :, order][..., order]
        np.testing.assert_allclose(again[name].numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("position", "table"), [
    ("sinusoidal", sinusoidal(6, 12)), ("sinusoidal_2d", sinusoidal_2d((3, 2), 12)),
])  # fmt: skip
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_fixed_positions_are_added_to_the_patches_and_not_to_the_class_token(position, table, pool):
    x = pictures()
    _, plain = small(position="none", pool=pool)(x, intermediates=True)
    _, with_them = small(position=position, pool=pool)(x, intermediates=True)
    added = with_them["embedded"].numpy() - plain["embedded"].numpy()
    if pool == "cls":
        np.testing.assert_array_equal(added[:, 0], 0)
        added = added[:, 1:]
    np.testing.assert_allclose(added, np.broadcast_to(table, added.shape), atol=1e-7)


def test_learned_positions_have_a_row_for_every_token():
    model = small()
    assert model.pos_embed.shape == (1, 7, 12)
    assert small(pool="mean").pos_embed.shape == (1, 6, 12)
    x = pictures()
    before = model(x, intermediates=True)[1]["embedded"].numpy()
    step = np.zeros((1, 7, 12))
    step[0, 3, 2] = 1.5
    model.pos_embed.assign_(model.pos_embed.data + step)
    np.testing.assert_allclose(model(x, intermediates=True)[1]["embedded"].numpy() - before, np.repeat(step, 2, 0), atol=1e-12)


def test_each_layer_has_relative_positions_of_its_own():
    model, x = small(position="relative"), pictures()
    _, parts = model(x, intermediates=True)
    table = model.biases[1].table
    table.assign_(table.data + np.random.default_rng(1).standard_normal(table.shape))
    _, again = model(x, intermediates=True)
    np.testing.assert_array_equal(again["block0.attention"].numpy(), parts["block0.attention"].numpy())
    assert np.abs(again["block1.attention"].numpy() - parts["block1.attention"].numpy()).max() > 1e-2

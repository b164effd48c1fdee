"""Attention and the encoder block: where dropout and drop path act, and what heads refuse."""

import numpy as np
import pytest

from minivit.models import EncoderBlock, MultiHeadSelfAttention
from tests.models.small import perturb

Z = np.random.default_rng(0).standard_normal((40, 5, 12))


def silenced(block, part):
    """The block with the last layer of its attention ("attn.proj") or MLP ("mlp.fc2") at zero: that branch adds nothing."""
    first, last = part.split(".")
    layer = getattr(getattr(block, first), last)
    layer.weight.assign_(np.zeros(layer.weight.shape))
    layer.bias.assign_(np.zeros(layer.bias.shape))
    return block


def make(**options):
    return perturb(EncoderBlock(12, 3, 20, **options).to(dtype="float64"))


@pytest.mark.parametrize("part", ["attn.proj", "mlp.fc2"])
def test_both_branches_have_dropout_on_their_results(part):
    block = silenced(make(dropout=0.5), part)
    kept = block.eval()(Z).numpy() - Z
    dropped = block.train()(Z).numpy() - Z
    zero = np.abs(dropped) < 1e-12
    assert 0.4 < zero.mean() < 0.6
    np.testing.assert_allclose(dropped[~zero], 2 * kept[~zero], rtol=1e-9)


@pytest.mark.parametrize("part", ["attn.proj", "mlp.fc2"])
def test_both_branches_are_dropped_for_whole_images(part):
    block = silenced(make(drop_path=0.5), part)
    kept = block.eval()(Z).numpy() - Z
    added = block.train()(Z).numpy() - Z
    dropped = np.abs(added).max(axis=(1, 2)) < 1e-12
    assert 10 < dropped.sum() < 30
    np.testing.assert_allclose(added[~dropped], 2 * kept[~dropped], rtol=1e-9)


def test_the_two_branches_are_dropped_independently():
    def which(part):
        added = silenced(make(drop_path=0.5), part)(Z).numpy() - Z
        return np.abs(added).max(axis=(1, 2)) < 1e-12

    assert not np.array_equal(which("attn.proj"), which("mlp.fc2"))


def test_a_silent_block_is_the_identity():
    block = silenced(silenced(make(), "attn.proj"), "mlp.fc2")
    np.testing.assert_array_equal(block(Z).numpy(), Z)


def test_equal_scores_make_the_mean_of_the_values():
    layer = perturb(MultiHeadSelfAttention(12, 3).to(dtype="float64"))
    w = layer.qkv.weight.numpy().copy()
    w[:, :12] = 0  # no queries: every score is that of the bias, equal for all keys only if it is zero too
    b = layer.qkv.bias.numpy().copy()
    b[:12] = 0
    layer.qkv.weight.assign_(w)
    layer.qkv.bias.assign_(b)
    v = (Z @ w + b)[..., 24:].mean(axis=1, keepdims=True)
    expected = np.broadcast_to(v @ layer.proj.weight.numpy() + layer.proj.bias.numpy(), Z.shape)
    np.testing.assert_allclose(layer(Z).numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [None, np.random.default_rng(1).standard_normal((3, 5, 5))])
def test_asking_for_the_attention_matrices_changes_nothing_else(bias):
    layer, parts = perturb(MultiHeadSelfAttention(12, 3).to(dtype="float64")), {}
    np.testing.assert_allclose(layer(Z, bias, parts, "a").numpy(), layer(Z, bias).numpy(), rtol=1e-10, atol=1e-12)
    assert parts["a"].shape == (40, 3, 5, 5)


@pytest.mark.parametrize("heads", [0, 5, 24])
def test_heads_that_do_not_divide_the_width(heads):
    with pytest.raises(ValueError, match=f"num_heads {heads} does not divide the width 12"):
        MultiHeadSelfAttention(12, heads)


def test_an_unknown_scale():
    with pytest.raises(ValueError, match="scale: expected 'head' .* or 'width' .*, got 'D'"):
        MultiHeadSelfAttention(12, 3, scale="D")

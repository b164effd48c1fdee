"""Attention maps and rollout."""

import numpy as np
import pytest

import minivit as mv
from minivit.models import attention_maps, attention_rollout
from tests.models.small import pictures, small


def test_maps_are_the_attention_of_every_layer_in_order():
    model, x = small(), pictures()
    maps = attention_maps(model, x)
    _, parts = model(x, intermediates=True)
    assert len(maps) == 2
    for i, a in enumerate(maps):
        assert type(a) is np.ndarray
        assert a.shape == (2, 3, 7, 7)
        np.testing.assert_array_equal(a, parts[f"block{i}.attention"].numpy())
        np.testing.assert_allclose(a.sum(-1), 1, rtol=1e-12)
        assert (a > 0).all()


def test_more_than_ten_layers_stay_in_order():
    model = small(depth=11)
    _, parts = model(pictures(), intermediates=True)
    np.testing.assert_array_equal(attention_maps(model, pictures())[10], parts["block10.attention"].numpy())


def test_modes_come_back_and_dropout_is_off():
    model = small(dropout=0.5)
    model.blocks[1].eval()
    before = [m.training for m in model.modules()]
    step = model.dropout.step
    a, b = attention_maps(model, pictures()), attention_maps(model, pictures())
    np.testing.assert_array_equal(a[1], b[1])
    with pytest.raises(ValueError, match="batch axis"):
        attention_maps(model, pictures()[0])
    assert [m.training for m in model.modules()] == before
    assert model.dropout.step == step


def test_nothing_is_recorded():
    model = small()
    attention_maps(model, pictures())
    assert all(p.grad is None for p in model.parameters())


class Silent(mv.nn.Module):
    def forward(self, x, intermediates=False):
        return x, {"hidden": x}


def test_a_model_without_attention():
    with pytest.raises(TypeError, match="Silent has no attention among its intermediates: hidden"):
        attention_maps(Silent(), mv.Tensor(pictures()))


def test_rollout_rows_sum_to_one():
    r = attention_rollout(attention_maps(small(depth=4), pictures()))
    assert r.shape == (2, 7, 7)
    np.testing.assert_allclose(r.sum(-1), 1, rtol=1e-12)
    assert (r >= 0).all()


@pytest.mark.parametrize("heads", [1, 4])
def test_rollout_of_one_image_without_a_batch_is_refused(heads):
    with pytest.raises(ValueError, match=rf"maps: expected arrays \(B, heads, N, N\), got \({heads}, 5, 5\) for layer 0"):
        attention_rollout([np.ones((heads, 5, 5)) / 5])


def test_rollout_of_identities_is_the_identity():
    eye = np.broadcast_to(np.eye(5), (2, 3, 5, 5))
    np.testing.assert_array_equal(attention_rollout([eye, eye, eye]), np.broadcast_to(np.eye(5), (2, 5, 5)))


def test_rollout_multiplies_later_layers_from_the_left():
    draw = np.random.default_rng(0)
    maps = [a / a.sum(-1, keepdims=True) for a in draw.random((3, 2, 4, 5, 5))]
    expected = np.broadcast_to(np.eye(5), (2, 5, 5))
    for a in maps:
        expected = (0.5 * a.mean(1) + 0.5 * np.eye(5)) @ expected
    np.testing.assert_allclose(attention_rollout(maps), expected, rtol=1e-12)


def test_rollout_of_nothing():
    with pytest.raises(ValueError, match="maps: expected the attention maps of at least one layer"):
        attention_rollout([])

import numpy as np
import pytest

import minivit as mv
from minivit.viz import style
from tests.viz.conftest import make, shown


def expected(model, a):
    """By hand: (heads, N, N) -> (heads, 2, 3)."""
    if model.num_prefix:
        return a[:, 0, 1:].reshape(-1, 2, 3)
    return a.mean(axis=1).reshape(-1, 2, 3)


def test_attention_shows_every_layer_and_head_on_one_scale(model, image):
    tiles = np.stack([expected(model, a[0]) for a in mv.models.attention_maps(model, image[None])])
    fig = mv.viz.attention(model, image)
    picture, ax = fig.axes[:2]
    np.testing.assert_array_equal(shown(picture), image[..., 0])
    np.testing.assert_allclose(shown(ax), style.mosaic(tiles)[0])
    assert ax.images[0].get_clim()[0] == 0
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2", "3"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "1"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    assert f"1/{6 + model.num_prefix}" in ax.get_title()
    assert ("class token" in fig.get_suptitle()) == bool(model.num_prefix)


def test_the_line_of_uniform_attention_is_on_the_scale(model, image, monkeypatch):
    """Also where the tokens look at themselves or the class token nearly alone."""
    N = 6 + model.num_prefix
    look = np.full((1, 4, N, N), 0.001)
    look[..., 0] = 0.9
    monkeypatch.setattr(mv.viz.maps, "_maps", lambda *_: [look] * 2)
    fig = mv.viz.attention(model, image)
    assert fig.axes[1].images[0].get_clim()[1] >= 1 / N
    bar = next(ax for ax in [*fig.axes, *fig.axes[1].child_axes] if ax.lines)
    low, high = bar.get_ylim()
    assert low <= bar.lines[0].get_ydata()[0] <= high


def test_one_layer_or_head_is_chosen_from_either_end(model, image):
    tiles = np.stack([expected(model, a[0]) for a in mv.models.attention_maps(model, image[None])])
    np.testing.assert_allclose(shown(mv.viz.attention(model, image, layer=-1).axes[1]), style.mosaic(tiles[1:])[0])
    np.testing.assert_allclose(shown(mv.viz.attention(model, image, head=2).axes[1]), style.mosaic(tiles[:, 2:3])[0])
    picture, heat, over, _ = mv.viz.attention(model, image, layer=1, head=-1).axes
    np.testing.assert_allclose(shown(heat), tiles[1, 3])
    below, above = over.get_images()
    np.testing.assert_array_equal(below.get_array(), image[..., 0])
    np.testing.assert_allclose(above.get_array(), tiles[1, 3])
    assert above.get_extent() == heat.images[0].get_extent() == below.get_extent()  # the map covers the image
    assert above.get_interpolation() == "nearest"
    assert 0 < above.get_alpha() < 1


def test_rollout_multiplies_the_layers(model, image):
    product = np.eye(6 + model.num_prefix)
    for a in mv.models.attention_maps(model, image[None]):
        product = (a[0].mean(axis=0) + np.eye(len(product))) / 2 @ product
    fig = mv.viz.rollout(model, image)
    np.testing.assert_allclose(shown(fig.axes[1]), expected(model, product[None])[0], rtol=1e-5)
    assert shown(fig.axes[1]).shape == (2, 3)
    assert "rollout" in fig.get_suptitle()


def test_the_model_and_the_image_stay_as_they_are(image):
    model = make(dropout=0.5)
    model.blocks[0].eval()
    model.blocks[1].train()
    weights, pixels = model.state_dict(), image.copy()
    first = shown(mv.viz.attention(model, image).axes[1])
    np.testing.assert_array_equal(first, shown(mv.viz.attention(model, image).axes[1]))  # no dropout
    assert model.blocks[1].training
    assert not model.blocks[0].training
    np.testing.assert_array_equal(image, pixels)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, weights[name])


@pytest.mark.parametrize(
    ("layer", "head", "message"),
    [(2, None, "layer: expected 0 to 1"), (None, 4, "head: expected 0 to 3"), (-3, 0, "layer"), (None, 1.0, "head"),
     (True, None, "layer")],
)  # fmt: skip
def test_layers_and_heads_that_are_not_there(image, layer, head, message):
    with pytest.raises(ValueError, match=message):
        mv.viz.attention(make(), image, layer=layer, head=head)


def test_maps_that_do_not_fit_the_grid_are_refused(image):
    model = make()
    model.num_prefix = 2
    with pytest.raises(ValueError, match=r"7 tokens, not to 2 \+ 2×3"):
        mv.viz.attention(model, image)


def test_a_model_on_a_gpu_can_be_looked_into(standin, model, image):
    here = [shown(mv.viz.attention(model, image).axes[1]), shown(mv.viz.rollout(model, image).axes[1]),
            shown(mv.viz.position_similarity(model).axes[0])]  # fmt: skip
    model.to("cuda")
    there = [shown(mv.viz.attention(model, image).axes[1]), shown(mv.viz.rollout(model, image).axes[1]),
             shown(mv.viz.position_similarity(model).axes[0])]  # fmt: skip
    for a, b in zip(here, there):
        np.testing.assert_allclose(a, b, rtol=1e-5)

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

import minivit as mv
from minivit.viz import style


def test_importing_viz_does_not_load_matplotlib():
    code = "import sys, minivit.viz; assert 'matplotlib' not in sys.modules; minivit.viz.positions([[1., 2.]]); " \
           "assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_picture_runs_under_our_style_and_puts_the_settings_back_even_after_an_error():
    @style.picture
    def draw():
        assert matplotlib.rcParams["legend.frameon"] is False
        raise KeyError("inside")

    with matplotlib.rc_context({"legend.frameon": True, "font.size": 17.0}):
        with pytest.raises(KeyError):
            draw()
        assert matplotlib.rcParams["legend.frameon"] is True
        assert matplotlib.rcParams["font.size"] == 17.0


def test_notebooks_show_a_picture_and_the_same_picture_has_the_same_bytes():
    one, two = (mv.viz.positions(mv.models.sinusoidal(4, 6))._repr_png_() for _ in range(2))
    assert one.startswith(b"\x89PNG")
    assert one == two


@pytest.mark.parametrize(
    ("eps", "text"), [(8 / 255, "8/255"), (0.15, "0.15"), (0.2, "0.2"), (1.0, "1"), (0.0314, "0.0314"), (1 / 255, "1/255"),
                      (3, "3"), (0.123456, "0.1235")]
)  # fmt: skip
def test_eps_is_written_as_people_write_it(eps, text):
    assert style.radius(eps) == text


def test_mosaic_places_each_tile_with_nan_between():
    tiles = np.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    whole, y, x = style.mosaic(tiles)
    assert whole.shape == (5, 8)
    np.testing.assert_array_equal(whole[3:5, 6:8], tiles[1, 2])
    assert np.isnan(whole[2]).all()
    assert np.isnan(whole[:, [2, 5]]).all()
    assert np.isfinite(whole).sum() == tiles.size
    assert y.tolist() == [0.5, 3.5]
    assert x.tolist() == [0.5, 3.5, 6.5]


def test_lines_differ_without_their_color_and_are_enough_for_the_benchmark():
    peers = len(mv.bench.PEERS)
    assert len({(style.line(i)["marker"], style.line(i)["linestyle"]) for i in range(peers)}) == peers
    assert len({style.line(i)["marker"] for i in range(peers)}) == len({style.line(i)["color"] for i in range(peers)}) == peers


def test_no_two_of_many_lines_are_the_same():
    looks = [(style.line(i)["color"], style.line(i)["marker"], style.line(i)["linestyle"]) for i in range(32)]
    assert len(set(looks)) == 32


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), r"images\[0\]"),
        (np.zeros((4, 4), np.float32), r"image\[..., None\]"),
        (np.zeros((4, 4, 2), np.float32), r"image: expected \(H, W, C\) with 1 or 3 channels.*\(4, 4, 2\)"),
        (np.zeros((4, 4, 1), np.uint8), "divide by 255"),
        (np.full((4, 4, 1), 255.0), "values from 255 to 255"),
        (np.full((4, 4, 1), np.nan), "NaN"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mv.viz.patches(image, 2)


def test_tensors_are_taken_as_arrays(image):
    np.testing.assert_array_equal(style.one_image(mv.Tensor(image)), image)

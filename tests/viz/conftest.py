"""A small model and its images; and, around every test, a watch on matplotlib's global state."""

import sys

import matplotlib
import numpy as np
import pytest

import minivit as mv


@pytest.fixture(autouse=True)
def matplotlib_untouched():
    """No picture may change a setting or open a figure of pyplot's."""
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


@pytest.fixture(params=["cls", "mean"])
def model(request):
    return make(request.param)


def make(pool="cls", **options):
    settings = {"image_size": (4, 6), "patch_size": 2, "channels": 1, "embed_dim": 8, "depth": 2, "num_heads": 4,
                "num_classes": 3, "pool": pool, "seed": 1}  # fmt: skip
    return mv.models.ViT(**settings | options)


@pytest.fixture
def image():
    return np.random.default_rng(0).random((4, 6, 1), dtype=np.float32)


def shown(ax):
    """The data of an axes' only image."""
    (artist,) = ax.get_images()
    return np.asarray(artist.get_array())

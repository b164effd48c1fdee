"""Images become sequences: the order of im2col, the projection as a convolution, and what is not an image."""

import numpy as np
import pytest

import minivit as mv
from minivit.models import Normalize, PatchEmbedding
from tests.models.small import SMALL, pictures, small


def test_patches_are_row_column_channel_row_by_row():
    H, W, C, P = 6, 4, 3, 2
    x = np.arange(2 * H * W * C).reshape(2, H, W, C)
    patches = mv.ops.im2col(x, patch_size=P)
    assert patches.shape == (2, (H // P) * (W // P), P * P * C)
    for b in range(2):
        for i in range(H // P):
            for j in range(W // P):
                expected = [x[b, P * i + r, P * j + s, c] for r in range(P) for s in range(P) for c in range(C)]
                assert patches[b, i * (W // P) + j].tolist() == expected


def test_patch_embedding_is_a_convolution_of_stride_p():
    H, W, C, P, D = 6, 9, 2, 3, 5
    layer = PatchEmbedding((H, W), P, C, D).to(dtype="float64")
    layer.proj.bias.assign_(np.arange(5.0))
    x = pictures(2, (H, W, C))
    kernel, bias = layer.proj.weight.numpy().reshape(P, P, C, D), layer.proj.bias.numpy()
    out = np.zeros((2, H // P, W // P, D))
    for b in range(2):
        for i in range(H // P):
            for j in range(W // P):
                for d in range(D):
                    for r in range(P):
                        for s in range(P):
                            for c in range(C):
                                out[b, i, j, d] += x[b, P * i + r, P * j + s, c] * kernel[r, s, c, d]
    np.testing.assert_allclose(layer(x).numpy(), (out + bias).reshape(2, -1, D), rtol=1e-12)
    assert layer.grid == (2, 3)
    assert layer.num_patches == 6


def test_the_projection_starts_xavier_uniform_and_small_seeds_differ():
    a = PatchEmbedding((8, 8), 4, 3, 64, seed=1).proj.weight.numpy()
    assert np.abs(a).max() <= np.sqrt(6 / (48 + 64))
    assert not np.array_equal(a, PatchEmbedding((8, 8), 4, 3, 64, seed=2).proj.weight.numpy())


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), ((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))])
def test_normalize_is_per_channel(mean, std):
    x = pictures()
    layer = Normalize(mean, std).to(dtype="float64")
    np.testing.assert_allclose(layer(x), (x - np.float32(mean)) / np.float32(std), rtol=1e-12)
    assert not list(layer.parameters())


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.0), (0.5, -1.0), ([[0.5]], 1.0), (0.5, float("nan"))])
def test_normalize_refuses(mean, std):
    with pytest.raises(ValueError, match="expected a mean and a positive std"):
        Normalize(mean, std)


def test_a_model_normalizes_first():
    plain = small(mean=0.0, std=1.0)
    other = small(mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 2.0))
    x = pictures()
    y = (x - np.float32([0.2, 0.4, 0.6])) / np.float32([0.5, 0.25, 2.0])
    np.testing.assert_allclose(other(x).numpy(), plain(y).numpy(), rtol=1e-9)


# ---- what is not an image ----

H, W, C = 12, 8, 3
EXPECTED = r"images: expected shape \(batch, 12, 8, 3\), got "
BAD = {
    "no batch axis": (np.zeros((H, W, C)), ValueError, EXPECTED + r"\(12, 8, 3\): the batch axis is missing; .*images\[None\]"),
    "no channel axis": (np.zeros((2, H, W)), ValueError, EXPECTED + r".*channel axis is missing; use images\[\.\.\., None\]"),
    "channels first": (np.zeros((2, C, H, W)), ValueError, EXPECTED + r".*channels come last, use images\.transpose\(0, 2, 3"),
    "one of them, channels first": (np.zeros((C, H, W)), ValueError, EXPECTED),
    "another size": (np.zeros((2, 16, 16, C)), ValueError, EXPECTED + r"\(2, 16, 16, 3\)"),
    "height for width": (np.zeros((2, W, H, C)), ValueError, EXPECTED),
    "other channels": (np.zeros((2, H, W, 1)), ValueError, EXPECTED + r"\(2, 12, 8, 1\)"),
    "other channels, no batch": (np.zeros((H, W, 1)), ValueError, EXPECTED + r"\(12, 8, 1\)$"),
    "a number": (0.5, ValueError, EXPECTED + r"\(\)"),
    "uint8": (np.zeros((2, H, W, C), "uint8"), TypeError, r"expected floats in \[0, 1\], got uint8; divide by 255"),
    "bool": (np.zeros((2, H, W, C), bool), TypeError, r"expected floats in \[0, 1\], got bool"),
    "0 to 255": (np.full((2, H, W, C), 254.0), ValueError, r"pixels in \[0, 1\], got values from 254 to 254; divide by 255"),
    "-127 to 0": (np.full((2, H, W, C), -127.0), ValueError, r"expected pixels in \[0, 1\], got values from -127"),
    "infinite": (np.full((2, H, W, C), np.inf), ValueError, r"expected pixels in \[0, 1\]"),
    "NaN": (np.where(np.arange(C) == 1, np.nan, 0.5) * np.ones((2, H, W, C)), ValueError, "there are NaN pixels"),
}


@pytest.mark.parametrize("wrap", [np.asarray, lambda a: mv.Tensor(np.asarray(a))], ids=["array", "Tensor"])
@pytest.mark.parametrize("fault", BAD)
def test_what_is_not_images_is_refused(fault, wrap):
    images, error, message = BAD[fault]
    with pytest.raises(error, match=message):
        small()(wrap(images))


def test_images_on_another_device_than_the_model(standin):
    model = small("float32")
    x = pictures(dtype="float32")
    with pytest.raises(TypeError, match=r"images: they are on 'cuda', the model is on 'cpu'; move one of them with \.to\('cp"):
        model(standin.asarray(x))
    model.to("cuda")
    for images in (x, mv.Tensor(x)):
        with pytest.raises(TypeError, match=r"images: they are on 'cpu', the model is on 'cuda'; .*model\.to\('cpu'\)"):
            model(images)
    with pytest.raises(ValueError, match="NaN"):
        model(standin.asarray(x * np.nan))


def test_noise_may_leave_the_unit_interval_a_little():
    assert np.isfinite(small()(pictures() * 4 - 2).numpy()).all()


@pytest.mark.parametrize("given_dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_are_cast_to_the_parameters_dtype(dtype, given_dtype):
    assert small(dtype)(pictures(dtype=given_dtype)).dtype == dtype


def test_lists_and_no_images_at_all():
    model, x = small(), pictures(1)
    np.testing.assert_array_equal(model(x.tolist()).numpy(), model(x).numpy())
    assert model(np.zeros((0, *SMALL["image_size"], 3))).shape == (0, 5)


def test_the_images_are_not_changed():
    x = pictures()
    before = x.copy()
    small()(x).sum().backward()
    np.testing.assert_array_equal(x, before)

"""The digits are scikit-learn's, split once and for all; files are found, checked, and refused with what to do."""

import gzip
import hashlib
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from minivit import data
from minivit.data import sources

ROOT = os.environ.get("MINIVIT_DATA")


def test_digits():
    train, test = data.load("digits")
    assert (len(train), len(test)) == (1437, 360)
    assert train.image_shape == test.image_shape == (8, 8, 1)
    assert train.classes == tuple("0123456789")
    assert set(np.unique(train.images * 16)) == set(range(17))
    np.testing.assert_array_equal(np.bincount(test.labels), [36] * 10)  # the whole set has 174 to 183 of each
    # The same split on every machine and in every version: figures that are published rest on it.
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update((part.images * 16).astype("u1").tobytes() + part.labels.astype("u1").tobytes())
    assert digest.hexdigest() == "bed913ae2ea87d35169532107d990348b005deb7b2a6e57814d5a0bda96705d4"


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets", reason="the source, scikit-learn, is not installed")
    source = datasets.load_digits()
    images, labels = source.images.astype(np.float32)[..., None] / 16, source.target
    test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        for r, member in enumerate(members):
            test[member] = (r + 1) * 36 // len(members) > r * 36 // len(members)
    for part, chosen in zip(data.load("digits"), (~test, test)):
        np.testing.assert_array_equal(part.images, images[chosen])
        np.testing.assert_array_equal(part.labels, labels[chosen])


def test_each_load_is_a_copy_of_its_own():
    data.load("digits")[0].images[:] = 0
    assert data.load("digits")[0].images.any()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.skipif(not ROOT, reason="set MINIVIT_DATA to the folder with MNIST's and Fashion-MNIST's files")
def test_the_real_files(name):
    train, test = data.load(name)
    assert (train.images.shape, test.images.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    zeros_and_ones = {"mnist": [980, 1135], "fashion_mnist": [1000, 1000]}[name]
    np.testing.assert_array_equal(np.bincount(test.labels)[:2], zeros_and_ones)
    assert len(train.classes) == 10
    assert train.images.max() == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minst", "did you mean 'mnist'"),
        ("Fashion-MNIST", "did you mean 'fashion_mnist'"),
        ("digit", "did you mean 'digits'"),
        ("qqqq", "unknown data set 'qqqq': there are digits, mnist, fashion_mnist"),
    ],
)
def test_an_unknown_name(name, words):
    with pytest.raises(ValueError, match=words):
        data.load(name)


def test_names_are_those_that_load_knows():
    assert data.names() == ["digits", "mnist", "fashion_mnist"]


def test_missing_files_say_which_where_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIVIT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="get the four files from https://.*root=FOLDER .* or set MINIVIT_DATA"):
        data.load("mnist")
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(FileNotFoundError) as caught:
        data.load("mnist", root=tmp_path)
    text = str(caught.value)
    assert f"not found in {tmp_path / 'mnist'} " in text
    assert "train-labels-idx1-ubyte" in text
    assert "train-images-idx3-ubyte" not in text
    assert str(tmp_path / "MNIST" / "raw") in text
    monkeypatch.setenv("MINIVIT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        data.load("fashion_mnist")
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere/photos'"):
        data.load("nowhere/photos")
    with pytest.raises(FileNotFoundError, match="no folder"):
        data.load(tmp_path / "nowhere")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Two sets of the same format as the real ones, small, with their digests in the real table."""
    for seed, (name, folder) in enumerate([("mnist", "mnist"), ("fashion_mnist", "fashion-mnist")]):
        rng = np.random.default_rng(seed)
        (tmp_path / folder).mkdir()
        digests = []
        for file in sources._FILES:
            n = 20 if "train" in file else 10
            shape = (n, 4, 4) if "images" in file else (n,)
            values = rng.integers(0, 256 if "images" in file else 10, shape, dtype=np.uint8)
            content = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()
            (tmp_path / folder / f"{file}.gz").write_bytes(gzip.compress(content))
            digests.append(hashlib.md5(content).hexdigest())
        monkeypatch.setitem(sources._MD5, name, tuple(digests))
    return tmp_path


def test_files_are_found_in_every_place_that_is_promised(tiny, monkeypatch):
    expected = data.load("mnist", root=tiny)[0]
    assert expected.image_shape == (4, 4, 1)
    monkeypatch.setenv("MINIVIT_DATA", str(tiny))
    np.testing.assert_array_equal(data.load("mnist")[0].images, expected.images)
    np.testing.assert_array_equal(data.load("mnist", root=tiny / "mnist")[0].images, expected.images)  # the root itself
    shutil.copytree(tiny / "mnist", tiny / "t" / "MNIST" / "raw")
    for path in (tiny / "t" / "MNIST" / "raw").iterdir():  # unpacked, with the dots that some copies have
        plain = path.with_name(path.name.replace("-idx", ".idx").removesuffix(".gz"))
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    np.testing.assert_array_equal(data.load("mnist", root=tiny / "t")[0].images, expected.images)


def test_a_set_in_the_root_does_not_hide_the_other_in_its_subfolder(tiny):
    for path in (tiny / "mnist").iterdir():
        shutil.copy(path, tiny)
    assert data.load("fashion_mnist", root=tiny)[0].classes[0] == "T-shirt/top"


def test_files_of_the_other_set_are_told_apart(tiny):
    with pytest.raises(ValueError, match="altered.*this is a file of fashion_mnist"):
        data.load("mnist", root=tiny / "fashion-mnist")


@pytest.mark.parametrize("file", range(4))
def test_truncated_and_altered_files_are_refused(tiny, file):
    path: Path = tiny / "mnist" / f"{sources._FILES[file]}.gz"
    content = gzip.decompress(path.read_bytes())
    altered = bytearray(content)
    altered[-1] ^= 1
    for bad, words in [
        (path.read_bytes()[:-9], "truncated"),
        (gzip.compress(content[:-1]), "truncated"),
        (gzip.compress(bytes(altered)), "altered"),
        (b"", "truncated"),
        (b"<html>not found</html>", "not an idx file"),
    ]:
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=f"mnist: .*{path.name}.*{words}"):
            data.load("mnist", root=tiny)

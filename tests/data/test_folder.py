"""A folder of images: classes by name, gray and color, one size, and clear words for what cannot be."""

import struct
import zlib

import numpy as np
import pytest

from minivit import data

Image = pytest.importorskip("PIL.Image", reason="Pillow, which comes with matplotlib, is not installed")


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def gray(value, size=(4, 6)):
    return np.full(size, value)


@pytest.fixture
def photos(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for name, value in (("dog", 100), ("cat", 200)):
            for i in range(count):
                save(tmp_path / part / name / f"{i}.png", gray(value + i))
    return tmp_path


def test_train_and_test_folders(photos):
    (photos / "train" / "cat" / "readme.txt").write_text("not an image")
    (photos / "train" / "cat" / ".hidden.png").write_text("not an image")
    train, test = data.load(str(photos))
    assert train.classes == test.classes == ("cat", "dog")
    assert train.images.shape == (6, 4, 6, 1)
    np.testing.assert_array_equal(train.labels, [0, 0, 0, 1, 1, 1])
    expected = np.float32([200, 201, 202, 100, 101, 102]) / np.float32(255)
    np.testing.assert_array_equal(train.images[:, 0, 0, 0], expected)
    np.testing.assert_array_equal(test.labels, [0, 0, 1, 1])


def test_one_folder_is_split_by_class_the_same_way_always(tmp_path):
    for name in ("a", "b"):
        for i in range(10):
            save(tmp_path / name / f"{i}.png", gray(i))
    train, test = data.load(tmp_path)
    assert (len(train), len(test)) == (16, 4)
    np.testing.assert_array_equal(np.bincount(test.labels), [2, 2])
    np.testing.assert_array_equal(data.load(tmp_path)[1].images, test.images)


def test_one_color_image_makes_all_of_them_color_in_order_red_green_blue(photos):
    save(photos / "test" / "cat" / "0.png", np.broadcast_to([10, 20, 30], (4, 6, 3)))
    save(photos / "train" / "cat" / "0.png", np.broadcast_to([10, 20, 30, 255], (4, 6, 4)))
    train, test = data.load(photos)
    for part in (train, test):
        assert part.image_shape == (4, 6, 3)
        np.testing.assert_array_equal(part.images[0, 2, 3], np.float32([10, 20, 30]) / np.float32(255))
    np.testing.assert_array_equal(train.images[1, 2, 3], np.float32([201] * 3) / np.float32(255))


def test_sizes_that_differ_need_image_size(photos):
    save(photos / "test" / "dog" / "0.png", gray(7, (8, 8)))
    with pytest.raises(ValueError, match=r"dog.0\.png is 8x8, but .*cat.0\.png is 4x6.*image_size"):
        data.load(photos)
    assert data.load(photos, image_size=(3, 5))[1].image_shape == (3, 5, 1)
    train, test = data.load(photos, image_size=8)
    assert train.image_shape == test.image_shape == (8, 8, 1)
    np.testing.assert_array_equal(test.images[2], np.full((8, 8, 1), np.float32(7) / np.float32(255)))
    for bad, error in ((0, ValueError), (2.5, TypeError), ((4, -1), ValueError)):
        with pytest.raises(error, match="image_size"):
            data.load(photos, image_size=bad)
    with pytest.raises(ValueError, match="image_size"):
        data.load("digits", image_size=8)


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    for i in range(2):
        save(tmp_path / "train" / "a" / f"{i}.jpg", gray(i), exif=exif)
        save(tmp_path / "test" / "a" / f"{i}.jpg", gray(i), exif=exif)
    assert data.load(tmp_path)[0].image_shape == (6, 4, 1)


def test_what_cannot_be_read_is_named(photos):
    bad = photos / "train" / "dog" / "bad.png"
    whole = (photos / "train" / "dog" / "0.png").read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.png: not a readable image"):
            data.load(photos)
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(bad)
    with pytest.raises(ValueError, match="mode I;16, or of 16 bits; save it with 8 bits"):
        data.load(photos)


def test_a_palette_of_grays_is_gray(tmp_path):
    for i in range(3):
        for name in ("a", "b"):
            save(tmp_path / name / f"{i}.gif", gray(50 * i))
            save(tmp_path / name / f"{i}.png", gray(50 * i))
    with Image.open(tmp_path / "a" / "1.gif") as image:
        image.convert("P").save(tmp_path / "a" / "palette.png")
    train, test = data.load(tmp_path)
    assert train.image_shape == (4, 6, 1)
    assert {round(255 * float(v)) for v in np.unique(np.concatenate([train.images, test.images]))} == {0, 50, 100}


def png16(path):
    """Pillow writes none of 16 bits and three colors."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + np.full(3 * 6, 300, ">u2").tobytes() for _ in range(4))
    head = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def ppm16(path):
    path.write_bytes(b"P6 6 4 65535\n" + np.full(3 * 6 * 4, 300, ">u2").tobytes())


@pytest.mark.parametrize(("make", "name"), [(png16, "bad.png"), (ppm16, "bad.ppm")])
def test_colors_of_16_bits_are_not_cut_to_8(photos, make, name):
    make(photos / "train" / "dog" / name)
    with pytest.raises(ValueError, match="mode RGB, or of 16 bits; save it with 8 bits"):
        data.load(photos)


def test_a_class_with_one_image_cannot_be_split(tmp_path):
    for name, n in (("a", 1), ("b", 1), ("c", 1)):
        for i in range(n):
            save(tmp_path / name / f"{i}.png", gray(i))
    with pytest.raises(ValueError, match="of the class 'a' there are too few images to keep some for testing"):
        data.load(tmp_path)


def test_image_size_is_one_number_or_two(photos):
    with pytest.raises(ValueError, match=r"image_size: expected a number of pixels, or \(height, width\), got \(3, 4, 5\)"):
        data.load(photos, image_size=(3, 4, 5))


def test_folders_without_images_or_with_other_classes(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images"):
        data.load(tmp_path / "empty")
    for path in (photos / "train" / "cat").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"test.cat.0\.png: there are no images of its class 'cat' in .*train to learn from"):
        data.load(photos)
    few = tmp_path / "few"
    for i in range(2):
        save(few / "a" / f"{i}.png", gray(i))
    with pytest.raises(ValueError, match="few: 2 images are too few"):
        data.load(few)
    save(photos / "test" / "eel" / "0.png", gray(1))
    with pytest.raises(ValueError, match="the class 'eel' is not among those of .*train: cat, dog"):
        data.load(photos)

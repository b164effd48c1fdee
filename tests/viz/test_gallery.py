import numpy as np
import pytest

import minivit as mv
from tests.viz.conftest import shown


def test_images_shows_the_first_with_their_labels():
    train, _ = mv.data.load("digits")
    fig = mv.viz.images(train, limit=10)
    titled = [ax for ax in fig.axes if ax.get_images()]
    assert len(titled) == 10
    for i, ax in enumerate(titled):
        np.testing.assert_array_equal(shown(ax), train.images[i, ..., 0])
        assert ax.images[0].get_clim() == (0, 1)
        assert ax.get_title() == train.classes[train.labels[i]]
    assert fig.get_suptitle() == "10 of 1,437 images, 8×8×1"


def test_images_refuses_a_limit_below_one():
    with pytest.raises(ValueError, match="limit"):
        mv.viz.images(mv.data.load("digits")[1], limit=0)


def test_confusion_counts_and_shades_by_row():
    labels, predictions = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 2, 1, 2])
    fig = mv.viz.confusion(labels, predictions, ["a", "b", "c"])
    ax = fig.axes[0]
    np.testing.assert_allclose(shown(ax), [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 1]])
    assert {t.get_position(): t.get_text() for t in ax.texts} == {(0, 0): "3", (2, 0): "1", (1, 1): "1", (2, 2): "1"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c"]
    assert "83.33 % of 6" in ax.get_title()


def test_confusion_of_labels_in_few_bits():
    labels = np.arange(20, dtype=np.uint8)
    np.testing.assert_array_equal(shown(mv.viz.confusion(labels, labels).axes[0]), np.eye(20))


@pytest.mark.parametrize(("classes", "shown_of_them"), [(100, 50), (1000, 50), (10, 10)])
def test_of_many_classes_every_so_many_is_named(classes, shown_of_them):
    labels = np.arange(classes, dtype=np.uint64)
    ax = mv.viz.confusion(labels, labels, ["very long name " + "x" * 80 + str(i) for i in range(classes)]).axes[0]
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert len(names) == shown_of_them
    assert max(map(len, names)) <= 20


def test_a_class_that_never_occurs_has_an_empty_row():
    assert not shown(mv.viz.confusion(np.array([0, 2]), np.array([0, 2])).axes[0])[1].any()


@pytest.mark.parametrize(
    ("labels", "predictions", "classes", "message"),
    [
        ([0, 1], np.zeros((2, 3)), None, r"predictions: .*argmax"),
        ([0, 1], [0], None, "expected one per label, 2, got 1"),
        ([0, -1], [0, 1], None, "labels: expected class numbers"),
        ([0, 1], [0, 2], ["a", "b"], "class 2 occurs"),
        ([], [], None, "labels: expected class numbers"),
    ],
)
def test_bad_labels(labels, predictions, classes, message):
    with pytest.raises(ValueError, match=message):
        mv.viz.confusion(np.array(labels), np.array(predictions), classes)

from types import SimpleNamespace

import numpy as np
import pytest

import minivit as mv


def curve(eps, accuracy, **more):
    eps, accuracy = np.array(eps, float), np.array(accuracy, float)
    known = {"low": accuracy - 0.05, "high": accuracy + 0.02, "n": np.full(len(eps), 360), "norm": "linf", "attack": "pgd"}
    return SimpleNamespace(eps=eps, accuracy=accuracy, **known | more)


def test_robust_accuracy_draws_the_points_in_order_with_their_intervals():
    fig = mv.viz.robust_accuracy(curve([8 / 255, 0, 4 / 255], [0.2, 0.9, 0.5]))
    (ax,) = fig.axes
    (container,) = ax.containers
    points, _, (bars,) = container
    np.testing.assert_allclose(points.get_xdata(), [0, 4 / 255, 8 / 255])
    np.testing.assert_allclose(points.get_ydata(), [90, 50, 20])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, [[85, 92], [45, 52], [15, 22]])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "4/255", "8/255"]
    assert "L∞" in ax.get_xlabel()
    assert "%" in ax.get_ylabel()
    assert "95 % intervals; attack: pgd; 360 images" in ax.get_title()
    assert ax.get_legend() is None


def test_models_differ_in_marker_and_dash_and_are_named():
    fig = mv.viz.robust_accuracy({"natural": curve([0, 0.1], [1, 0]), "robust": curve([0, 0.1], [0.9, 0.7])})
    (ax,) = fig.axes
    a, b = (container[0] for container in ax.containers)
    assert a.get_marker() != b.get_marker()
    assert a.get_linestyle() != b.get_linestyle()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["natural", "robust"]


def test_names_are_drawn_as_they_are():
    """A dollar begins no formula, and a name that begins with _ is in the legend too."""
    names = ["_best", "a $x_{$", "$5 and $6"]
    fig = mv.viz.robust_accuracy({name: curve([0, 0.1], [1, 0]) for name in names})
    fig.canvas.draw()
    texts = fig.axes[0].get_legend().get_texts()
    assert [t.get_text().replace(r"\$", "$") for t in texts] == names
    assert not any(t.get_text().replace(r"\$", "").count("$") for t in texts)


def test_one_epoch_has_one_tick():
    fig = mv.viz.training([{"epoch": 1, "loss": 1.2, "train_loss": 1.0, "test_loss": 1.1}])
    fig.canvas.draw()
    low, high = fig.axes[0].get_xlim()
    assert [t for t in fig.axes[0].get_xticks() if low <= t <= high] == [1]
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in fig.axes[0].lines]
    assert len(set(looks)) == len(looks) == 3


def test_a_real_curve():
    train, test = mv.data.load("digits")
    model = mv.models.ViT(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=1, num_heads=1, num_classes=10)
    measured = mv.attacks.robust_accuracy(model, test[:8], attack="fgsm", eps=[0, 0.1])
    points = mv.viz.robust_accuracy(measured).axes[0].containers[0][0]
    np.testing.assert_allclose(points.get_ydata(), 100 * measured.accuracy)


@pytest.mark.parametrize(
    ("curves", "message"),
    [({}, "got none"), ([0.1, 0.2], "list"), ({"a": curve([0, 1], [1, 0], low=np.zeros(1))}, "a is a SimpleNamespace"),
     ({"a": curve([0], [1]), "b": curve([0], [1], norm="l2")}, "different norms")],
)  # fmt: skip
def test_what_is_no_curve_is_refused(curves, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mv.viz.robust_accuracy(curves)


ROWS = [
    {"epoch": 3, "lr": 0.1, "train_loss": 2.0, "train_accuracy": 0.5, "test_accuracy": None, "seconds": 1.0},
    {"epoch": 4, "lr": 0.2, "train_loss": 1.0, "train_accuracy": 0.75, "test_accuracy": 0.8, "seconds": 1.0},
]


def test_training_shows_loss_accuracy_and_learning_rate():
    rows = [dict(row) for row in ROWS]
    loss, accuracy, rate = mv.viz.training(rows).axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[3, 2.0], [4, 1.0]])
    train, test = accuracy.lines
    np.testing.assert_array_equal(train.get_ydata(), [50, 75])
    np.testing.assert_array_equal(test.get_ydata(), [np.nan, 80])
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), [0.1, 0.2])
    assert [t.get_text() for t in accuracy.get_legend().get_texts()] == ["train", "test"]
    assert train.get_linestyle() != test.get_linestyle()
    assert {ax.get_xlabel() for ax in (loss, accuracy, rate)} == {"epoch"}
    assert "%" in accuracy.get_ylabel()
    assert "nats" in loss.get_ylabel()
    assert rows == ROWS


def test_panels_without_numbers_are_left_out():
    (loss,) = mv.viz.training([{"loss": 1.0}, {"loss": 0.5}]).axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[1, 1.0], [2, 0.5]])


@pytest.mark.parametrize(("history", "message"), [([], "no epochs"), ([1.0], "one dict per epoch"),
                                                  ([{"seconds": 3}], "only seconds")])  # fmt: skip
def test_what_is_no_history_is_refused(history, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mv.viz.training(history)

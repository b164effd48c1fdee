from types import SimpleNamespace

import numpy as np
import pytest

import minivit as mv
from tests.viz.conftest import make, shown


def sums(x):
    """A classifier with a known answer: class 1 exactly where the first pixel is above one half."""
    x = mv.Tensor(x) if isinstance(x, np.ndarray) else x
    first = x[:, 0, 0, 0]
    return mv.ops.stack(0.5 - first, first - 0.5, axis=1) * 10.0


@pytest.fixture
def case():
    x = np.full((3, 2, 2, 1), 0.5, np.float32)
    x[:, 0, 0, 0] = [0.4, 0.6, 0.8]
    x_adv = x.copy()
    x_adv[:, 0, 0, 0] += np.float32([0.2, -0.2, -0.1])
    x_adv[0, 1, 1, 0] -= np.float32(0.05)
    success = np.array([True, True, False])
    return x, SimpleNamespace(x_adv=x_adv, success=success, attack="PGD-7", norm="linf", eps=8 / 255), np.array([0, 1, 1])


def test_three_rows_with_answers_and_confidence(case):
    x, result, y = case
    fig = mv.viz.adversarial(sums, x, result, y, classes=["dark", "bright"])
    axes = np.array(fig.axes[:9]).reshape(3, 3)
    for i in range(3):
        np.testing.assert_array_equal(shown(axes[0, i]), x[i, ..., 0])
        np.testing.assert_allclose(shown(axes[1, i]), (result.x_adv - x)[i, ..., 0], atol=1e-7)
        np.testing.assert_array_equal(shown(axes[2, i]), result.x_adv[i, ..., 0])
    assert [ax.get_title() for ax in axes[0]] == ["true: dark", "true: bright", "true: bright"]
    # logits 10 (1/2 - p) and 10 (p - 1/2): sigmoid(20 · 0.1) = 88 %, sigmoid(20 · 0.3) = 99.8 %
    assert [ax.get_xlabel() for ax in axes[0]] == ["dark (88 %)\nright", "bright (88 %)\nright", "bright (99.8 %)\nright"]
    assert [ax.get_xlabel() for ax in axes[2]] == ["bright (88 %)\nfooled", "dark (88 %)\nfooled", "bright (98 %)\nnot fooled"]
    assert axes[0, 0].get_ylabel() == "clean"
    assert axes[2, 0].get_ylabel() == "adversarial"


def test_the_perturbation_is_signed_on_one_symmetric_scale_and_the_factor_is_written(case):
    x, result, y = case
    fig = mv.viz.adversarial(sums, x, result, y)
    axes = np.array(fig.axes[:9]).reshape(3, 3)
    for ax in axes[1]:
        low, high = ax.images[0].get_clim()
        assert low == -high
        assert high == pytest.approx(0.2)
    assert axes[1, 0].get_ylabel() == "perturbation\n× 2.5, gray is 0"
    assert axes[1, 0].get_xlabel() == "L∞ 0.2"
    ticks = [t.get_text() for t in fig.axes[9].get_yticklabels()]
    assert ticks == ["-0.2", "0", "+0.2"]


def test_the_title_says_what_was_done(case):
    x, result, y = case
    title = mv.viz.adversarial(sums, x, result, y, limit=2).get_suptitle()
    assert title == "PGD-7, L∞, ε = 8/255, first 2 of 3 images\n2 of 3 misclassified"


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_title_fits_its_figure(case, limit):
    x, result, y = case
    fig = mv.viz.adversarial(sums, x, result, y, limit=limit)
    fig.canvas.draw()
    extent = fig._suptitle.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= fig.bbox.width


def test_a_dollar_in_a_class_is_a_dollar(case):
    x, result, y = case
    fig = mv.viz.adversarial(sums, x, result, y, classes=["$5 and $x_{10", "b"])
    fig.canvas.draw()
    assert fig.axes[0].get_title() == r"true: \$5 and \$x_{10"


def test_wrong_before_is_not_called_fooled(case):
    x, result, y = case
    fig = mv.viz.adversarial(sums, x, result, 1 - y)
    axes = np.array(fig.axes[:9]).reshape(3, 3)
    assert axes[0, 2].get_xlabel().endswith("\nwrong")
    assert axes[2, 2].get_xlabel().endswith("\nstill wrong")
    assert axes[2, 0].get_xlabel().endswith("\nnot fooled")


def test_color_images_show_gray_where_nothing_was_added():
    x = np.full((1, 2, 2, 3), 0.5)
    x_adv = x.copy()
    x_adv[0, 0, 0] = [0.75, 0.5, 0.375]
    fig = mv.viz.adversarial(sums, x, SimpleNamespace(x_adv=x_adv), np.array([0]))
    added = shown(fig.axes[1])
    np.testing.assert_allclose(added[0, 0], [1, 0.5, 0.25])
    np.testing.assert_allclose(added[1:], 0.5)
    assert "gray is 0" in fig.axes[1].get_ylabel()


def test_nothing_added_is_drawn_as_nothing(case):
    x, _, y = case
    fig = mv.viz.adversarial(sums, x, SimpleNamespace(x_adv=x), y)
    assert not shown(fig.axes[3]).any()


def test_a_real_attack_and_everything_stays_as_it_was(image):
    model = make(dropout=0.5)
    model.train()
    x, y = np.stack([image, image[::-1], image[:, ::-1]]), np.array([0, 1, 2])
    result = mv.attacks.pgd(model, x, y, eps=0.1, steps=2, norm="l2")
    kept, kept_adv, weights = x.copy(), result.x_adv.copy(), model.state_dict()
    fig = mv.viz.adversarial(model, x, result, y, limit=3)
    assert "L2, ε = 0.1" in fig.get_suptitle()
    assert fig.axes[3].get_xlabel() == f"L2 {result.distance['l2'][0]:.3g}"
    for i in range(3):
        assert fig.axes[i].get_xlabel().startswith(f"{result.prediction[i]} (")
        assert fig.axes[6 + i].get_xlabel().startswith(f"{result.prediction_adv[i]} (")
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(result.x_adv, kept_adv)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, weights[name])


def test_long_names_are_cut(case):
    x, result, y = case
    fig = mv.viz.adversarial(sums, x, result, y, classes=["great white shark, white shark, man-eater", "b"])
    assert fig.axes[0].get_title() == "true: great white shark…"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 2, 2, 1))}, r"x_adv has shape \(3, 2, 2, 1\), x has \(2, 2, 2, 1\)"),
        ({"y": np.array([0, 1])}, "y: expected 3 integer labels"),
        ({"y": np.array([0.0, 1.0, 1.0])}, "y: expected 3 integer labels, one per image, got float64"),
        ({"y": np.array([0, 1, 2])}, "2 classes"),
        ({"classes": ["one"]}, "1 names"),
        ({"limit": 0}, "limit"),
    ],
)
def test_bad_input(case, change, message):
    x, result, y = case
    arguments = {"x": x, "y": y} | change
    with pytest.raises(ValueError, match=message):
        mv.viz.adversarial(sums, arguments.pop("x"), result, arguments.pop("y"), **arguments)


def test_a_model_on_a_gpu_answers_too(standin, image):
    model, x, y = make(), image[None], np.array([0])
    result = mv.attacks.fgsm(model, x, y, eps=0.1)
    here = mv.viz.adversarial(model, x, result, y)
    there = mv.viz.adversarial(model.to("cuda"), x, result, y)
    assert [ax.get_xlabel() for ax in here.axes] == [ax.get_xlabel() for ax in there.axes]

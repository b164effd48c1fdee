"""Bad input: one clear error each, which names the argument, says what came and what to do."""

import warnings

import numpy as np
import pytest

import minivit as mv
from tests.attacks.victims import images, mlp

X, Y = images(0, 4, dtype="float32")
MODEL = mlp(0, 12, dtype="float32")
NAN = X.copy()
NAN[2, 0, 0, 0] = np.nan

SHARED = {  # name -> (what is given instead, error, what its text says)
    "not callable": ({"model": 3}, TypeError, "model: expected a callable"),
    "uint8": ({"x": (X * 255).astype("uint8")}, TypeError, "x: images are uint8.* / 255"),
    "scale of 255": ({"x": X * 255}, ValueError, r"x: pixels range from 0 to 255, outside bounds=\(0.0, 1.0\); .* x / 255"),
    "normalized": ({"x": X * 2 - 1}, ValueError, "x: pixels range from -1 to 1, outside .* first layer"),
    "half": ({"x": X.astype("float16")}, TypeError, "x: images are float16, expected float32 or float64"),
    "NaN": ({"x": NAN}, ValueError, r"x: image 2 contains NaN \(1 such"),
    "infinity": ({"x": np.where(np.isnan(NAN), np.inf, X)}, ValueError, "x: pixels range from 0 to inf"),
    "no batch axis": ({"x": X[0, 0, 0]}, ValueError, r"x: got shape \(2,\).*x\[None\]"),
    "one image": ({"x": X[0], "y": Y[:1]}, ValueError, r"y: got shape \(1,\), expected \(2,\).*give x\[None\]"),
    "no pixels": ({"x": X[:, :0]}, ValueError, r"x: got shape \(4, 0, 3, 2\)"),
    "float labels": ({"y": Y.astype("float32")}, TypeError, "y: labels must be integers, got float32"),
    "one-hot labels": ({"y": np.eye(3, dtype=int)[Y]}, ValueError, r"y: got shape \(4, 3\).*one-hot.*argmax"),
    "negative label": ({"y": Y - 3}, ValueError, "y: labels must be 0, 1, ..., got -"),
    "label too large": ({"y": np.array([0, 1, 7, 2])}, ValueError, "y: image 2 has label 7, but the model has 3 classes"),
    "too few labels": ({"y": Y[:3]}, ValueError, r"y: got shape \(3,\), expected \(4,\)"),
    "negative eps": ({"eps": -0.1}, ValueError, "eps: expected a radius >= 0, got -0.1"),
    "NaN eps": ({"eps": float("nan")}, ValueError, "eps: expected a finite number, got nan"),
    "eps of a list": ({"eps": [0.1]}, TypeError, r"eps: expected a number, got \[0.1\]"),
    "eps a text": ({"eps": "8/255"}, TypeError, "eps: expected a number, got '8/255'"),
    "eps of 255": ({"eps": 8}, ValueError, r"eps: got 8, beyond the range of a pixel, 1; .*write 8/255"),
    "eps beyond the l2 diameter": ({"eps": 4, "norm": "l2"}, ValueError, "eps: got 4, beyond the l2 diameter.*12 pixels, 3.46"),
    "eps beyond the l1 diameter": ({"eps": 12.1, "norm": "l1"}, ValueError, "eps: got 12.1, beyond the l1 diameter.*, 12"),
    "unknown norm": ({"norm": "Linf"}, ValueError, "norm: got 'Linf', expected .*did you mean 'linf'"),
    "norm a number": ({"norm": 2}, ValueError, "norm: got 2, expected one of 'linf', 'l2', 'l1'"),
    "targets equal to y": ({"targets": Y}, ValueError, "targets: image 0 has target .*which is its label"),
    "target too large": ({"targets": Y + 3}, ValueError, "targets: image . has label ., but the model has 3 classes"),
    "float targets": ({"targets": (Y + 1.0) % 3}, TypeError, "targets: labels must be integers"),
    "one target": ({"targets": 1}, ValueError, r"targets: got shape \(\), expected \(4,\)"),
    "bounds reversed": ({"bounds": (1, 0)}, ValueError, r"bounds: expected lo < hi, got \(1.0, 0.0\)"),
    "bounds NaN": ({"bounds": (0, float("nan"))}, ValueError, "bounds: expected lo < hi"),
    "bounds a number": ({"bounds": 1}, ValueError, "bounds: expected two numbers"),
    "batch size": ({"batch_size": 0}, ValueError, "batch_size: expected an integer of at least 1, got 0"),
    "probability model": ({"model": lambda x: x.numpy()}, TypeError, "model: returned ndarray, expected a Tensor of logits"),
    "logits of one column": ({"model": lambda x: MODEL(x)[:, :1]}, ValueError, r"model: returned shape \(1, 1\) for 1 images"),
    "logits without batch": ({"model": lambda x: MODEL(x)[0]}, ValueError, r"model: returned shape \(3,\)"),
    "NaN logits": ({"model": lambda x: MODEL(x) * float("nan")}, ValueError, "model: its logits contain NaN"),
    "cut graph": ({"model": lambda x: MODEL(x.detach())}, ValueError, "model: its logits do not depend on the images"),
    "NaN gradient": (
        {"model": lambda x: mv.ops.sqrt(x * 0.0).reshape(len(x), 12)}, ValueError, "model: the gradient .* NaN or infinity"
    ),
}
ITERATED = {
    "no steps": ({"steps": 0}, ValueError, "steps: expected an integer of at least 1, got 0"),
    "steps a float": ({"steps": 10.0}, TypeError, "steps: expected an integer, got 10.0"),
    "steps a bool": ({"steps": True}, TypeError, "steps: expected an integer, got True"),
    "negative step": ({"step_size": -0.1}, ValueError, "step_size: expected a length >= 0, got -0.1"),
    "no restarts": ({"restarts": 0}, ValueError, "restarts: expected an integer of at least 1"),
    "keep": ({"keep": "first"}, ValueError, "keep: got 'first', expected one of 'best', 'last'"),
    "seed": ({"seed": 0.5}, TypeError, "seed is 0.5"),
    "index too short": ({"index": [0, 1]}, ValueError, r"index: expected 4 integers .* got int64 of shape \(2,\)"),
    "index negative": ({"index": [0, 1, -1, 2]}, ValueError, "index: expected 4 integers >= 0.* from -1"),
    "index of floats": ({"index": [0.0, 1, 2, 3]}, ValueError, "index: expected 4 integers .*float64"),
}


SHARED["labels beyond int64"] = ({"y": np.full(len(X), 2**63 + 1, np.uint64)}, ValueError, "y: .* got 9223372036854775809")


def arguments(change):
    return {"model": MODEL, "x": X, "y": Y, "eps": 0.1, **change}


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_bad_input_of_every_attack(attack, case):
    change, error, text = SHARED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of 1 / 0 inside the model
        with pytest.raises(error, match=text):
            getattr(mv.attacks, attack)(**arguments(change))


@pytest.mark.parametrize("case", ITERATED)
def test_bad_input_of_pgd(case):
    change, error, text = ITERATED[case]
    with pytest.raises(error, match=text):
        mv.attacks.pgd(**arguments(change))


def test_a_model_that_returns_probabilities_is_warned_of_once():
    for attack in (mv.attacks.fgsm, mv.attacks.pgd):
        with pytest.warns(UserWarning, match="model: it returns probabilities") as caught:
            attack(lambda x: mv.ops.softmax(MODEL(x)), X, Y, eps=0.1, batch_size=2)
        assert [w.filename for w in caught] == [__file__]  # once, and where the attack was called
    mv.attacks.fgsm(lambda x: mv.ops.softmax(MODEL(x)) * 0.9, X, Y, eps=0.1)  # warnings are errors here


def test_edges_of_the_allowed_are_allowed():
    for norm, eps in (("linf", 1), ("l2", 12**0.5), ("l1", 12), ("linf", np.float32(0.5)), ("l2", np.int64(1))):
        mv.attacks.pgd(MODEL, X, Y, eps=eps, norm=norm, steps=np.int64(2))


def test_pixels_beyond_the_bounds_by_a_rounding_are_shown_as_such():
    x = np.full((2, 4, 4, 1), 0.5, np.float32)
    x[1, 2, 3, 0] = np.nextafter(np.float32(1), np.float32(2))
    with pytest.raises(ValueError, match=r"x: pixels range from 0\.5 to 1\.0000001, outside .*: np\.clip\(x, \*bounds\)"):
        mv.attacks.pgd(lambda images: images.reshape(len(images), -1)[:, :3], x, [0, 1])

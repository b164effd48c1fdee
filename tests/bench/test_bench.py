"""The benchmark itself: that it alternates, reports what it measured, and refuses to time different numbers."""

import json
import time
from importlib.util import find_spec

import numpy as np
import pytest

import minivit as mv
from minivit.bench import rows, torch_vit


def test_candidates_take_turns_and_the_slower_is_slower():
    calls = []

    def pause(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    timings = mv.bench.alternate({"a": lambda: pause("a", 0.004), "b": lambda: pause("b", 0.012)}, rounds=3, min_seconds=0)
    assert calls == ["a", "a", "b", "b", *["a", "b"] * 3]  # a warm-up and a first look, then in turn
    assert timings["a"].median < timings["b"].median
    assert timings["a"].low <= timings["a"].median <= timings["a"].high
    assert timings["a"].rounds == 3


def test_a_quick_candidate_is_called_several_times_a_round():
    calls = []
    mv.bench.alternate({"a": lambda: calls.append(time.sleep(0.001))}, rounds=2, min_seconds=0.02)
    assert 2 + 2 * 5 < len(calls) <= 2 + 2 * 20


def test_a_row_and_its_table():
    (row,) = mv.bench.run(["train-digits"], rounds=1)
    text, data = mv.bench.as_text([row]), json.loads(mv.bench.as_json([row]))
    assert text.splitlines()[1].startswith("train-digits")
    assert data["rows"][0]["seconds"]["minivit"]["median"] == row.seconds["minivit"].median > 0
    assert {"processor", "cores", "numpy", "blas"} <= data["machine"].keys()
    if find_spec("torch") is None:
        assert row.ratio is None
        assert "none installed" in text
    else:
        assert row.ratio == row.seconds["pytorch"].median / row.seconds["minivit"].median
        assert row.gap < 1e-4


def test_different_numbers_are_not_timed(monkeypatch):
    pytest.importorskip("torch", reason="there is no peer to differ from: PyTorch is not installed")
    gradients = torch_vit.gradients
    monkeypatch.setattr(rows.torch_vit, "gradients", lambda p: {n: 1.01 * g for n, g in gradients(p).items()})
    with pytest.raises(AssertionError, match="different numbers"):
        mv.bench.run(["train-digits"], rounds=1)


def test_every_row_names_a_model_that_can_be_made():
    for what, settings, batch in mv.bench.ROWS.values():
        assert batch >= 1
        if what != "import":
            model = mv.models.create(**settings, seed=None) if "name" in settings else mv.models.ViT(**settings, seed=None)
            assert np.prod(model.config.image_size) > 0

"""Runs on disk: a run that is stopped, in whatever way, ends with the bits of one that was not."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minivit as mv
from minivit.io import read_arrays, read_jsonl
from tests.train.small import OPTIONS, Linear, digits, make_model

ROOT = Path(__file__).parents[2]
ONE_THREAD = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing stopped: (folder, history, weights)."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    model = make_model()
    history = mv.train.fit(model, *data, run_dir=folder, **OPTIONS)
    return folder, history, model.state_dict()


class Stop(Exception):
    pass


def stopped_after(steps):
    """The ordinary objective, but the power goes at the beginning of step number `steps`."""
    ordinary = mv.train.CrossEntropy(OPTIONS["label_smoothing"])

    def objective(model, images, labels, indices, step):
        if step == steps:
            raise Stop
        return ordinary(model, images, labels, indices, step)

    return objective


def rows(history):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in history]


def test_what_a_run_leaves(whole, data):
    folder, history, weights = whole
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["checkpoints", "config.json", "metrics.jsonl", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["lr"] == 3e-3
    assert config["training"]["objective"] == {"name": "CrossEntropy", "label_smoothing": 0.1}
    assert config["data"]["train"]["images"] == 200
    assert read_jsonl(folder / "metrics.jsonl") == list(history)
    model = mv.models.load(folder / "model.safetensors")
    assert all(np.array_equal(a, weights[name]) for name, a in model.state_dict().items())
    checkpoint = max((folder / "checkpoints").iterdir())
    arrays, _ = read_arrays(checkpoint)
    assert {name.split("/")[0] for name in arrays} == {"model", "optimizer", "ema"}


@pytest.mark.parametrize("steps", [1, 6, 7, 14, 18])  # 6 steps an epoch: within one, at an end, just before the last
def test_n_steps_are_k_steps_and_n_minus_k(steps, whole, data, tmp_path, monkeypatch):
    _, history, weights = whole
    if steps < 18:
        real = mv.train.CrossEntropy.__call__
        monkeypatch.setattr(mv.train.CrossEntropy, "__call__", lambda self, *a: stopped_after(steps)(*a) if a[4] == steps
                            else real(self, *a))
        with pytest.raises(Stop):
            mv.train.fit(make_model(), *data, run_dir=tmp_path, checkpoint_every=0, **OPTIONS)
        monkeypatch.undo()
    else:
        mv.train.fit(make_model(), *data, run_dir=tmp_path, checkpoint_every=0, **OPTIONS)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2  # the last and the one before
    model = make_model()
    for p in model.parameters():  # the weights that come in do not matter
        p.assign_(p.data * 0 + 7)
    resumed = mv.train.fit(model, *data, resume=tmp_path, **OPTIONS)
    assert rows(resumed) == rows(history)
    assert rows(read_jsonl(tmp_path / "metrics.jsonl")) == rows(history)
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, weights[name], err_msg=name)


def test_keep_best_survives_a_stop(data, tmp_path, monkeypatch):
    options = OPTIONS | {"keep": "best", "ema": None, "lr": 0.3, "optimizer": "sgd", "epochs": 4}
    model = make_model()
    mv.train.fit(model, *data, **options)
    real = mv.train.CrossEntropy.__call__
    monkeypatch.setattr(mv.train.CrossEntropy, "__call__", lambda self, *a: stopped_after(20)(*a) if a[4] == 20
                        else real(self, *a))
    with pytest.raises(Stop):
        mv.train.fit(make_model(), *data, run_dir=tmp_path, checkpoint_every=0, **options)
    monkeypatch.undo()
    again = make_model()
    mv.train.fit(again, *data, resume=tmp_path, **options)
    for name, a in again.state_dict().items():
        np.testing.assert_array_equal(a, model.state_dict()[name], err_msg=name)


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def script(*args, **options):
    return subprocess.Popen([sys.executable, "-m", "tests.train.small", *map(str, args)], cwd=ROOT, env=ONE_THREAD,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_kill_9_again_and_again(tmp_path):
    """Killed at moments that have nothing to do with steps; then finished. Against a run of the same kind, unkilled."""
    process = script(tmp_path / "whole")
    assert process.wait() == 0, process.communicate()
    process.communicate()
    folder = tmp_path / "killed"
    checkpoints = folder / "checkpoints"
    for kill in range(3):
        args = [folder, "resume"] if kill else [folder]
        before = {p.name for p in checkpoints.glob("step*")} if checkpoints.exists() else set()
        process = script(*args)
        wait_for(lambda before=before: {p.name for p in checkpoints.glob("step*")} - before, process)
        time.sleep(0.003 * kill)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed: make it longer"
    process = script(folder, "resume")
    assert process.wait() == 0, process.communicate()
    process.communicate()
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert rows(read_jsonl(folder / "metrics.jsonl")) == rows(read_jsonl(tmp_path / "whole" / "metrics.jsonl"))


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path):
    process = script(tmp_path)
    wait_for(lambda: len(list((tmp_path / "checkpoints").glob("step*"))) > 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode != 0
    assert "end" not in out
    assert "TrainingInterrupted: stopped in epoch" in err
    assert "To go on: GO ON LIKE THIS" in err
    step = int(err.split("after step ")[1].split(" of")[0])
    assert max((tmp_path / "checkpoints").iterdir()).name == f"step-{step:09d}.safetensors"


def test_ctrl_c_in_this_process(data, tmp_path):
    """The handler is given back, a second Ctrl-C is at once, and without a folder the message says so."""

    def objective(model, images, labels, indices, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        logits = model(images)
        return mv.ops.cross_entropy(logits, labels), logits

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(mv.train.TrainingInterrupted, match=r"after step 3 of .*Nothing is on disk"):
        mv.train.fit(Linear(), data[0], epochs=3, objective=objective, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(mv.train.TrainingInterrupted, match=r"resume='.*'"):
        mv.train.fit(Linear(), data[0], epochs=3, objective=objective, progress=False, run_dir=tmp_path)

    def twice(*args):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        raise AssertionError("the second Ctrl-C did not come through")

    with pytest.raises(KeyboardInterrupt) as caught:
        mv.train.fit(Linear(), data[0], epochs=3, objective=twice, progress=False)
    assert not isinstance(caught.value, mv.train.TrainingInterrupted)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_settings_are_refused_and_named(whole, data, tmp_path):
    folder, _, _ = whole
    with pytest.raises(ValueError, match=r"training\.epochs was 3 and is 4 now; training\.lr was 0\.003 and is 0\.1 now"):
        mv.train.fit(make_model(), *data, resume=folder, **(OPTIONS | {"lr": 0.1, "epochs": 4}))
    with pytest.raises(ValueError, match=r"model\.config\.embed_dim was 16 and is 32 now"):
        mv.train.fit(make_model(embed_dim=32), *data, resume=folder, **OPTIONS)
    with pytest.raises(ValueError, match=r"model\.seeds was \[0\] and is \[1\] now"):
        mv.train.fit(make_model(seed=1), *data, resume=folder, **OPTIONS)
    train, test = data
    plain = tmp_path / "without dropout"  # nothing is drawn: the model's seed is of no account
    mv.train.fit(make_model(dropout=0.0), *data, run_dir=plain, **OPTIONS)
    mv.train.fit(make_model(dropout=0.0, seed=1), *data, resume=plain, **OPTIONS)
    other = mv.data.Dataset(1 - train.images, train.labels, train.classes)
    with pytest.raises(ValueError, match=r"data\.train\.crc32"):
        mv.train.fit(make_model(), other, test, resume=folder, **OPTIONS)
    mv.train.fit(make_model(), *data, resume=folder, about={"command": "recorded, not compared"}, **OPTIONS)


def test_a_run_is_not_overwritten(whole, data):
    folder, _, _ = whole
    with pytest.raises(FileExistsError, match="resume="):
        mv.train.fit(make_model(), *data, run_dir=folder, **OPTIONS)
    with pytest.raises(ValueError, match="leave out run_dir"):
        mv.train.fit(make_model(), *data, run_dir=folder / "other", resume=folder, **OPTIONS)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_of_something_else_is_not_overwritten(name, data, tmp_path):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match=f"run_dir: .* holds a {name} that is no training's"):
        mv.train.fit(make_model(), *data, run_dir=tmp_path, **OPTIONS)
    assert (tmp_path / name).read_text() == '{"mine": 1}'
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_could_not_write_its_first_checkpoint_can_be_begun_again(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as disk:
        disk.setattr(mv.train.runs, "write_arrays", full)
        with pytest.raises(OSError, match="full"):
            mv.train.fit(make_model(), *data, run_dir=tmp_path / "run", **OPTIONS)
    assert (tmp_path / "run" / "config.json").exists()
    mv.train.fit(make_model(), *data, run_dir=tmp_path / "run", **OPTIONS)


def test_settings_of_numpys_own_types_can_be_saved(data, tmp_path):
    options = OPTIONS | {"lr": np.float32(3e-3), "ema": np.float64(0.9), "shift": np.int64(1)}
    mv.train.fit(make_model(), *data, run_dir=tmp_path / "run", checkpoint_every=0, **options)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_folder_whose_name_is_no_unicode(data, tmp_path):
    run = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    about = {"arguments": {"run_dir": str(run)}}
    mv.train.fit(make_model(), *data, run_dir=run, about=about, **OPTIONS)
    assert json.loads((run / "config.json").read_text())["about"] == about


def test_nothing_to_resume(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        mv.train.fit(make_model(), *data, resume=tmp_path / "nowhere", **OPTIONS)


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(whole, data, tmp_path):
    _, _, weights = whole
    mv.train.fit(make_model(), *data, run_dir=tmp_path, checkpoint_every=0, **OPTIONS)
    last = max((tmp_path / "checkpoints").iterdir())
    last.write_bytes(last.read_bytes()[:-100])
    model = make_model()
    with pytest.warns(UserWarning, match="truncated.*the checkpoint before"):
        mv.train.fit(model, *data, resume=tmp_path, **OPTIONS)
    assert all(np.array_equal(a, weights[name]) for name, a in model.state_dict().items())


@pytest.mark.parametrize("state", [{}, [], {"step": 9}, {"step": "9"}, {"history": 7}, {"sums": {}}])
def test_a_checkpoint_that_says_nonsense_gives_way_to_the_one_before(state, data, tmp_path):
    model = make_model()
    mv.train.fit(model, *data, run_dir=tmp_path, checkpoint_every=0, **OPTIONS)
    last = max((tmp_path / "checkpoints").iterdir())
    arrays, metadata = read_arrays(last)
    before = json.loads(metadata["state"])
    now = (before | state if "step" not in state else state) if isinstance(state, dict) and state else state
    mv.io.write_arrays(last, arrays, metadata | {"state": json.dumps(now)})
    again = make_model()
    with pytest.warns(UserWarning, match="nothing to go on from.*the checkpoint before"):
        mv.train.fit(again, *data, resume=tmp_path, **OPTIONS)
    assert all(np.array_equal(a, model.state_dict()[name]) for name, a in again.state_dict().items())


def test_a_run_without_its_checkpoints_is_not_begun_anew(data, tmp_path):
    mv.train.fit(make_model(), *data, run_dir=tmp_path, **OPTIONS)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileNotFoundError, match="holds no checkpoint to go on from.*Nothing was changed"):
        mv.train.fit(make_model(), *data, resume=tmp_path, **OPTIONS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_settings_are_compared_as_they_were_written(data, tmp_path):
    options = OPTIONS | {"clip_norm": float("inf"), "about": {"where": Path("/x"), "most": float("inf")}}
    mv.train.fit(make_model(), *data, run_dir=tmp_path, **options)
    mv.train.fit(make_model(), *data, resume=tmp_path, **options)


@pytest.mark.parametrize("options", [{"validation": 0.001}, {"keep": "best", "validation": 0.0}])
def test_what_is_refused_leaves_no_folder(options, data, tmp_path):
    with pytest.raises(ValueError, match="validation"):
        mv.train.fit(make_model(), *data, run_dir=tmp_path / "run", **OPTIONS | options)
    assert not (tmp_path / "run").exists()


def test_a_layer_that_begins_to_draw_late_draws_the_same_after_a_stop(data, tmp_path):
    class Late(Linear):
        def __init__(self):
            super().__init__()
            self.first, self.second = mv.nn.Dropout(0.3), mv.nn.Dropout(0.3)

        def forward(self, images):
            x = mv.ops.im2col(images, patch_size=8)[:, 0]
            if self.training and self.second.step >= 4 * 1024:
                x = self.first(x)
            return self.second(self.head(x))

    options = {"epochs": 2, "batch_size": 32, "progress": False, "checkpoint_every": 0}
    whole = Late()
    mv.train.fit(whole, data[0], objective=stopped_after(-1), **options)
    with pytest.raises(Stop):
        mv.train.fit(Late(), data[0], run_dir=tmp_path, objective=stopped_after(6), **options)
    again = Late()
    mv.train.fit(again, data[0], resume=tmp_path, objective=stopped_after(-1), **options)
    np.testing.assert_array_equal(again.head.weight.data, whole.head.weight.data)


def test_ctrl_c_too_late_for_a_step_is_not_forgotten(data, tmp_path):
    """While the last epoch is measured: the training ends and is saved, but what was to come after it does not begin."""

    class Interrupted(Linear):
        def forward(self, images):
            if len(images) == 60 and not self.training:  # the test set
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(images)

    with pytest.raises(mv.train.TrainingInterrupted, match="when training was finished.*saved. To go on: GO ON"):
        mv.train.fit(Interrupted(), *data, epochs=1, run_dir=tmp_path, progress=False, how_to_resume="GO ON")
    assert (tmp_path / "model.safetensors").exists()


def test_a_folder_that_cannot_be_written_to(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    called = []

    def objective(*args):
        called.append(args)

    with pytest.raises(OSError, match=r"run_dir: .*cannot be written to"):
        mv.train.fit(Linear(), data[0], run_dir=tmp_path / "file" / "run", objective=objective, progress=False)
    assert not called


def test_a_full_disk_leaves_the_last_good_checkpoint(whole, data, tmp_path, monkeypatch):
    _, history, weights = whole
    real = os.fsync
    writes = []

    def fsync(file):
        writes.append(file)
        if len(writes) > 14:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left.*last good checkpoint is .*step-\d+") as caught:
        mv.train.fit(make_model(), *data, run_dir=tmp_path, checkpoint_every=0, **OPTIONS)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert not list(tmp_path.glob("**/*.tmp"))
    model = make_model()
    resumed = mv.train.fit(model, *data, resume=tmp_path, **OPTIONS)
    assert rows(resumed) == rows(history)
    assert all(np.array_equal(a, weights[name]) for name, a in model.state_dict().items())


def test_a_nan_leaves_the_last_checkpoint(data, tmp_path):
    def objective(model, images, labels, indices, step):
        logits = model(images)
        loss = mv.ops.cross_entropy(logits, labels)
        return (loss if step < 3 else mv.ops.log(loss * 0.0 - 1.0)), logits

    with pytest.raises(FloatingPointError, match="step 4.*log"):
        mv.train.fit(Linear(), data[0], epochs=2, objective=objective, run_dir=tmp_path, checkpoint_every=0, progress=False)
    assert max((tmp_path / "checkpoints").iterdir()).name == "step-000000003.safetensors"


def test_a_step_that_makes_the_weights_infinite_is_not_kept(data, tmp_path):
    options = {"lr": 1e39, "warmup": 0, "optimizer": "sgd", "weight_decay": 0, "progress": False, "checkpoint_every": 0}
    with pytest.raises(FloatingPointError, match="step 1: it made the weights infinite"):
        mv.train.fit(Linear(), data[0], epochs=2, batch_size=32, run_dir=tmp_path, **options)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000000.safetensors"]
    for last_step_of_all in ({"batch_size": 200}, {"batch_size": 200, "run_dir": tmp_path / "other"}):
        model = Linear()
        with pytest.raises(FloatingPointError, match="step 1: it made the weights infinite"):
            mv.train.fit(model, data[0], epochs=1, **options, **last_step_of_all)
        assert np.isfinite(model.head.weight.data).all()
    assert not (tmp_path / "other" / "model.safetensors").exists()


def test_a_module_of_ones_own(data, tmp_path):
    model = Linear()
    mv.train.fit(model, data[0], epochs=1, run_dir=tmp_path, progress=False)
    arrays, _ = read_arrays(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(arrays["head.weight"], model.state_dict()["head.weight"])


def test_a_vit_with_a_head_of_its_own_is_kept_and_the_user_is_told(data, tmp_path):
    train, test = data
    model = make_model()
    model.head = mv.nn.Linear(model.config.embed_dim, model.config.num_classes, bias=False)
    with pytest.warns(UserWarning, match=r"model.safetensors has the arrays alone: .*head.bias.*reset_classifier"):
        mv.train.fit(model, train, test, run_dir=tmp_path / "run", **OPTIONS)
    arrays, _ = read_arrays(tmp_path / "run" / "model.safetensors")
    np.testing.assert_array_equal(arrays["head.weight"], model.head.weight.numpy())

"""The command line: what it does, and that a user's mistake gets one line and exit code 2."""

import json
import subprocess
import sys

import numpy as np
import pytest

import minivit as mv
from minivit.cli import main
from minivit.cli.arguments import number, numbers


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    vit = mv.models.ViT(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=1, num_heads=2, num_classes=10)
    mv.models.save(vit, path)
    return path


TINY = ["--patch-size", "4", "--embed-dim", "8", "--depth", "1", "--num-heads", "2", "--epochs", "1"]


def test_the_words_of_eps():
    assert number("8/255") == 8 / 255
    assert numbers("0,2/255,0.5") == [0, 2 / 255, 0.5]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--data", "digit"], "did you mean 'digits'"),
        (["train", "--data", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
        (["train", "--patch-size", "3"], "patch_size 3 does not divide"),
        (["train", "--num-heads", "5"], "num_heads 5 does not divide"),
        (["train", "--embed-dim", "10000000000000"], "there is not enough memory for this"),
        (["train", "--resume", "/nowhere"], "holds no run"),
        (["train", "--model", "/nowhere.safetensors"], "/nowhere.safetensors"),
        (["evaluate", "--model", "/nowhere.npz"], "/nowhere.npz"),
        (["evaluate", "--model", "model.pt"], "model.pt"),
        (["attack", "--model", "MODEL", "--eps", "8"], "8/255"),
        (["attack", "--model", "MODEL", "--eps", "-1"], "eps"),
        (["attack", "--model", "MODEL", "--eps", "0.1", "--norm", "linff"], "linf"),
        (["attack", "--model", "MODEL", "--eps", "0.1", "--attack", "pdg"], "pgd"),
        (["attack", "--model", "MODEL", "--eps", "0.1", "--attack", "fgsm", "--steps", "3"], "--steps"),
        (["gradcheck", "softmaxx"], "no operation 'softmaxx'"),
        (["gradcheck", "nowhere.py:f"], "no file 'nowhere.py'"),
        (["bench", "train-vit"], "did you mean 'train-vit-"),
        (["demo", "--eps", "20", "--run-dir", "RUN"], "eps"),
        (["demo", "--resume", "/nowhere"], "/nowhere"),
        (["demo", "--eps-l2", "-1", "--run-dir", "RUN"], "--eps-l2: expected a radius"),
        (["gradcheck", "softmax", "--shape", "3"], "--shape: belongs to FILE.py:NAME"),
        (["bench", "import", "--plot", "x.txt"], "--plot: expected a name that ends in .png"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, says, model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [{"MODEL": str(model_file), "RUN": str(tmp_path / "run")}.get(word, word) for word in words]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"minivit {words[0]}: error: ")
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [["attack", "--model", "m", "--eps", "8/0"], ["train", "--epochs", "0"], ["train", "--epoch", "3"],
     ["train", "--device", "tpu"], ["train", "--depth", "0"], ["gradcheck", "f.py:f", "--shape", "3,a"], ["fly"], []],
)  # fmt: skip
def test_wrong_words_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "attack", "gradcheck", "exercises", "bench", "info"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  minivit {command}" in capsys.readouterr().out


def test_a_pipe_that_was_closed_and_ctrl_c(monkeypatch, capsys):
    text = "import sys; from minivit.cli import main; sys.exit(main(['exercises', 'list']))"
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1

    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(mv.exercises, "names", stopped)
    assert main(["exercises", "list"]) == 130
    assert capsys.readouterr().err == "\nminivit exercises: interrupted\n"


@pytest.mark.parametrize("stream", [1, 2])
def test_closed_streams_lose_no_work(stream, tmp_path):
    text = f"import os, sys; os.close({stream}); sys.std{'out' if stream == 1 else 'err'} = None\n" \
           "from minivit.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["train", *TINY, "--run-dir", str(tmp_path / "run")]
    assert subprocess.run([sys.executable, "-c", text, *words], check=False).returncode == 0
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_ctrl_c_before_anything(monkeypatch, capsys):
    import minivit.cli.arguments

    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(minivit.cli.arguments, "parser", stopped)
    assert main(["exercises", "list"]) == 130
    assert capsys.readouterr().err == "\nminivit: interrupted\n"


def test_unwritable_run_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", *TINY, "--run-dir", str(tmp_path / "file" / "run")]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_train_then_evaluate_attack_info(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *TINY, "--seed", "3", "--run-dir", str(run)]) == 0
    written = {p.name for p in run.iterdir()}
    assert written == {"config.json", "metrics.jsonl", "model.safetensors", "checkpoints", "training.png"}
    row = mv.io.read_jsonl(run / "metrics.jsonl")[-1]
    capsys.readouterr()
    assert main(["evaluate", "--model", str(run / "model.safetensors"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["accuracy"] == row["test_accuracy"]

    assert main(["attack", "--model", str(run / "model.safetensors"), "--eps", "0,8/255", "--steps", "2", "--limit", "40",
                 "--run-dir", str(tmp_path / "attack")]) == 0  # fmt: skip
    record = json.loads((tmp_path / "attack" / "attack.json").read_text())
    assert [r["eps"] for r in record["rows"]] == [0, 8 / 255]
    assert (record["steps"], record["restarts"], record["minivit"]) == (2, 1, mv.__version__)
    assert record["n"] == 40
    assert (tmp_path / "attack" / "adversarial.png").stat().st_size > 1000
    capsys.readouterr()
    assert main(["info", "--model", str(run / "model.safetensors")]) == 0
    assert "patch_embed" in capsys.readouterr().out


def test_resume_goes_on_with_the_same_settings(tmp_path):
    """A run killed after its first epoch and resumed by folder alone ends in the bytes of a run that was not."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = [*TINY[:-1], "3", "--dropout", "0.1", "--seed", "1"]
    assert main(["train", *words, "--run-dir", str(whole)]) == 0
    killer = (
        "import os, signal, sys\n"
        "import minivit.train.runs as runs\n"
        "from minivit.cli import main\n"
        "log = runs.Run.log\n"
        "runs.Run.log = lambda self, row: (log(self, row), os.kill(os.getpid(), signal.SIGKILL))\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", killer, "train", *words, "--run-dir", str(stopped)], capture_output=True)
    assert done.returncode == -9
    assert not (stopped / "model.safetensors").exists()
    assert main(["train", "--resume", str(stopped)]) == 0
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_resume_refuses_what_would_do_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *TINY, "--seed", "3", "--run-dir", str(run)]) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".png"}
    for words in (["--epochs", "50"], ["--lr", "1"], ["--data", "mnist"], ["--run-dir", "elsewhere"]):
        capsys.readouterr()
        assert main(["train", "--resume", str(run), *words]) == 2
        assert f"{words[0]}: --resume goes on with the settings of the run" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), *TINY, "--seed", "3", "--device", "cpu"]) == 0  # the run's own
    assert {path: path.read_bytes() for path in before} == before


def test_resume_does_without_the_model_that_a_run_began_from(tmp_path, model_file, monkeypatch):
    first, run = tmp_path / "first", tmp_path / "run"
    assert main(["train", *TINY, "--run-dir", str(first)]) == 0
    (first / "model.safetensors").rename(tmp_path / "begin.safetensors")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--model", "begin.safetensors", "--epochs", "1", "--run-dir", str(run)]) == 0
    (tmp_path / "begin.safetensors").unlink()
    assert main(["train", "--resume", str(run)]) == 0


def test_an_attack_looks_at_its_folder_first(tmp_path, model_file, capsys, monkeypatch):
    attacked = []
    real = mv.attacks.robust_accuracy
    monkeypatch.setattr(mv.attacks, "robust_accuracy", lambda *a, **k: attacked.append(k["limit"]) or real(*a, **k))
    words = ["attack", "--model", str(model_file), "--eps", "0.1", "--steps", "1", "--limit", "9"]
    (tmp_path / "file").write_text("")
    assert main([*words, "--run-dir", str(tmp_path / "file" / "x")]) == 2
    (tmp_path / "attack.json").write_text("mine")
    assert main([*words, "--run-dir", str(tmp_path)]) == 2
    assert "attack.json is there already" in capsys.readouterr().err
    assert attacked == [1, 1]  # one image, to see whether the words make sense
    assert (tmp_path / "attack.json").read_text() == "mine"


def test_images_of_several_sizes_can_be_resized(tmp_path, capsys):
    from PIL import Image

    for k, side in enumerate((8, 8, 8, 8, 10)):
        path = tmp_path / "photos" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side), 20 * k, np.uint8)).save(path)
    words = ["train", *TINY, "--data", str(tmp_path / "photos")]
    assert main([*words, "--run-dir", str(tmp_path / "run")]) == 2
    assert "give --image-size H,W" in capsys.readouterr().err
    assert main([*words, "--image-size", "8", "--run-dir", str(tmp_path / "run")]) == 0
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


def test_gradcheck_of_own_and_of_a_file(tmp_path, capsys):
    assert main(["gradcheck", "softmax", "gelu", "--order", "2"]) == 0
    capsys.readouterr()
    for seed in "01":
        assert main(["gradcheck", "--order", "2", "--seed", seed]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(mv.autograd.REGISTRY)
        assert all(line.endswith("right to order 2") for line in lines)
    (tmp_path / "mine.py").write_text(
        "import minivit as mv\n@mv.op\ndef square(x):\n    return x * x\n\n@square.vjp\ndef _(g, x):\n    return g * x\n"
    )
    assert main(["gradcheck", f"{tmp_path / 'mine.py'}:square", "--shape", "2,3"]) == 1
    assert "0.5" in capsys.readouterr().out
    assert main(["gradcheck", f"{tmp_path / 'mine.py'}:square", "--shape", "0,3"]) == 0
    assert "there is no element to compare" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "says"), [
    ("import minivit as mv\n1 / 0\n", "mine.py, line 2: it cannot be run to its end: ZeroDivisionError: division by zero"),
    ("def f(:\n", "SyntaxError"), ("import sys\nsys.exit(0)\n", "mine.py, line 2: it cannot be run to its end: SystemExit: 0"),
])
def test_a_file_that_cannot_be_run_is_no_wrong_rule(text, says, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(text)
    assert main(["gradcheck", f"{tmp_path / 'mine.py'}:square"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_demo_in_small(tmp_path, capsys):
    run = tmp_path / "demo"
    assert main(["demo", "--eps", "0.6", "--epochs", "1", "--adversarial-epochs", "1", "--run-dir", str(run)]) == 0
    out = capsys.readouterr().out
    assert {"natural.safetensors", "robust.safetensors", "metrics.jsonl", "config.json", "report.html"} <= {
        p.name for p in run.iterdir()
    }
    assert len(list(run.glob("*.png"))) == 9
    assert [row["phase"] for row in mv.io.read_jsonl(run / "metrics.jsonl")] == ["natural", "robust"]
    header, natural, robust = out.splitlines()[-5:-2]
    assert header.split("  ")[-1].strip() == "PGD-20 L2 1"
    assert natural.startswith("natural")
    assert robust.startswith("adversarially trained")
    _, test = mv.data.load("digits")
    clean = mv.train.evaluate(mv.models.load(run / "natural.safetensors"), test)["accuracy"]
    assert f"{100 * clean:.1f} %" in natural
    before = (run / "robust.safetensors").read_bytes()
    assert main(["demo", "--resume", str(run)]) == 0  # with the same settings; nothing is trained again
    assert (run / "robust.safetensors").read_bytes() == before
    assert out.splitlines()[-4:-2] == capsys.readouterr().out.splitlines()[-4:-2]
    assert np.isfinite([row["train_loss"] for row in mv.io.read_jsonl(run / "metrics.jsonl")]).all()
    assert main(["train", "--resume", str(run)]) == 2
    assert "was not written by `minivit train`" in capsys.readouterr().err
    assert main(["demo", "--run-dir", str(run)]) == 2
    assert f"go on with --resume {run}" in capsys.readouterr().err


def test_another_commands_run_is_left_alone(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *TINY, "--run-dir", str(run)]) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["demo", "--resume", str(run)]) == 2
    assert "was not written by `minivit demo`" in capsys.readouterr().err
    assert main(["train", *TINY, "--run-dir", str(run)]) == 2
    assert f"choose another folder, or go on with it: minivit train --resume {run}" in capsys.readouterr().err
    assert main(["demo", "--run-dir", str(run)]) == 2
    assert "already holds a run; choose another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_training_does_not_overwrite_a_demo(tmp_path, capsys):
    run = tmp_path / "demo"
    run.mkdir()
    (run / "config.json").write_text('{"command": "demo"}')
    assert main(["train", *TINY, "--run-dir", str(run)]) == 2
    assert f"error: --run-dir: {run} holds a config.json that is no training's" in capsys.readouterr().err
    assert (run / "config.json").read_text() == '{"command": "demo"}'


def test_a_demo_stopped_in_its_attacks_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(mv.attacks, "robust_accuracy", stop)
    run = tmp_path / "demo"
    assert main(["demo", "--epochs", "1", "--adversarial-epochs", "1", "--run-dir", str(run)]) == 130
    assert f"To go on: minivit demo --resume {run}\n" in capsys.readouterr().err


@pytest.mark.parametrize("given", [False, True])
def test_tf32_is_allowed_where_it_is_asked_for(given, model_file, standin, monkeypatch, capsys):
    from minivit.backend import products
    from tests import cupy_standin

    monkeypatch.setattr(products, "_allowed", None)
    monkeypatch.setattr(products, "_told", {})
    assert main(["evaluate", "--model", str(model_file), "--device", "cuda", *["--tf32"] * given]) == 0
    assert {call["tf32"] for call in cupy_standin.products} == {given}


def test_training_in_float16(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "--precision", "float16", "--run-dir", "run"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["precision"] == "float16"
    assert main(["train", *TINY, "--run-dir", "plain"]) == 0
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["training"]["precision"] == "float32"
    with pytest.raises(SystemExit):
        main(["train", "--precision", "float8"])

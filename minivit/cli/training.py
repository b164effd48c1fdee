"""`minivit train`: a Vision Transformer on a data set, with settings that suit it."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from minivit.cli.arguments import add, add_data, add_device, add_seed, load_data, new_run_dir, place, positive, whole

# what suits a data set: the model's shape and the length of its training; every option overrides its entry
PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4, "pool": "cls",
               "epochs": 60, "batch_size": 64, "lr": 3e-3, "shift": 0},
    "mnist": {"patch_size": 7, "embed_dim": 64, "depth": 4, "num_heads": 4, "pool": "cls",
              "epochs": 8, "batch_size": 128, "lr": 3e-3, "shift": 1},
}  # fmt: skip
PRESETS["fashion_mnist"] = PRESETS["mnist"]
MODEL_OPTIONS = ("patch_size", "embed_dim", "depth", "num_heads", "pool", "position", "dropout")
FIT_OPTIONS = ("epochs", "batch_size", "lr", "shift", "weight_decay", "label_smoothing", "ema", "precision")


def add_commands(subparsers: Any) -> None:
    command = add(subparsers, "train", run, "Train a Vision Transformer.", "minivit train --data mnist --data-dir ~/data")
    add_data(command)
    add_device(command)
    add_seed(command)
    command.add_argument("--epochs", type=whole(1), help="how often each image is seen (default: as suits the data)")
    command.add_argument("--batch-size", type=whole(1), help="images per step")
    command.add_argument("--lr", type=positive, help="highest learning rate")
    command.add_argument("--shift", type=whole(0), help="pixels by which training images are moved at most")
    command.add_argument("--weight-decay", type=float, help="of AdamW")
    command.add_argument("--label-smoothing", type=float, help="part of the target spread over all classes")
    command.add_argument("--ema", type=float, help="decay of the average of weights, 0.999 say")
    command.add_argument("--precision", choices=("float32", "float16"), help="float16: mixed precision, for a GPU")
    command.add_argument("--model", metavar="PATH", help="start from this model instead of fresh weights")
    command.add_argument("--patch-size", type=whole(1), help="pixels per side of a patch; must divide the image")
    command.add_argument("--embed-dim", type=whole(1), help="width D")
    command.add_argument("--depth", type=whole(0), help="number of blocks L")
    command.add_argument("--num-heads", type=whole(1), help="heads h per block; must divide the width")
    command.add_argument("--pool", choices=("cls", "mean"), help="class token, or mean over the patches")
    command.add_argument("--position", choices=("learned", "sinusoidal", "sinusoidal_2d", "relative", "none"))
    command.add_argument("--dropout", type=float)
    command.add_argument("--run-dir", metavar="DIR", help="where to write (default runs/<date>-<data>)")
    command.add_argument("--resume", metavar="DIR", help="go on with the run in this folder, with its settings")


def run(arguments: argparse.Namespace) -> int:
    import minivit as mv

    if arguments.resume is not None:
        given = _read_arguments(Path(arguments.resume))
        given["traceback"] = arguments.traceback
        run_dir, arguments = Path(arguments.resume), argparse.Namespace(**given)
        resume: Path | None = run_dir
    else:
        run_dir, resume = new_run_dir(arguments.run_dir, Path(arguments.data).name), None

    train, test = load_data(arguments)
    preset = PRESETS.get(arguments.data, PRESETS["mnist"])
    if arguments.model is not None:
        changed = [name for name in MODEL_OPTIONS if getattr(arguments, name) is not None]
        if changed:
            raise ValueError(f"--model brings its own shape; leave out --{changed[0].replace('_', '-')}")
        model = mv.models.load(arguments.model)
    else:
        options = {name: _chosen(arguments, preset, name) for name in MODEL_OPTIONS}
        height, width, channels = train.image_shape
        model = mv.models.ViT(
            image_size=(height, width), channels=channels, num_classes=train.num_classes, seed=arguments.seed,
            **{name: value for name, value in options.items() if value is not None},
        )  # fmt: skip
    model.to(place(arguments))
    fit_options = {name: _chosen(arguments, preset, name) for name in FIT_OPTIONS}
    print(f"{type(model).__name__}({model.describe()}), {model.num_parameters():,} parameters")
    print(f"{arguments.data}: {len(train):,} training and {len(test):,} test images; writing to {run_dir}")
    history = mv.train.fit(
        model, train, test, seed=arguments.seed,
        run_dir=None if resume else run_dir, resume=resume,
        about={"arguments": {k: v for k, v in vars(arguments).items() if k not in ("run", "traceback")}},
        how_to_resume=f"minivit train --resume {shlex.quote(str(run_dir))}",
        **{name: value for name, value in fit_options.items() if value is not None},
    )  # fmt: skip
    mv.viz.training(history).savefig(run_dir / "training.png", dpi=150)
    last = history[-1]
    print(f"test accuracy {100 * last['test_accuracy']:.2f} %, loss {last['test_loss']:.4f} after {len(history)} epochs, "
          f"{sum(row['seconds'] for row in history):.0f} s of training; model: {run_dir / 'model.safetensors'}")
    return 0


def _chosen(arguments: argparse.Namespace, preset: dict[str, Any], name: str) -> Any:
    value = getattr(arguments, name, None)  # a run of an earlier version, gone on with, lacks what came later
    return preset.get(name) if value is None else value


def _read_arguments(run_dir: Path) -> dict[str, Any]:
    """The arguments that a run was started with, from its config.json."""
    path = run_dir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"--resume: {run_dir} holds no run: there is no config.json in it")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))["about"]["arguments"]
        if given["command"] != "train":
            raise KeyError(given["command"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"--resume: {path} was not written by `minivit train`") from None
    return dict(given)

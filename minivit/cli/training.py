"""`minivit train`: a Vision Transformer on a data set, with settings that suit it."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from minivit.cli.arguments import (
    add,
    add_data,
    add_device,
    add_seed,
    arguments_of,
    given_arguments,
    load_data,
    new_run_dir,
    place,
    positive,
    whole,
)

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
    command.add_argument("--epochs", type=whole(1), help=f"how often each image is seen {_default('epochs')}")
    command.add_argument("--batch-size", type=whole(1), help=f"images per step {_default('batch_size')}")
    command.add_argument("--lr", type=positive, help=f"highest learning rate {_default('lr')}")
    command.add_argument("--shift", type=whole(0), help=f"pixels that training images are moved by at most {_default('shift')}")
    command.add_argument("--weight-decay", type=float, help="of AdamW (default 0.05)")
    command.add_argument("--label-smoothing", type=float, help="part of the target spread over all classes (default 0)")
    command.add_argument("--ema", type=float, help="decay of an average of the weights, 0.999 for example (default: none)")
    command.add_argument("--precision", choices=("float32", "float16"), help="float16: mixed precision, for a GPU")
    command.add_argument("--model", metavar="PATH", help="start from this model instead of fresh weights")
    command.add_argument("--patch-size", type=whole(1),
                         help=f"side of a patch, in pixels; divides the image's {_default('patch_size')}")  # fmt: skip
    command.add_argument("--embed-dim", type=whole(1), help=f"width D {_default('embed_dim')}")
    command.add_argument("--depth", type=whole(1), help=f"number of blocks L {_default('depth')}")
    command.add_argument("--num-heads", type=whole(1), help=f"heads h per block; must divide the width {_default('num_heads')}")
    command.add_argument("--pool", choices=("cls", "mean"), help=f"class token, or mean over the patches {_default('pool')}")
    command.add_argument("--position", choices=("learned", "sinusoidal", "sinusoidal_2d", "relative", "none"),
                         help="how the model knows where a patch was (default learned)")  # fmt: skip
    command.add_argument("--dropout", type=float, help="share of activations that a training step leaves out (default 0)")
    command.add_argument("--run-dir", metavar="DIR", help="where to write (default runs/<date>-<data>)")
    command.add_argument("--resume", metavar="DIR", help="go on with the run in this folder, with its settings")


def _default(option: str) -> str:
    """For the help: what an option is by itself, which may depend on the data."""
    values = {name: preset[option] for name, preset in PRESETS.items() if name != "fashion_mnist"}
    if len(set(values.values())) == 1:
        return f"(default {values['digits']})"
    return f"(default {values['digits']} for digits, else {values['mnist']})"


def run(arguments: argparse.Namespace) -> int:
    import minivit as mv

    if arguments.resume is not None:
        run_dir = Path(arguments.resume)
        arguments = argparse.Namespace(**{**arguments_of(run_dir, "train", arguments), "traceback": arguments.traceback})
        resume: Path | None = run_dir
    else:
        run_dir, resume = new_run_dir(arguments.run_dir, Path(arguments.data).name), None

    train, test = load_data(arguments)
    preset = PRESETS.get(arguments.data, PRESETS["mnist"])
    if arguments.model is not None and resume is not None:  # its weights do not matter any more, and it may be gone
        model = mv.models.ViT(**json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["model"]["config"])
    elif arguments.model is not None:
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
    try:
        history = mv.train.fit(
            model, train, test, seed=arguments.seed,
            run_dir=None if resume else run_dir, resume=resume,
            about={"arguments": given_arguments(arguments)},
            how_to_resume=f"minivit train --resume {shlex.quote(str(run_dir))}",
            **{name: value for name, value in fit_options.items() if value is not None},
        )  # fmt: skip
    except FileExistsError as error:
        raise FileExistsError(f"--{str(error).replace('run_dir', 'run-dir', 1)}") from None
    mv.viz.training(history).savefig(run_dir / "training.png", dpi=150)
    last = history[-1]
    print(f"test accuracy {100 * last['test_accuracy']:.2f} %, loss {last['test_loss']:.4f} after {len(history)} epochs, "
          f"{sum(row['seconds'] for row in history):.0f} s of training; model: {run_dir / 'model.safetensors'}")
    return 0


def _chosen(arguments: argparse.Namespace, preset: dict[str, Any], name: str) -> Any:
    value = getattr(arguments, name, None)  # a run of an earlier version, gone on with, lacks what came later
    return preset.get(name) if value is None else value

"""The words of the command line, and what they turn into."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from datetime import date
from pathlib import Path
from typing import Any

from minivit import __version__


def parser() -> argparse.ArgumentParser:
    import minivit.cli.commands as commands
    import minivit.cli.demo as demo
    import minivit.cli.exercises as exercises
    import minivit.cli.training as training

    top = argparse.ArgumentParser(
        prog="minivit", description="Vision Transformers and adversarial machine learning from first principles.",
        epilog="minivit COMMAND --help shows the options of a command, with an example.",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"minivit {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (demo, training, commands, exercises):
        module.add_commands(subparsers)
    return top


def add(subparsers: Any, name: str, run: Any, what: str, example: str) -> argparse.ArgumentParser:
    """A command: its name, the function that runs it, one line about it, and an example for its help."""
    command: argparse.ArgumentParser = subparsers.add_parser(
        name, help=what, description=textwrap.fill(what, 80), epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    command.add_argument("--traceback", action="store_true", help="show where an error came from")
    command.set_defaults(run=run)
    return command


def add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", default="digits", metavar="NAME",
                         help="digits, mnist, fashion_mnist, or a folder of images (default digits)")  # fmt: skip
    command.add_argument("--data-dir", metavar="DIR", help="where the files of mnist and fashion_mnist are ($MINIVIT_DATA)")
    command.add_argument("--image-size", type=sides, metavar="H,W",
                         help="resize the images of a folder to so many pixels, 32 or 32,48 (default: none)")  # fmt: skip


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute (default auto)")
    command.add_argument("--tf32", action="store_true", help="on a GPU, let products of matrices round to TF32 (10 bits)")


def place(arguments: argparse.Namespace) -> str:
    """The device that --device asks for, with TF32 allowed if --tf32 is there."""
    import minivit as mv

    if getattr(arguments, "tf32", False):  # a run of an earlier version, gone on with, does not say
        mv.allow_tf32()
    return mv.backend.resolve_device(arguments.device)


def add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=whole(0), default=0, help="of everything random (default 0)")


def whole(least: int) -> Any:
    """A type of argument: an integer of at least so much."""

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {value}")
        return value

    return integer


def positive(text: str) -> float:
    """A type of argument: a number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def number(text: str) -> float:
    """A type of argument: a number, or a fraction as attacks write it: `8/255`."""
    over, _, under = text.partition("/")
    try:
        value = float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"expected a number, 0.5 or 8/255 for example, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def numbers(text: str) -> list[float]:
    """A type of argument: numbers with commas between, `0,2/255,8/255`."""
    return [number(part) for part in text.split(",")]


def shape(text: str) -> tuple[int, ...]:
    """A type of argument: the shape of an array, `3,4`."""
    try:
        lengths = tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        lengths = (-1,)
    if min(lengths, default=0) < 0:
        raise argparse.ArgumentTypeError(f"expected lengths with commas between, 3,4 for example, got {text!r}")
    return lengths


def sides(text: str) -> list[int]:
    """A type of argument: height and width in pixels, `32,48`, or one number for both."""
    lengths = list(shape(text))
    if len(lengths) not in (1, 2) or min(lengths) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of pixels, or two with a comma between, got {text!r}")
    return [lengths[0], lengths[-1]]


def given_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `arguments_of` gives back: the words of a command as plain data, its paths from the root."""
    import minivit as mv

    given = {name: value for name, value in vars(arguments).items() if name not in ("run", "traceback", "resume")}
    for name in ("data_dir", "model", "data"):
        if given.get(name) and given[name] not in mv.data.names() and Path(given[name]).exists():
            given[name] = str(Path(given[name]).resolve())
    return given


def arguments_of(run_dir: Path, command: str, now: argparse.Namespace) -> dict[str, Any]:
    """The arguments that a run was started with, from its config.json: for --resume.

    Of those given now only the device counts. Another setting than the run's is refused, since it would do nothing.
    """
    path = run_dir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"--resume: {run_dir} holds no run: there is no config.json in it")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        given = config["about"]["arguments"]
        if given.get("command", config.get("command")) != command:
            raise KeyError(command)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"--resume: {path} was not written by `minivit {command}`") from None
    defaults = vars(parser().parse_args([command]))
    asked = {name: value for name, value in given_arguments(now).items() if value != defaults[name]}
    for name, value in asked.items():
        if name in ("device", "tf32"):
            continue
        if name not in given or given[name] != value:
            raise ValueError(f"--{name.replace('_', '-')}: --resume goes on with the settings of the run, where it was "
                             f"{given.get(name)!r} and not {value!r}; leave it out, or begin a new run")
    return {**given, **{name: asked[name] for name in ("device", "tf32") if name in asked}}


def new_run_dir(asked: str | None, name: str) -> Path:
    """The folder asked for; else `runs/<date>-<name>`, with a number at its end if there is one already."""
    if asked is not None:
        return Path(asked)
    path = first = Path("runs") / f"{date.today().isoformat()}-{name}"
    count = 1
    while path.exists():
        count += 1
        path = first.with_name(f"{first.name}-{count}")
    return path


def load_data(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """(train, test) as --data and --data-dir say."""
    import minivit as mv

    size = getattr(arguments, "image_size", None)  # a run of an earlier version, gone on with, does not say
    try:
        return mv.data.load(arguments.data, root=arguments.data_dir, image_size=None if size is None else tuple(size))
    except ValueError as error:
        raise ValueError(str(error).replace("pass image_size=(height, width)", "give --image-size H,W")) from None


def check_fits(model: Any, dataset: Any) -> None:
    """Refuses a model and a data set that were not made for each other, in words about --model and --data."""
    from minivit.data.dataset import check_classes

    check_classes("--data", dataset, model)
    config = model.config
    needs = (*config.image_size, config.channels)
    if tuple(dataset.image_shape) != needs or config.num_classes < dataset.num_classes:
        raise ValueError(
            f"--model takes images of {'x'.join(map(str, needs))} and {config.num_classes} classes, --data has "
            f"{'x'.join(map(str, dataset.image_shape))} and {dataset.num_classes}"
        )

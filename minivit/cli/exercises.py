"""`minivit exercises list | start | check | status | handout`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from minivit.cli.arguments import add, positive, whole

NOT_A_SANDBOX = "a student's file is run in a process of its own, with your rights: a guard against accidents, not a sandbox"


def add_commands(subparsers: Any) -> None:
    top = add(subparsers, "exercises", None, "Gradient exercises, and a checker that names the mistake.",
              "minivit exercises start product\n  minivit exercises check product.py")  # fmt: skip
    inner = top.add_subparsers(dest="action", metavar="ACTION", required=True)

    add(inner, "list", list_them, "The exercises, in the order of the lecture.", "minivit exercises list")

    command = add(inner, "start", start, "Write the file of an exercise, to be filled in.", "minivit exercises start softmax")
    command.add_argument("name", metavar="NAME", help="of the exercise")
    command.add_argument("folder", metavar="DIR", nargs="?", default=".", help="where to write it (default here)")
    command.add_argument("--force", action="store_true", help="begin again; the old file is kept as a backup")

    command = add(inner, "check", check, f"Check what you have written. Note: {NOT_A_SANDBOX}.",
                  "minivit exercises check softmax.py --hint 2")  # fmt: skip
    command.add_argument("files", metavar="FILE", nargs="*", help=".py or .ipynb (default: all started files here)")
    command.add_argument("--hint", type=int, choices=(0, 1, 2), help="0 none, 2 the stronger (default: as attempts call for)")
    command.add_argument("--time-limit", type=positive, default=20.0, metavar="S", help="seconds per file (default 20)")
    command.add_argument("--seed", type=whole(0), default=0, help="of the inputs (default 0)")

    command = add(inner, "status", status, "How far you are.", "minivit exercises status")
    command.add_argument("folder", metavar="DIR", nargs="?", default=".", help="where your files are (default here)")

    command = add(inner, "handout", handout, "For a course: notebooks without the solutions, and a test file that grades.",
                  "minivit exercises handout week3 softmax layer_norm")  # fmt: skip
    command.add_argument("folder", metavar="DIR", help="where to write; nothing is overwritten")
    command.add_argument("names", metavar="NAME", nargs="*", help="exercises (default all)")
    command.add_argument("--solutions", action="store_true", help="leave the solutions in, between nbgrader's marks")


def list_them(arguments: argparse.Namespace) -> None:
    import minivit as mv

    for name in mv.exercises.names():
        exercise = mv.exercises.find(name)
        print(f"{exercise.number:>3}  {name:<20} {exercise.title}")


def start(arguments: argparse.Namespace) -> None:
    import minivit as mv

    path = Path(arguments.folder) / f"{arguments.name}.py"
    mv.exercises.find(arguments.name)
    if path.exists() and not arguments.force:
        raise ValueError(f"{path} is there already, and nothing was written; --force begins again and keeps a backup")
    path = mv.exercises.start(arguments.name, arguments.folder, arguments.force)
    print(f"{path}: fill it in, then minivit exercises check {path}")


def check(arguments: argparse.Namespace) -> int:
    import minivit as mv
    from minivit.exercises.result import give_hint

    paths = [Path(file) for file in arguments.files] or _started(Path("."))
    if not paths:
        raise ValueError("no exercise was started here; minivit exercises start NAME, or check FILE")
    worst = 0
    for k, path in enumerate(paths):
        try:
            result = mv.exercises.check_file(path, seed=arguments.seed, time_limit=arguments.time_limit)
        except (ValueError, OSError) as error:
            if len(paths) == 1:
                raise
            print(("\n" if k else "") + f"{path}\n{error}")
            worst = 2
            continue
        progress = _progress(path.parent)
        met = progress.note(result, path)
        give_hint(result, mv.exercises.find(result.exercise), met if arguments.hint is None else arguments.hint)
        several = len(paths) > 1 and f"{path}\n"
        print(("\n" if k else "") + (several or "") + str(result))
        try:
            progress.save()
        except OSError as error:  # a folder one may not write to; the answer stands
            print(f"the progress was not noted: {error.strerror}: {error.filename}", file=sys.stderr)
        worst = max(worst, result.verdict != "passed")
    return worst


def status(arguments: argparse.Namespace) -> None:
    import minivit as mv
    from minivit.exercises.submission import name_of

    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    progress = _progress(folder)
    files = {name_of(path): path for path in _started(folder)}
    for name in mv.exercises.names():
        print(f"{mv.exercises.find(name).number:>3}  {name:<20} {progress.state(name, files.get(name))}")


def handout(arguments: argparse.Namespace) -> None:
    import minivit as mv

    for path in mv.exercises.handout(arguments.folder, arguments.names, arguments.solutions):
        print(path)


def _progress(folder: Path) -> Any:
    import minivit as mv

    progress = mv.exercises.Progress(folder)
    if progress.warning:
        print(progress.warning, file=sys.stderr)
    return progress


def _started(folder: Path) -> list[Path]:
    """The files of exercises in a folder, in the order of the exercises."""
    import minivit as mv
    from minivit.exercises.submission import name_of

    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".py", ".ipynb") and path.is_file()]
    named = [(name, path) for path in files if (name := name_of(path)) is not None]
    order = mv.exercises.names()
    return [path for _, path in sorted(named, key=lambda pair: order.index(pair[0]))]

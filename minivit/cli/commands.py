"""`minivit evaluate | attack | gradcheck | bench | info`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from minivit.cli.arguments import (
    add,
    add_data,
    add_device,
    add_seed,
    check_fits,
    load_data,
    new_run_dir,
    numbers,
    place,
    shape,
    whole,
)


def add_commands(subparsers: Any) -> None:
    command = add(subparsers, "evaluate", evaluate, "Accuracy and loss of a saved model on the test set.",
                  "minivit evaluate --model runs/first/model.safetensors --data mnist")  # fmt: skip
    command.add_argument("--model", required=True, metavar="PATH", help="a .safetensors or .npz file that minivit wrote")
    add_data(command)
    add_device(command)
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add(subparsers, "attack", attack, "Robust accuracy of a saved model, with pictures.",
                  "minivit attack --model natural.safetensors --eps 0,0.05,0.15 --steps 50")  # fmt: skip
    command.add_argument("--model", required=True, metavar="PATH", help="a .safetensors or .npz file that minivit wrote")
    add_data(command)
    add_device(command)
    add_seed(command)
    command.add_argument("--attack", default="pgd", metavar="NAME", help="pgd or fgsm (default pgd)")
    command.add_argument("--norm", default="linf", help="linf, l2 or l1 (default linf)")
    command.add_argument("--eps", type=numbers, required=True, help="radius, or several with commas between: 0,2/255,8/255")
    command.add_argument("--steps", type=whole(1), help="of PGD (default 20)")
    command.add_argument("--restarts", type=whole(1), help="of PGD (default 1)")
    command.add_argument("--limit", type=whole(1), help="attack only the first so many test images")
    command.add_argument("--run-dir", metavar="DIR", help="where to write (default runs/<date>-<attack>)")

    command = add(subparsers, "gradcheck", gradcheck, "Check rules against finite differences: minivit's, or your file's.",
                  "minivit gradcheck softmax gelu --order 2\n  minivit gradcheck my_ops.py:square --shape 3,4")  # fmt: skip
    command.add_argument("names", nargs="*", metavar="NAME", help="operations of minivit (default all), or FILE.py:NAME")
    command.add_argument("--shape", action="append", type=shape, default=[], metavar="N,M",
                         help="for FILE.py:NAME, once for each input in turn: its shape (default 3,4)")  # fmt: skip
    command.add_argument("--order", type=int, choices=(1, 2, 3), default=1, help="highest order of derivative (default 1)")
    add_seed(command)

    command = add(subparsers, "bench", bench, "Time minivit, other libraries and bare matrix products, on the same weights.",
                  "minivit bench train-digits train-vit-ti --rounds 20\n  minivit bench tokens --plot growth.png")  # fmt: skip
    command.add_argument("rows", nargs="*", metavar="ROW", help="what to time, or the first word of several (default all)")
    command.add_argument("--list", action="store_true", help="list the rows and the peers")
    command.add_argument("--rounds", type=whole(1), default=10, help="how often each is timed (default 10)")
    command.add_argument("--peers", metavar="NAMES", help="with commas between, or none (default all that are installed)")
    command.add_argument("--threads", type=whole(1), help="of everybody (default: the cores there are)")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: rows for a GPU, in three precisions")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--plot", metavar="FILE.png", type=Path, help="also draw it (or .pdf, .svg)")

    command = add(subparsers, "info", info, "What minivit finds here: NumPy, BLAS, GPU, data; or what a model file holds.",
                  "minivit info --model natural.safetensors")  # fmt: skip
    command.add_argument("--model", metavar="PATH", help="print this model, layer by layer")


def evaluate(arguments: argparse.Namespace) -> None:
    import minivit as mv

    model = mv.models.load(arguments.model)
    _, test = load_data(arguments)
    check_fits(model, test)
    scores = mv.train.evaluate(model.to(place(arguments)), test)
    if arguments.json:
        print(json.dumps({**scores, "images": len(test), "data": arguments.data}))
    else:
        accuracy, loss = f"{100 * scores['accuracy']:.2f} %", f"{scores['loss']:.4f}"
        print(f"{arguments.data}, {len(test):,} test images: accuracy {accuracy}, loss {loss}")


def attack(arguments: argparse.Namespace) -> None:
    import minivit as mv

    model = mv.models.load(arguments.model)
    _, test = load_data(arguments)
    check_fits(model, test)
    model.to(place(arguments))
    options = {name: getattr(arguments, name) for name in ("steps", "restarts") if getattr(arguments, name) is not None}
    if options and arguments.attack == "fgsm":
        raise ValueError(f"--{next(iter(options))}: FGSM takes one step; it belongs to --attack pgd")

    def attacked(limit: int | None) -> Any:
        return mv.attacks.robust_accuracy(
            model, test, arguments.attack, arguments.eps, arguments.norm, seed=arguments.seed, limit=limit, **options
        )

    attacked(1)  # whatever it refuses, it refuses now
    run_dir = new_run_dir(arguments.run_dir, arguments.attack)
    for name in ("attack.json", "robust_accuracy.png", "adversarial.png"):  # before the work, not after it
        if (run_dir / name).exists():
            raise FileExistsError(f"--run-dir: {run_dir / name} is there already; choose another folder")
    run_dir.mkdir(parents=True, exist_ok=True)
    curve = attacked(arguments.limit)
    print(curve)
    record = {
        "model": str(arguments.model), "data": arguments.data, "attack": arguments.attack, "norm": arguments.norm,
        "seed": arguments.seed, **_in_effect(arguments.attack, options), "n": int(curve.n[0]),
        "image_size": arguments.image_size, "minivit": mv.__version__,
        "rows": [
            {"eps": e, "accuracy": a, "low": lo, "high": hi}
            for e, a, lo, hi in zip(*(getattr(curve, c).tolist() for c in ("eps", "accuracy", "low", "high")))
        ],
    }  # fmt: skip
    mv.io.write_json(run_dir / "attack.json", record)
    mv.viz.robust_accuracy({Path(arguments.model).stem: curve}).savefig(run_dir / "robust_accuracy.png", dpi=150)
    eps = max(arguments.eps)
    if eps > 0:
        shown = min(6, arguments.limit or 6)
        x, y = test.images[:shown], test.labels[:shown]
        by = mv.attacks.pgd if arguments.attack == "pgd" else mv.attacks.fgsm
        seed = {"seed": arguments.seed} if arguments.attack == "pgd" else {}
        result = by(model, x, y, eps=eps, norm=arguments.norm, **seed, **options)
        mv.viz.adversarial(model, x, result, y, classes=test.classes).savefig(run_dir / "adversarial.png", dpi=150)
    print(f"attack.json and pictures: {run_dir}")


def _in_effect(attack: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of an attack, those by default included: for a record that says what was done."""
    import inspect

    import minivit as mv

    parameters = inspect.signature(mv.attacks.pgd if attack == "pgd" else mv.attacks.fgsm).parameters
    return {name: options.get(name, parameters[name].default) for name in ("steps", "restarts") if name in parameters}


def gradcheck(arguments: argparse.Namespace) -> int:
    import minivit as mv
    from minivit.autograd.samples import samples

    own = [name for name in arguments.names if ":" not in name]
    for name in own:
        if name not in mv.autograd.REGISTRY:
            raise ValueError(f"there is no operation {name!r}; there are {', '.join(sorted(mv.autograd.REGISTRY))}; "
                             "or give FILE.py:NAME")
    if arguments.shape and len(own) == len(arguments.names):
        raise ValueError("--shape: belongs to FILE.py:NAME; minivit's own operations are checked on samples of theirs")
    rng = np.random.default_rng(arguments.seed)
    wrong = 0
    for name in arguments.names or mv.autograd.REGISTRY:
        if ":" in name:
            f = _operation_in(name)
            shapes = arguments.shape or [(3, 4)] * len(f.inputs)
            inputs = [rng.standard_normal(lengths) for lengths in shapes]
            if not arguments.shape and len(shapes) > 1:
                print(f"{name}: {len(shapes)} inputs of shape (3, 4); --shape for each gives others, as one that is broadcast")
        else:
            f, inputs = _of_its_inputs(mv.autograd.REGISTRY[name], samples(name, rng))
            while not all(np.size(x) and np.isfinite(x).all() for x in inputs):  # empty ones are drawn too, and masks of -inf
                f, inputs = _of_its_inputs(mv.autograd.REGISTRY[name], samples(name, rng))
        try:
            report = mv.gradcheck(f, *inputs, order=arguments.order, seed=arguments.seed)
        except mv.GradcheckError as error:
            report = error.report
        if report.verdict == "right":
            print(f"{name:32} right to order {arguments.order}")
        else:
            wrong += report.verdict == "wrong"
            print(report)
    return 1 if wrong else 0


def _of_its_inputs(op: Any, sample: Any) -> tuple[Any, list[Any]]:
    """An operation as a function of its differentiable inputs alone, and those."""
    wanted = list(sample.wanted)

    def f(*inputs: Any) -> Any:
        args = list(sample.args)
        for i, value in zip(wanted, inputs):
            args[i] = value
        return op(*args, **sample.options)

    f.__name__ = op.name
    return f, [sample.args[i] for i in wanted]


def _operation_in(place: str) -> Any:
    """The operation NAME of FILE.py. The file is run: it has all the rights that you have."""
    import runpy

    from minivit.autograd import Op

    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path!r}")
    try:
        found = runpy.run_path(path)
    except (Exception, SystemExit) as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = f", line {own[-1].lineno}" if own else ""
        raise ValueError(f"{path}{line}: it cannot be run to its end: {type(error).__name__}: {error}") from error
    if not isinstance(found.get(name), Op):
        known = ", ".join(key for key, value in found.items() if isinstance(value, Op)) or "none"
        raise ValueError(f"{path} has no operation {name!r} (made with @mv.op); it has {known}")
    return found[name]


def bench(arguments: argparse.Namespace) -> int:
    import minivit as mv

    on_gpu = arguments.device == "cuda"
    if arguments.list:
        known = mv.bench.GPU_ROWS if on_gpu else mv.bench.ROWS
        width = max(map(len, known))
        print("\n".join(f"{name:{width}}  {task.about}" for name, task in known.items()))
        print(f"{'peers':{width}}  {'pytorch' if on_gpu else ', '.join(mv.bench.PEERS)}")
        return 0
    for option in ("plot", "threads") if on_gpu else ():
        if getattr(arguments, option):
            raise ValueError(f"--{option}: belongs to rows of a CPU; leave it out with --device cuda")
    if arguments.plot and not arguments.plot.absolute().parent.is_dir():
        raise ValueError(f"--plot: there is no folder {str(arguments.plot.parent)!r}")
    if arguments.plot and arguments.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--plot: expected a name that ends in .png, .pdf or .svg, got {str(arguments.plot)!r}")
    peers = {None: None, "none": []}.get(arguments.peers, (arguments.peers or "").split(","))
    rows: list[Any] = []
    stopped: BaseException | None = None

    def progress(name: str) -> None:
        print(f"{name} ...", file=sys.stderr)

    try:
        asked = (arguments.rows or None, arguments.rounds, peers)
        for row in mv.bench.run_on_gpu(*asked, progress) if on_gpu else mv.bench.run(*asked, arguments.threads, progress):
            rows.append(row)
    except (KeyboardInterrupt, Exception) as error:  # what was measured took minutes, and stands
        if not rows:
            raise
        stopped = error
        print("\nminivit bench: stopped; the rows that were measured:", file=sys.stderr)
    shown: Any = mv.bench.gpu if on_gpu else mv.bench
    print(shown.as_json(rows) if arguments.json else shown.as_text(rows))
    if arguments.plot:
        mv.bench.figure(rows).savefig(arguments.plot)
        print(f"figure: {arguments.plot}", file=sys.stderr)
    if stopped is not None:
        raise stopped
    return 0


def info(arguments: argparse.Namespace) -> None:
    import minivit as mv

    if arguments.model is not None:
        print(mv.models.load(arguments.model))
        return
    facts = {"minivit": mv.__version__, **mv.bench.machine()}
    facts["threads for elementwise work"] = str(mv.backend.num_threads())
    usable, why = mv.backend.gpu_status()
    facts["gpu"] = "ready" if usable else f"none: {why}"
    facts["$MINIVIT_DATA"] = os.environ.get("MINIVIT_DATA", "not set")
    for name in mv.data.names():
        try:
            train, test = mv.data.load(name)
            facts[f"data {name}"] = f"{len(train):,} + {len(test):,} images of {'x'.join(map(str, train.image_shape))}"
        except (OSError, ValueError) as error:
            facts[f"data {name}"] = str(error).split(";")[0]
    width = max(map(len, facts))
    print("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))

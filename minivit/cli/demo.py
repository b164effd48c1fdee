"""`minivit demo`: train a Vision Transformer on real digits, fool it, harden it, and show all of it.

The lecture in one command: natural training, FGSM and PGD ("Method"), adversarial training as fine-tuning ("Defense"),
and a report with the pictures.
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np

from minivit.cli.arguments import add, add_device, add_seed, arguments_of, new_run_dir, number, parser, place, whole

MODEL: dict[str, Any] = {
    "image_size": 8, "patch_size": 4, "channels": 1, "embed_dim": 64, "depth": 4, "num_heads": 4, "num_classes": 10,
}  # fmt: skip
NATURAL: dict[str, Any] = {"batch_size": 64, "lr": 3e-3, "shift": 1}
HARDENED: dict[str, Any] = {"batch_size": 64, "lr": 3e-3, "shift": 0, "steps": 5}


_SETTINGS = ("device", "tf32", "seed", "eps", "eps_l2", "epochs", "adversarial_epochs")


def add_commands(subparsers: Any) -> None:
    command = add(subparsers, "demo", run, "Train a ViT on digits, fool it, harden it; leaves models, pictures and a report.",
                  "minivit demo --eps 0.1 --run-dir runs/mild")  # fmt: skip
    add_device(command)
    add_seed(command)
    command.add_argument("--eps", type=number, default=0.15, help="L-inf radius of the attacks (default 0.15)")
    command.add_argument("--eps-l2", type=number, default=1.0, help="radius of the L2 attack (default 1)")
    command.add_argument("--epochs", type=whole(1), default=60, help="of natural training (default 60)")
    command.add_argument("--adversarial-epochs", type=whole(1), default=20, help="of adversarial fine-tuning (default 20)")
    command.add_argument("--run-dir", metavar="DIR", help="where to write (default runs/<date>-demo)")
    command.add_argument("--resume", metavar="DIR", help="go on with the demo in this folder, with its settings")


def run(arguments: argparse.Namespace) -> int:
    run_dir = Path(arguments.resume) if arguments.resume else new_run_dir(arguments.run_dir, "demo")
    if arguments.resume:
        arguments = argparse.Namespace(**{**vars(arguments), **arguments_of(run_dir, "demo", arguments)})
    elif (run_dir / "config.json").exists():
        try:
            arguments_of(run_dir, "demo", parser().parse_args(["demo"]))
            advice = f"go on with --resume {shlex.quote(str(run_dir))}, or choose another"
        except ValueError:  # of something else
            advice = "choose another folder"
        raise FileExistsError(f"--run-dir: {run_dir} already holds a run; {advice}")
    try:
        return _demonstrate(arguments, run_dir)
    except KeyboardInterrupt as stop:
        if not str(stop) and (run_dir / "config.json").exists():  # training says it itself
            raise KeyboardInterrupt(f"interrupted. To go on: {_how_to_resume(run_dir)}") from None
        raise


def _how_to_resume(run_dir: Path) -> str:
    return f"minivit demo --resume {shlex.quote(str(run_dir))}"


def _demonstrate(arguments: argparse.Namespace, run_dir: Path) -> int:
    import minivit as mv

    started = time.perf_counter()
    device = place(arguments)
    train, test = mv.data.load("digits")
    seed, eps, eps_l2 = arguments.seed, arguments.eps, arguments.eps_l2
    model = mv.models.ViT(**MODEL, seed=seed)
    model.to(device)
    # the attacks' own checks, before minutes are spent: an eps that they refuse
    for option, norm, radius in (("--eps", "linf", eps), ("--eps-l2", "l2", eps_l2)):
        try:
            mv.attacks.fgsm(model, test.images[:1], test.labels[:1], eps=radius, norm=norm)
        except ValueError as error:
            raise ValueError(f"{option}: {str(error).removeprefix('eps: ')}") from None
    settings = {
        "about": {"arguments": {k: v for k, v in vars(arguments).items() if k in _SETTINGS}},
        "command": "demo", "seed": seed, "eps": eps, "eps_l2": eps_l2, "model": model.to_config(),
        "natural": {"epochs": arguments.epochs, **NATURAL},
        "robust": {"epochs": arguments.adversarial_epochs, **HARDENED},
        "minivit": mv.__version__, "numpy": np.__version__,
    }  # fmt: skip
    run_dir.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        mv.io.write_json(run_dir / "config.json", settings)
    print(f"minivit demo: a Vision Transformer of {model.num_parameters():,} parameters, {len(train):,} digits to learn from, "
          f"{len(test)} to be judged by; writing to {run_dir}")

    print(f"1. natural training, {arguments.epochs} epochs")
    natural, natural_history = _phase(
        arguments, run_dir, "natural",
        lambda **where: (model, mv.train.fit(model, train, test, epochs=arguments.epochs, seed=seed, **NATURAL, **where)),
    )  # fmt: skip
    print(f"2. adversarial fine-tuning at L-inf eps {eps:g}, {arguments.adversarial_epochs} epochs")
    robust, robust_history = _phase(
        arguments, run_dir, "robust",
        lambda **where: mv.defenses.adversarial_train(
            natural, train, test, eps=eps, epochs=arguments.adversarial_epochs, seed=seed, return_history=True,
            **HARDENED, **where,
        ),
    )  # fmt: skip
    models = {"natural": natural.to(device), "adversarially trained": robust.to(device)}

    print("3. attacks")
    columns, rows = _table(models, test, eps, eps_l2, seed)
    radii = np.linspace(0, min(2 * eps, 1.0), 7).tolist()
    curves = {name: mv.attacks.robust_accuracy(m, test, "pgd", radii, seed=seed, steps=20) for name, m in models.items()}

    print("4. pictures")
    figures = _pictures(models, test, eps, {"natural": natural_history, "robust": robust_history}, curves, seed)
    for name, section in figures.items():
        section.figure.savefig(run_dir / f"{name}.png", dpi=150)
    log = [{"phase": phase, **row} for phase, h in (("natural", natural_history), ("robust", robust_history)) for row in h]
    mv.io.write_jsonl(run_dir / "metrics.jsonl", log)
    report = run_dir / "report.html"
    widest = _half_width(rows, len(test))
    note = (f"Accuracy on {len(test)} held-out digits, PGD from 3 random starts; the widest 95 % interval is ±{widest:.1f} "
            f"points; seed {seed}.")  # fmt: skip
    cells = [[name, *map(_percent, row)] for name, row in rows.items()]
    mv.viz.report(
        report, "A Vision Transformer, fooled and hardened",
        [
            mv.viz.Text("What was done", _story(arguments, train, test, model)),
            mv.viz.Table("Accuracy under attack", ["model", *columns], cells, note),
            *figures.values(),
        ],
        config={name: value for name, value in settings.items() if name != "about"},
    )  # fmt: skip
    print(_as_text(columns, rows))
    print(f"{note}\n{time.perf_counter() - started:.0f} s in all. Report: {report}")
    return 0


def _phase(arguments: argparse.Namespace, run_dir: Path, name: str, work: Any) -> tuple[Any, Any]:
    """One training: does it, goes on with it, or takes its result from disk if it was finished before."""
    import minivit as mv

    result, checkpoints = run_dir / f"{name}.safetensors", run_dir / "checkpoints" / name
    if arguments.resume and result.exists():
        model = mv.models.load(result)
        return model, mv.train.History(mv.io.read_jsonl(checkpoints / "metrics.jsonl"))
    where: dict[str, Any] = {"how_to_resume": _how_to_resume(run_dir)}
    begun = arguments.resume and (checkpoints / "config.json").exists()
    where["resume" if begun else "run_dir"] = checkpoints
    model, history = work(**where)
    mv.models.save(model, result)
    return model, history


def _table(
    models: dict[str, Any], test: Any, eps: float, eps_l2: float, seed: int
) -> tuple[list[str], dict[str, list[float]]]:
    import minivit as mv

    attacks: dict[str, dict[str, Any]] = {
        "clean": {"eps": 0.0},
        f"FGSM L-inf {eps:g}": {"attack": "fgsm", "eps": eps},
        f"PGD-20 L-inf {eps:g}": {"attack": "pgd", "eps": eps, "steps": 20, "restarts": 3, "seed": seed},
        f"PGD-20 L2 {eps_l2:g}": {"attack": "pgd", "eps": eps_l2, "norm": "l2", "steps": 20, "restarts": 3,
                                    "seed": seed},
    }
    rows = {
        name: [float(mv.attacks.robust_accuracy(model, test, **how).accuracy[0]) for how in attacks.values()]
        for name, model in models.items()
    }
    return list(attacks), rows


def _pictures(
    models: dict[str, Any], test: Any, eps: float, histories: dict[str, Any], curves: dict[str, Any], seed: int
) -> dict[str, Any]:
    """file name -> section of the report"""
    import minivit as mv

    natural, robust = models.values()
    image = test.images[0]
    x, y = test.images[:6], test.labels[:6]
    F, viz = mv.viz.Figure, mv.viz
    figures = {
        "patches": F("An image becomes a sequence", viz.patches(image, MODEL["patch_size"]),
                     "A digit, its 4 patches with their numbers, and the patches in a row.",
                     "im2col: patches in rows from the top left; each is flattened and projected to an embedding."),
        "training_natural": F("Natural training", viz.training(histories["natural"]),
                              "Loss, accuracy and learning rate against epochs.",
                              "The test set is measured after each epoch and decides nothing."),
        "position_similarity": F("What the model learned about positions", viz.position_similarity(natural),
                                 "A tile per position: the cosine similarity of its embedding to all others.",
                                 "1 is the position itself. From so few digits the model learns to tell positions "
                                 "apart; that neighbors grow alike takes far more images."),
        "attention": F("Attention of the natural model", viz.attention(natural, image),
                       "A map of attention over the image for each layer and head."),
        "rollout": F("Attention through all layers", viz.rollout(natural, image),
                     "The image and its attention rollout.", "A qualitative picture: values and MLPs are left out of it."),
    }  # fmt: skip
    for name, model in (("natural", natural), ("robust", robust)):
        result = mv.attacks.pgd(model, x, y, eps=eps, steps=20, seed=seed)
        figures[f"adversarial_{name}"] = F(
            f"PGD against the {'natural' if name == 'natural' else 'adversarially trained'} model",
            viz.adversarial(model, x, result, y, classes=test.classes),
            f"Clean digits, perturbations and adversarial digits; {int(result.success.sum())} of {len(y)} are misclassified.",
        )
    figures["training_robust"] = F("Adversarial training", viz.training(histories["robust"]),
                                   "Loss, accuracy and learning rate against epochs of fine-tuning.",
                                   "Training accuracy is on adversarial images, test accuracy on natural ones.")  # fmt: skip
    figures["robust_accuracy"] = F("Accuracy against the attack's reach", viz.robust_accuracy(curves),
                                   "Accuracy under PGD against eps, a curve for each of the two models.",
                                   "PGD-20 in L-inf from one random start; bars are 95 % intervals.")  # fmt: skip
    return figures


def _story(arguments: argparse.Namespace, train: Any, test: Any, model: Any) -> str:
    return (
        f"A Vision Transformer of {model.num_parameters():,} parameters learned {len(train):,} handwritten digits of 8×8 "
        f"pixels in {arguments.epochs} epochs. Then FGSM and PGD changed {len(test)} digits it had not seen by at most "
        f"{arguments.eps:g} per pixel (of a range of 1), so that it takes them for others. (In the table's last "
        f"column it is the length of all changes together that is bounded, by {arguments.eps_l2:g}.)\n\n"
        f"The second model started from the first and was trained for {arguments.adversarial_epochs} epochs on digits that PGD "
        f"had changed to fool it as it was at that moment. The table says what that brought, and what it cost."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _half_width(rows: dict[str, list[float]], n: int) -> float:
    """The larger half of the widest interval in the table, in points."""
    from minivit.attacks.curve import wilson

    low, high = wilson(np.array([share for row in rows.values() for share in row]), n)
    return float(100 * (high - low).max() / 2)


def _as_text(columns: list[str], rows: dict[str, list[float]]) -> str:
    first = max(map(len, rows))
    widths = [max(len(c), 7) for c in columns]
    lines = [" ".join([" " * first, *(c.rjust(w + 1) for c, w in zip(columns, widths))])]
    lines += [" ".join([n.ljust(first), *(_percent(v).rjust(w + 1) for v, w in zip(row, widths))]) for n, row in rows.items()]
    return "\n".join(lines)

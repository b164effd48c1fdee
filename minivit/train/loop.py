"""The training loop: how a Vision Transformer learns.

    history = fit(model, train, test, epochs=20, seed=0, run_dir="runs/first")
    history.plot()

A step is what the lecture's "Gradient Descent Revisited" says: the loss of a few images, its gradient by backward, a
move against the gradient. Everything random in it (which images, how they are shifted, what dropout drops) is a
function of (seed, step), and nothing else is remembered but what `_Training` holds; so a run that was stopped, by
Ctrl-C, a power cut or `kill -9`, goes on to the very bits it would have reached.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np

from minivit.arguments import integer
from minivit.autograd import Tensor, anomaly, autocast, ops
from minivit.backend import array_module, device_of, to_device, to_floats
from minivit.data import Dataset, batches
from minivit.data import shift as shift_images
from minivit.data.dataset import check_classes
from minivit.models import ViT
from minivit.nn import Module
from minivit.nn.module import set_step
from minivit.train.ema import EMA
from minivit.train.evaluation import evaluate, placed, predict
from minivit.train.history import History
from minivit.train.optimizers import OPTIMIZERS, clip_grad_norm
from minivit.train.progress import Progress
from minivit.train.runs import Run, describe_data, describe_model
from minivit.train.scaling import LossScaler
from minivit.train.schedules import warmup_cosine

# (model, images, labels, indices, step) -> (loss, logits)
Objective = Callable[[Any, Any, np.ndarray, np.ndarray, int], tuple[Tensor, Tensor]]


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C, after a whole step; the message says how to go on."""


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The ordinary objective: the mean cross-entropy of a batch."""

    label_smoothing: float = 0.0

    def __call__(
        self, model: Any, images: Any, labels: np.ndarray, indices: np.ndarray, step: int
    ) -> tuple[Tensor, Tensor]:
        # the data set has looked at its pixels; a model does so again with arrays, and would have to wait for a GPU
        logits = model(images if device_of(images) == "cpu" else Tensor(images))  # (B, H, W, C) -> (B, K)
        return ops.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits


def fit(
    model: Module,
    train: Dataset,
    test: Dataset | None = None,
    *,
    epochs: int = 20,
    seed: int = 0,
    batch_size: int = 64,
    lr: float = 2e-3,
    optimizer: str = "adamw",
    weight_decay: float = 0.05,
    warmup: float = 0.05,
    clip_norm: float | None = 1.0,
    label_smoothing: float = 0.0,
    shift: int = 0,
    ema: float | None = None,
    validation: float = 0.0,
    keep: str = "last",
    precision: str = "float32",
    objective: Objective | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 30.0,
    progress: bool = True,
    about: Mapping[str, Any] | None = None,
    how_to_resume: str | None = None,
) -> History:
    """Trains `model`, in place, and leaves it in evaluation mode.

    Args:
        model: a Module from images (B, H, W, C) to logits (B, classes). Parameters with requires_grad = False stay as they are.
        train: what it learns from.
        test: is measured after every epoch and decides nothing.
        epochs: how often each training image is seen.
        seed: for the order of the images and their shifts. Dropout draws from the model's own seed.
        batch_size: images per step.
        lr: the highest learning rate; it rises to it and falls to 0 (`warmup_cosine`).
        optimizer: "adamw", "adam" or "sgd".
        weight_decay: as the optimizer understands it.
        warmup: the fraction of all steps during which the learning rate rises.
        clip_norm: the longest gradient; a longer one is scaled down. None: as it comes.
        label_smoothing: the part of the target that is spread over all classes (Szegedy et al. 2016).
        shift: each image is moved by up to so many pixels, differently in each epoch.
        ema: the decay of the average of weights, 0.999 say; what is measured and what remains is then the average.
        validation: the fraction of `train` that is held back, to be measured after every epoch.
        keep: "last", the weights after the last epoch; or "best", those of the best validation accuracy.
        precision: "float32"; or "float16", mixed precision: products in float16 (`mv.autocast`) with a `LossScaler`. It is
            for a GPU with tensor cores, a CPU is slower at it; what is measured after an epoch is measured in float32. The
            history then says how many steps were `skipped` because a gradient overflowed.
        objective: what is descended instead of the cross-entropy (see `CrossEntropy`); defenses are made of this.
        run_dir: the folder to write settings, metrics, checkpoints and the model to (`runs.py`); None writes nothing.
        resume: the run folder to go on in, with the same arguments. The weights that `model` comes with do not matter.
        checkpoint_every: seconds of work to be lost at most; 0 writes a checkpoint after every step.
        progress: a bar on stderr, or a line per epoch where stderr is no terminal.
        about: plain data to record in config.json.
        how_to_resume: what messages say to go on with a run, after Ctrl-C for example.

    Returns:
        History: one row per epoch, those before a resume included.

    Raises:
        TypeError, ValueError: for arguments or data that do not fit each other, before the first step.
        FloatingPointError: when the loss or the weights are no longer finite, naming the place; the model keeps the last
            finite weights.
        OSError: when the disk fails; the last good checkpoint stays.
        TrainingInterrupted: after Ctrl-C, when the step is finished and saved. A second Ctrl-C stops at once.
    """
    if resume is not None:
        if run_dir is not None and os.path.abspath(run_dir) != os.path.abspath(resume):
            raise ValueError(f"run_dir: is {run_dir!r}, but resume={resume!r} is where the run goes on; leave out run_dir")
        run_dir = resume
    _check_settings(
        optimizer, warmup, clip_norm, shift, validation, keep, precision, objective, label_smoothing, checkpoint_every
    )
    _check_data(model, train, test, shift)
    learned_from, held_back = _divided(train, validation, seed)
    objective = objective or CrossEntropy(label_smoothing)
    settings = {
        "epochs": integer("epochs", epochs, least=1), "seed": integer("seed", seed),
        "batch_size": integer("batch_size", batch_size, least=1), "lr": float(lr), "optimizer": optimizer,
        "weight_decay": float(weight_decay), "warmup": warmup, "clip_norm": clip_norm, "shift": shift, "ema": ema,
        "validation": validation, "keep": keep, "precision": precision,
        "objective": _describe_objective(objective),
    }  # fmt: skip
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained and any(True for _ in model.parameters()):
        raise ValueError("model: requires_grad is False for all of its parameters, so there is nothing to train")
    lr = float(lr)
    opt = OPTIMIZERS[optimizer](trained, lr=lr, weight_decay=weight_decay)
    scaler = LossScaler() if precision == "float16" else None
    now = _Training(model, opt, None if ema is None else EMA([p for _, p in trained], ema), scaler)
    run = None
    if run_dir is not None:
        data = {"train": describe_data(train), "test": describe_data(test)}
        config = {"training": settings, "model": describe_model(model), "data": data, "about": dict(about or {})}
        run = Run(run_dir, config, resume is not None, how_to_resume)
        if resume is None or not run.restore(now.restore):
            _save(run, now)  # proves that it can be done, before any work is done
    steps_per_epoch = math.ceil(len(learned_from) / batch_size)
    total = epochs * steps_per_epoch
    bar = Progress(total, now.step, epochs, progress)
    last_save = time.monotonic()
    if isinstance(model, ViT):
        model.classes = train.classes
    model.train()
    try:
        with _ctrl_c_waits() as interrupted:
            while now.step < total:
                epoch, done = divmod(now.step, steps_per_epoch)
                for images, labels, indices in islice(batches(learned_from, batch_size, seed, epoch), done, None):
                    started = time.perf_counter()
                    opt.lr = warmup_cosine(now.step, steps=total, warmup=round(warmup * total), peak=lr)
                    if shift:
                        images = shift_images(images, shift, seed, now.step)
                    loss, correct = _step(now, objective, clip_norm, placed(model, images), labels, indices, epoch)
                    now.count(loss, correct, len(labels), time.perf_counter() - started)
                    bar.step(epoch + 1, now.mean("loss"), now.mean("correct"), opt.lr, now.images_per_second())
                    if now.step % steps_per_epoch == 0:
                        row = _finish_epoch(now, epoch, held_back, test, keep)
                        bar.epoch(row)
                        if run is not None:
                            with _disk_errors_explained(run):
                                run.log(row)
                    if run is not None and time.monotonic() - last_save >= checkpoint_every:
                        _save(run, now)
                        last_save = time.monotonic()
                    if interrupted.is_set() and now.step < total:
                        if run is not None:
                            _save(run, now)
                        raise TrainingInterrupted(_farewell(now, epoch, total, run, how_to_resume))
            now.refuse_infinite()
            if run is not None:
                _save(run, now)
            now.settle(keep)
            if run is not None:
                with _disk_errors_explained(run):
                    run.save_model(model)
            if interrupted.is_set():  # too late for this training, but not for whatever was to come after it
                raise TrainingInterrupted(_farewell(now, epochs - 1, total, run, how_to_resume))
    finally:
        bar.close()
        opt.zero_grad()
        model.eval()
    return now.history


def _step(
    now: _Training, objective: Objective, clip_norm: float | None, images: Any, labels: np.ndarray,
    indices: np.ndarray, epoch: int,
) -> tuple[float, int]:
    """One step of descent: (the loss, how many of the batch were right), both from before the move."""

    def forward_and_backward() -> tuple[Tensor, Tensor]:
        set_step(now.model, now.step * 1024)  # each call of the model in training mode then counts one further
        now.optimizer.zero_grad()
        with autocast("float32" if now.scaler is None else "float16"):
            loss, logits = objective(now.model, images, labels, indices, now.step)
        (loss if now.scaler is None else now.scaler.scale(loss)).backward()
        return loss, logits

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is dealt with here
        loss: Any = Tensor(math.nan)
        correct: Any = 0
        try:
            loss, logits = forward_and_backward()
            correct = (logits.data.argmax(axis=1) == to_device(labels, logits.device)).sum()
        except (ValueError, FloatingPointError):  # from an attack within the objective, say: is that the reason?
            if np.isfinite(predict(now.model, images)).all():
                raise
        if now.scaler is not None:
            now.scaler.unscale(now.optimizer.params)
        norm = clip_grad_norm(now.optimizer.params, clip_norm)
        value, norm, correct = to_floats(loss.data, norm, correct)  # the one time that a GPU is waited for
        good = math.isfinite(norm) if now.scaler is None else now.scaler.update(norm)
        if not math.isfinite(value) or not (good or (now.scaler is not None and now.scaler.factor >= 1)):
            raise FloatingPointError(_diagnosis(now, epoch, value, norm, forward_and_backward))
        if good:  # else the loss was scaled by too much, and the next step tries with less
            now.before = [p.data for p in now.optimizer.params]
            now.optimizer.step()
            if now.ema is not None:
                now.ema.update()
    return value, int(correct)


def _diagnosis(now: _Training, epoch: int, loss: float, norm: float, again: Callable[[], Any]) -> str:
    """What became infinite or NaN, and where: by computing the step again in anomaly mode. Then mends the weights."""
    what = f"the loss is {loss:g}" if not math.isfinite(loss) else f"the gradient's norm is {norm:g} (loss {loss:.4g})"
    try:
        with anomaly():
            again()
        where = "computed again, no operation made a NaN of finite numbers: they grew beyond what the dtype holds"
    except (FloatingPointError, ValueError) as error:
        where = f"computed again: {error}"
    now.mend()
    return f"epoch {epoch + 1}, step {now.step + 1}: {what}. {where}. {now.advice()}"


def _finish_epoch(
    now: _Training, epoch: int, held_back: Dataset | None, test: Dataset | None, keep: str
) -> dict[str, Any]:
    """Measures, remembers the best weights so far, and begins to count anew. The test set is measured, nothing else."""
    row = {
        "epoch": epoch + 1, "step": now.step, "lr": now.optimizer.lr, "train_loss": now.mean("loss"),
        "train_accuracy": now.mean("correct"),
    }  # fmt: skip
    with now.ema.applied() if now.ema is not None else nullcontext():
        for part, data in (("validation", held_back), ("test", test)):
            if data is not None:
                measured = evaluate(now.model, data)
                row |= {f"{part}_loss": measured["loss"], f"{part}_accuracy": measured["accuracy"]}
        if keep == "best" and (now.best is None or row["validation_accuracy"] > now.best_accuracy):
            now.best, now.best_accuracy = now.model.state_dict(), row["validation_accuracy"]
    if now.scaler is not None:
        row["skipped"] = now.scaler.skipped - sum(earlier["skipped"] for earlier in now.history)
    row |= {"seconds": round(now.sums["seconds"], 3), "images_per_second": round(now.images_per_second(), 1)}
    now.history.append(row)
    now.sums = dict.fromkeys(now.sums, 0)
    return row


class _Training:
    """Everything that changes while training goes on, and what a checkpoint makes of it."""

    def __init__(self, model: Module, optimizer: Any, ema: EMA | None, scaler: LossScaler | None) -> None:
        self.model, self.optimizer, self.ema, self.scaler = model, optimizer, ema, scaler
        self.step = 0  # steps done
        self.sums: dict[str, float] = {"loss": 0, "correct": 0, "seen": 0, "seconds": 0}  # of the epoch so far
        self.history = History()
        self.best: dict[str, np.ndarray] | None = None
        self.best_accuracy = 0.0
        self.before: list[Any] = [p.data for p in optimizer.params]  # the weights one step ago; arrays, not copies

    def count(self, loss: float, correct: int, n: int, seconds: float) -> None:
        self.step += 1
        for name, value in (("loss", loss * n), ("correct", correct), ("seen", n), ("seconds", seconds)):
            self.sums[name] += value

    def mean(self, name: str) -> float:
        return self.sums[name] / self.sums["seen"]

    def images_per_second(self) -> float:
        return self.sums["seen"] / max(self.sums["seconds"], 1e-9)

    def mend(self) -> bool:
        """Brings the weights back to what they were a step ago, if they are not finite; was there need?"""
        params = self.optimizer.params
        if all(bool(array_module(p.data).isfinite(p.data).all()) for p in params):
            return False
        for p, values in zip(params, self.before):
            p.assign_(values)
        return True

    def advice(self) -> str:
        return ("The model has its last finite weights, and the last checkpoint of a run stays. A smaller lr (now "
                f"{self.optimizer.lr:.3g}), a longer warmup or clip_norm=1.0 may help")  # fmt: skip

    def refuse_infinite(self) -> None:
        """Before anything is kept."""
        if self.mend():
            raise FloatingPointError(f"step {self.step}: it made the weights infinite or NaN. {self.advice()}")

    def settle(self, keep: str) -> None:
        """The weights that remain when training is over."""
        if keep == "best" and self.best is not None:
            self.model.load_state_dict(self.best)
        elif self.ema is not None:
            self.ema.apply()

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, plain data)"""
        parts: dict[str, dict[str, np.ndarray]] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.ema is not None:
            parts["ema"] = self.ema.state_dict()
        if self.best is not None:
            parts["best"] = self.best
        arrays = {f"{part}/{name}": array for part, state in parts.items() for name, array in state.items()}
        state = {"step": self.step, "sums": self.sums, "history": list(self.history), "best_accuracy": self.best_accuracy}
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return arrays, state

    def restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        def part(name: str) -> dict[str, np.ndarray]:
            return {key.split("/", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{name}/")}

        sums = {name: state["sums"][name] for name in self.sums}
        step, best_accuracy = operator.index(state["step"]), state["best_accuracy"]
        sum(sums.values(), best_accuracy)  # numbers, all of them, or this raises before anything is changed
        self.model.load_state_dict(part("model"))
        self.optimizer.load_state_dict(part("optimizer"))
        if self.ema is not None:
            self.ema.load_state_dict(part("ema"))
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.best = part("best") or None
        self.step, self.sums, self.best_accuracy = step, sums, best_accuracy
        self.history = History(state["history"])
        self.before = [p.data for p in self.optimizer.params]


def _save(run: Run, now: _Training) -> None:
    now.refuse_infinite()
    with _disk_errors_explained(run):
        run.save(*now.snapshot())


@contextmanager
def _disk_errors_explained(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        latest = run.latest()
        goes_on = f"the last good checkpoint is {latest}; make room, then go on with resume={str(run.path)!r}"
        raise OSError(
            error.errno, f"training stopped, the run folder could not be written to: {error.strerror}; "
            + (goes_on if latest else "there is no checkpoint yet"), str(error.filename or run.path),
        ) from error


@contextmanager
def _ctrl_c_waits() -> Iterator[threading.Event]:
    """Within this block the first Ctrl-C only sets the event that is yielded, the second raises KeyboardInterrupt.

    Only in the main thread, where Python takes signals, and only if Ctrl-C means there what it usually means.
    """
    asked = threading.Event()

    def ask(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.set()

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _farewell(now: _Training, epoch: int, total: int, run: Run | None, how_to_resume: str | None) -> str:
    if now.step == total:
        saved = ", and they are saved" if run is not None else ""
        goes_on = f". To go on: {how_to_resume}" if how_to_resume else ""
        return f"stopped when training was finished; the model has its last weights{saved}{goes_on}"
    done = f"stopped in epoch {epoch + 1}, after step {now.step} of {total}; the model has the weights of that step"
    if run is None:
        return f"{done}. Nothing is on disk: give fit a run_dir to be able to go on"
    return f"{done}, and they are saved. To go on: {run.how_to_resume}"


def _describe_objective(objective: Any) -> dict[str, Any]:
    settings: dict[str, Any] = dataclasses.asdict(objective) if hasattr(objective, "__dataclass_fields__") else {}
    return {"name": getattr(objective, "__qualname__", type(objective).__name__), **settings}


def _check_settings(
    optimizer: str, warmup: float, clip_norm: float | None, shift: int, validation: float, keep: str,
    precision: str, objective: Objective | None, label_smoothing: float, checkpoint_every: float,
) -> None:
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}; got {optimizer!r}")
    for name, value in (("warmup", warmup), ("validation", validation), ("label_smoothing", label_smoothing)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}: expected a fraction in [0, 1), got {value!r}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm: expected a positive number or None, got {clip_norm!r}")
    if keep not in ("last", "best"):
        raise ValueError(f"keep: expected 'last' or 'best', got {keep!r}")
    if precision not in ("float32", "float16"):
        raise ValueError(f"precision: expected 'float32' or 'float16', got {precision!r}")
    if keep == "best" and not validation:
        raise ValueError("keep='best' selects by validation accuracy, never by the test set: give validation=0.1, say")
    if objective is not None and label_smoothing:
        raise ValueError("label_smoothing: belongs to the ordinary objective; smooth in the one you give")
    if not checkpoint_every >= 0:
        raise ValueError(f"checkpoint_every: expected seconds, 0 or more, got {checkpoint_every!r}")
    integer("shift", shift)


def _divided(train: Dataset, validation: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """(what is learned from, what is held back)"""
    if not validation:
        return train, None
    try:
        return train.split(validation, seed)
    except ValueError:
        raise ValueError(f"validation: {validation} of {len(train)} images leaves one of the two parts without any") from None


def _check_data(model: Module, train: Dataset, test: Dataset | None, shift: int) -> None:
    """Whether the model takes these images and has a logit for each of these labels, before the first step."""
    if not isinstance(model, Module):
        raise TypeError(f"model: expected an mv.nn.Module, which has parameters to train, got {type(model).__name__}")
    for name, data in (("train", train), ("test", test)):
        if data is None and name == "test":
            continue
        if not isinstance(data, Dataset):
            raise TypeError(f"{name}: expected a Dataset, got {type(data).__name__}; mv.data.Dataset(images, labels)")
        if len(data) == 0:
            raise ValueError(f"{name}: has no images")
        check_classes(name, data, train)
        if data.image_shape != train.image_shape:
            raise ValueError(f"test: its images are {data.image_shape}, those of train {train.image_shape}")
        logits = predict(model, data.images[:1])
        if logits.ndim != 2 or len(logits) != 1:
            raise ValueError(f"model: expected logits (1, classes) for one image, got {logits.shape}")
        if data.labels.max() >= logits.shape[1]:
            raise ValueError(
                f"{name}: its labels reach {data.labels.max()}, but the model has {logits.shape[1]} classes, "
                f"0..{logits.shape[1] - 1}; make it with num_classes={data.num_classes}"
            )
    if shift >= min(train.image_shape[:2]):
        raise ValueError(f"shift: {shift} pixels would move images of {train.image_shape} out of sight")

"""Adversarial training: learning from images that were made to fool the model, as it is at that moment.

The lecture ("Defense": adversarial training) names two ways, and both are this one function; the model that is given
makes the difference:

    hardened = adversarial_train(model, train, test, eps=0.15)              # trained on natural images before: fine-tuned

    fresh = mv.models.ViT(..., seed=0)                                      # from scratch, on natural and
    hardened = adversarial_train(fresh, train, test, eps=0.15, epochs=60,   # adversarial images
                                 natural_weight=0.5, eps_warmup=20)

What is descended is the inner maximum of Madry et al. 2018 ("Towards deep learning models resistant to adversarial
attacks", eq. 2.1),

    min over θ   mean over (x, y) of   max over ‖δ‖ <= eps of   ℓ(θ, x + δ, y),

found approximately by a few steps of PGD; or, with a `natural_weight` α, the mixture α ℓ(x) + (1 - α) ℓ(x + δ) of
Goodfellow et al. 2015 ("Explaining and harnessing adversarial examples", section 6). Vision Transformers from scratch
hardly begin to learn under a strong attack, which is why eps can be let rise from 0 (`eps_warmup`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from minivit.arguments import choice, integer, real
from minivit.attacks import norms, pgd
from minivit.attacks.pgd import step as pgd_step
from minivit.attacks.victim import checked_together
from minivit.autograd import Tensor, ops
from minivit.backend import array_module, device_of, to_device
from minivit.backend.random import hash_bits
from minivit.data import Dataset
from minivit.nn import Module
from minivit.nn.module import evaluating
from minivit.train import History, TrainingInterrupted, fit


@dataclass(frozen=True)
class AdversarialCrossEntropy:
    """An objective for `fit`: α · cross-entropy of natural images + (1 - α) · that of the same images after PGD.

    The attack meets the model in evaluation mode, the update in training mode. The random start of an image is a
    function of (seed, step, index). The images are those of the training step, shifted and all.
    """

    eps: float
    norm: str = "linf"
    steps: int = 5
    step_size: float | None = None  # None: 2.5 eps / steps, as in `pgd`
    natural_weight: float = 0.0  # α
    eps_warmup: int = 0  # training steps over which eps rises to its value
    label_smoothing: float = 0.0
    bounds: tuple[float, float] = (0, 1)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what no attack could be made of; what depends on the images, `adversarial_train` looks at."""
        choice("norm", self.norm, norms.NORMS)
        integer("steps", self.steps, least=1)
        integer("eps_warmup", self.eps_warmup)
        lo, hi = norms.box(self.bounds)
        if not 0 <= real("eps", self.eps) <= (hi - lo if self.norm == "linf" else math.inf):
            most = f" to {hi - lo:g}, the range of a pixel" if self.norm == "linf" else ""
            raise ValueError(f"eps: expected a radius from 0{most}, got {self.eps:g}")
        if self.step_size is not None and real("step_size", self.step_size) <= 0:
            raise ValueError(f"step_size: expected a number above 0, got {self.step_size!r}")
        for name in ("natural_weight", "label_smoothing"):
            if not 0 <= real(name, getattr(self, name)) < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {getattr(self, name)!r}")

    def __call__(
        self, model: Any, images: Any, labels: np.ndarray, indices: np.ndarray, step: int
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the logits of the adversarial images (B, classes)."""
        B = len(images)
        x_adv = self.attack(model, images, labels, indices, step)
        if self.natural_weight == 0:
            logits = model(Tensor(x_adv))
            return ops.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits
        both = model(Tensor(array_module(images).concatenate([images, x_adv])))  # (2B, H, W, C) -> (2B, K), in one pass
        natural_loss, adversarial_loss = (
            ops.cross_entropy(part, labels, label_smoothing=self.label_smoothing) for part in (both[:B], both[B:])
        )
        alpha = self.natural_weight
        return natural_loss * alpha + adversarial_loss * (1 - alpha), both[B:]

    def attack(self, model: Any, images: Any, labels: np.ndarray, indices: np.ndarray, step: int) -> Any:
        """`pgd(..., keep="last")` without what only a report needs: exactly `steps` gradients, and nothing else."""
        part = min(1.0, (step + 1) / self.eps_warmup) if self.eps_warmup else 1.0
        eps = part * self.eps
        step_size = part * (2.5 * self.eps / self.steps if self.step_size is None else self.step_size)
        on_device = to_device(labels, device_of(images))
        here = int(hash_bits(self.seed, "adversarial training", step))
        with evaluating(model), checked_together():
            x_t = norms.random_start(images, eps, self.norm, here, 0, indices)
            x_t = norms.project(x_t, images, eps, self.norm, self.bounds)
            for _ in range(self.steps):
                x_t, _, _ = pgd_step(
                    model, x_t, images, on_device, eps=eps, norm=self.norm, step_size=step_size, bounds=self.bounds
                )
        return x_t


@overload
def adversarial_train(
    model: Module, train: Dataset, test: Dataset | None = ..., *, return_history: Literal[True], **options: Any
) -> tuple[Module, History]: ...
@overload
def adversarial_train(
    model: Module, train: Dataset, test: Dataset | None = ..., *, return_history: Literal[False] = ..., **options: Any
) -> Module: ...
def adversarial_train(
    model: Module,
    train: Dataset,
    test: Dataset | None = None,
    *,
    eps: float = 8 / 255,
    epochs: int = 10,
    seed: int = 0,
    norm: str = "linf",
    steps: int = 5,
    step_size: float | None = None,
    natural_weight: float = 0.0,
    eps_warmup: float = 0.0,
    batch_size: int = 64,
    label_smoothing: float = 0.0,
    validation: float = 0.0,
    return_history: bool = False,
    **fit_options: Any,
) -> Module | tuple[Module, History]:
    """A new model that was trained under attack, starting from the given one, which is left untouched.

    Args:
        model: where to start: a trained model is fine-tuned, a fresh one is trained from scratch.
        train, test, epochs, seed, batch_size, label_smoothing, validation: as in `mv.train.fit`.
        eps, norm, steps, step_size: of the PGD that makes the adversarial images, as in `mv.attacks.pgd`.
        natural_weight: α in [0, 1), the part of the natural images in the loss; 0 is Madry's, 1/2 Goodfellow's.
        eps_warmup: epochs during which eps (and with it the step size) rises from 0 in a straight line.
        return_history: return (model, history). Its train_loss is that of the mixture, its train_accuracy that on the
            adversarial images; validation and test are on natural images.
        fit_options: anything else that `mv.train.fit` takes: lr, run_dir, resume, shift, progress, ...

    Returns:
        The hardened model, in evaluation mode.

    Raises:
        TypeError, ValueError: for arguments that `fit` or `pgd` refuse, before the first step.
        TrainingInterrupted, FloatingPointError: as in `fit`; their `.model` is what was trained so far.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model: expected an mv.nn.Module, which has parameters to train, got {type(model).__name__}")
    if not isinstance(train, Dataset) or len(train) == 0:
        raise TypeError("train: expected a Dataset with images; mv.data.Dataset(images, labels)")
    if not 0 <= real("natural_weight", natural_weight) < 1:
        raise ValueError(f"natural_weight: expected a number in [0, 1), got {natural_weight!r}; for 1 there is mv.train.fit")
    if not 0 <= real("eps_warmup", eps_warmup) <= integer("epochs", epochs, least=1):
        raise ValueError(f"eps_warmup: expected epochs, from 0 to {epochs}, got {eps_warmup!r}")
    if "objective" in fit_options:
        raise TypeError("objective: is what adversarial_train chooses; call mv.train.fit for one of your own")
    if fit_options.get("keep") == "best":
        raise ValueError("keep: 'best' would select by the accuracy on natural images, which is best before a model is "
                         "hardened; leave it at 'last', and compare runs by robust_accuracy on images that neither has seen")
    # the attack's own checks, once, by the attack on one image; training then goes without them
    pgd(model, train.images[:1], train.labels[:1], eps=eps, norm=norm, steps=steps, step_size=step_size, seed=seed)

    learned_from = len(train) - round(len(train) * validation)
    objective = AdversarialCrossEntropy(
        eps=float(eps), norm=norm, steps=steps, step_size=step_size, natural_weight=natural_weight,
        eps_warmup=round(eps_warmup * math.ceil(learned_from / integer("batch_size", batch_size, least=1))),
        label_smoothing=label_smoothing, seed=seed,
    )  # fmt: skip
    hardened = copy.deepcopy(model)
    run_dir = fit_options.get("resume") or fit_options.get("run_dir")
    if run_dir is not None:
        again = f"mv.defenses.adversarial_train(model, train, test, ..., resume={str(run_dir)!r})"
        fit_options.setdefault("how_to_resume", f"{again} and otherwise the same arguments")
    try:
        history = fit(
            hardened, train, test, epochs=epochs, seed=seed, batch_size=batch_size, validation=validation,
            objective=objective, **fit_options,
        )  # fmt: skip
    except (TrainingInterrupted, FloatingPointError) as error:
        vars(error)["model"] = hardened
        if run_dir is None:
            error.args = (f"{error} (What was trained so far is the exception's `.model`; the model given is as before.)",)
        raise
    return (hardened, history) if return_history else hardened

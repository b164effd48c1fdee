"""What is timed: the rows of the table, and minivit's own step for each, in the plain calls of its user.

The training rows are one step: loss and all gradients, without an optimizer. The models go from one that fits in a cache to
one whose products fill the machine. `tokens-N` is the same small model on larger and larger images: how time and memory
grow with the number of tokens, where attention's N² shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

import minivit as mv
from minivit.models.registry import config
from minivit.models.vit import ViTConfig

EPS, STEPS = 0.1, 20  # of the attack
SCALE = 2.0**10  # by which the loss is multiplied in float16: nothing overflows, and nothing needs to be found out first


@dataclass(frozen=True)
class Task:
    """What a row is about: a training step ("train"), logits ("infer"), an attack ("pgd"), or the time of an import."""

    what: str
    about: str
    config: ViTConfig | None  # of its model
    batch: int
    peers: tuple[str, ...]  # who is asked, if installed


class Problem(NamedTuple):
    """A model with its data: what every candidate of a row is given."""

    what: str
    model: Any
    images: np.ndarray  # (B, H, W, C)
    labels: np.ndarray  # (B,)


class Candidate(NamedTuple):
    """Somebody's way to compute a problem: `step` is timed, `read` is not."""

    step: Callable[[], Any]
    read: Callable[[Any], list[np.ndarray]]  # what step returned -> loss and gradients; logits; or the adversarial images


_DIGITS = ViTConfig(image_size=8, patch_size=2, channels=1, embed_dim=64, depth=4, num_heads=4, num_classes=10)
_MNIST = replace(_DIGITS, image_size=28, patch_size=4)
_TINY, _SMALL, _BASE = (config(f"vit_{size}_patch16_224") for size in ("tiny", "small", "base"))
_TOKENS = ViTConfig(embed_dim=192, depth=2, num_heads=3, num_classes=10)
_LARGE = ("pytorch", "whole", "arrays")
_NUMPY = (*_LARGE, "unfused", "autograd", "mygrad")
_ATTACKS = (*_LARGE, "unfused", "torchattacks", "foolbox")

ROWS: dict[str, Task] = {
    "train-digits": Task("train", "training step, digits-sized: D64 L4 N17, batch 64", _DIGITS, 64, _NUMPY),
    "train-mnist": Task("train", "training step, MNIST-sized: D64 L4 N50, batch 128", _MNIST, 128, _NUMPY),
    "train-vit-ti": Task("train", "training step, ViT-Ti/16, batch 8", _TINY, 8, _NUMPY),
    "train-vit-s": Task("train", "training step, ViT-S/16, batch 8", _SMALL, 8, _LARGE),
    "train-vit-b": Task("train", "training step, ViT-B/16, batch 4", _BASE, 4, _LARGE),
    "infer-vit-b-1": Task("infer", "logits, ViT-B/16, batch 1", _BASE, 1, _LARGE),
    "infer-vit-b-8": Task("infer", "logits, ViT-B/16, batch 8", _BASE, 8, _LARGE),
    "pgd-mnist": Task("pgd", f"PGD-{STEPS}, MNIST-sized, 100 images", _MNIST, 100, _ATTACKS),
    **{  # the class token and (size / 16)² patches
        f"tokens-{(size // 16) ** 2 + 1}": Task("train", f"training step, D192 L2, one image of {size}×{size}",
                                                replace(_TOKENS, image_size=size), 1, _LARGE)
        for size in (112, 224, 448, 896)
    },
    "import": Task("import", "a new interpreter that imports it and no more; floor: NumPy", None, 1,
                   ("pytorch", "autograd", "mygrad")),
}  # fmt: skip

GPU_ROWS: dict[str, Task] = {
    "train-vit-b": Task("train", "training step, ViT-B/16, batch 64", _BASE, 64, ("pytorch",)),
    "train-vit-ti": Task("train", "training step, ViT-Ti/16, batch 256", _TINY, 256, ("pytorch",)),
    "pgd-mnist": Task("pgd", f"PGD-{STEPS}, MNIST-sized, 256 images", _MNIST, 256, ("pytorch",)),
}


def pose(task: Task, gelu: str = "exact") -> Problem:
    """The problem of a task: the same weights, images and labels each time."""
    assert task.config is not None
    c: Any = replace(task.config, gelu=gelu)
    model = mv.models.ViT(c)
    model.train(task.what == "train")
    rng = np.random.default_rng(0)
    images = rng.random((task.batch, *c.image_size, c.channels), dtype=np.float32)
    return Problem(task.what, model, images, rng.integers(0, c.num_classes, task.batch))


def ours(problem: Problem) -> Candidate:
    """minivit, called as its documentation says."""
    what, model, images, labels = problem
    params = list(model.parameters())

    def train() -> Any:
        loss = mv.ops.cross_entropy(model(images), labels)
        return [loss, *mv.grad(loss, params)]

    def infer() -> Any:
        with mv.no_grad():
            return [model(images)]

    def pgd() -> Any:
        result = mv.attacks.pgd(model, images, labels, eps=EPS, steps=STEPS, random_start=False, keep="last")
        return [mv.Tensor(result.x_adv)]

    steps: dict[str, Callable[[], Any]] = {"train": train, "infer": infer, "pgd": pgd}
    return Candidate(steps[what], lambda result: [tensor.numpy() for tensor in result])

"""Robust accuracy against eps: how much of a model's accuracy is left to an adversary of growing reach.

One number at one eps hides more than it says. A sound attack gives a curve that starts at the clean accuracy and falls
to 0 where eps is large enough; one that levels off above 0 speaks of a weak attack, not of a strong model (Athalye,
Carlini and Wagner, "Obfuscated gradients give a false sense of security", ICML 2018).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minivit.arguments import choice, integer
from minivit.attacks import validate
from minivit.attacks.fgsm import fgsm
from minivit.attacks.pgd import pgd
from minivit.attacks.victim import Model, logits_of
from minivit.autograd.tensor import Tensor
from minivit.backend import to_numpy
from minivit.data.dataset import check_classes
from minivit.nn.module import evaluating

ATTACKS: dict[str, Callable[..., Any]] = {"fgsm": fgsm, "pgd": pgd}
_Z = 1.959963984540054  # the normal distribution's 97.5 % point


def names() -> list[str]:
    """The attacks that `robust_accuracy` knows by name."""
    return list(ATTACKS)


@dataclass(frozen=True, eq=False)
class RobustAccuracy:
    """One row per eps, in the order they were asked for.

    Attributes:
        eps: (m,) float64.
        accuracy: (m,) the share of images classified correctly as they are and under every attack up to this eps.
        low, high: (m,) the 95 % interval of Wilson for the accuracy on images like these.
        n: (m,) how many images.
        smallest: (n,) for each image the smallest of the eps at which it was fooled: 0 if it is misclassified as it is,
            infinity if it never was.
        norm, attack: what eps measures, and who attacked.
    """

    eps: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    smallest: np.ndarray
    norm: str
    attack: str

    def __len__(self) -> int:
        return len(self.eps)

    def __repr__(self) -> str:
        lines = [f"robust accuracy, {self.attack}, {self.norm}, {int(self.n[0])} images", "     eps  accuracy  95 % interval"]
        for eps, accuracy, low, high in zip(self.eps, self.accuracy, self.low, self.high):
            lines.append(f"{eps:8.4f}  {100 * accuracy:6.2f} %  {100 * low:.2f} to {100 * high:.2f} %")
        return "\n".join(lines)


def robust_accuracy(
    model: Model,
    dataset: Any,
    attack: str | Callable[..., Any] = "pgd",
    eps: Sequence[float] | float = (0.0, 2 / 255, 4 / 255, 8 / 255),
    norm: str = "linf",
    *,
    bounds: tuple[float, float] = (0, 1),
    seed: int = 0,
    batch_size: int = 256,
    limit: int | None = None,
    **options: Any,
) -> RobustAccuracy:
    """The accuracy that remains under an attack, for each eps.

    An image fooled at some eps is fooled at every larger one, for the smaller ball lies within the larger; so it counts
    from there on, and is not attacked again. The curve therefore never rises, and the images that are misclassified as
    they are count as fooled at eps = 0.

    Args:
        model: a callable from images to logits.
        dataset: a `Dataset`, or a pair (images, labels).
        attack: a name (`names()`), or a function called as attack(model, x, y, eps=..., norm=..., bounds=..., seed=...,
            batch_size=..., index=..., **options) with those of these keywords that it takes, and that a functools.partial
            has not bound; what it returns has `.success`, (n,) bools.
        eps: one or more radii, in any order.
        norm, bounds, seed, batch_size: as in `pgd`. Image i of the data set draws from (seed, i).
        limit: use the first `limit` images only.
        options: for the attack, e.g. steps=100, restarts=5.

    Returns:
        RobustAccuracy; its repr is a table.

    Raises:
        ValueError, TypeError: for a bad argument of this function or of the attack.
    """
    bound = attack.keywords if isinstance(attack, functools.partial) else {}
    named = attack.func if isinstance(attack, functools.partial) else attack
    name = named if isinstance(named, str) else getattr(named, "__name__", type(named).__name__)
    if isinstance(attack, str):
        attack = ATTACKS[choice("attack", attack, names())]
    elif not callable(attack):
        raise TypeError(f"attack: expected a name ({', '.join(names())}) or a function, got {attack!r}")
    if options.get("targets") is not None or bound.get("targets") is not None:
        raise ValueError("targets: robust accuracy is about any wrong answer; for targeted success call the attack itself")
    for theirs in bound.keys() & {"eps", "index"}:
        raise ValueError(f"attack: {theirs} is bound in it; leave it to robust_accuracy, which gives each call its own")
    norm, bounds, batch_size = (bound.get(k, v) for k, v in (("norm", norm), ("bounds", bounds), ("batch_size", batch_size)))
    check_classes("dataset", dataset, model)
    x, y = (dataset.images, dataset.labels) if hasattr(dataset, "images") else dataset
    if limit is not None:
        limit = integer("limit", limit, least=1)
        x, y = x[:limit], y[:limit]
    x = to_numpy(x.data if isinstance(x, Tensor) else x)
    if len(y) == 0:
        raise ValueError("dataset: it has no images")
    radii = np.atleast_1d(np.asarray(eps, np.float64))
    if radii.ndim != 1 or radii.size == 0:
        raise ValueError(f"eps: expected a number or a list of numbers, got {eps!r}")
    for radius in radii:  # all of them before hours are spent on the first
        given = validate.inputs(model, x, y, radius, norm, None, bounds, batch_size)

    shared = {"norm": norm, "bounds": bounds, "seed": seed, "batch_size": batch_size}
    takes = inspect.signature(attack).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())

    smallest = np.full(len(y), np.inf)
    with evaluating(model):
        for rows, images, labels, _ in given.batches():
            wrong = to_numpy(logits_of(model, images).argmax(axis=1) != labels)
            smallest[rows][wrong] = 0.0
    for radius in np.unique(radii[radii > 0]):  # ascending
        standing = np.flatnonzero(np.isinf(smallest))
        if standing.size == 0:
            break
        keywords = {k: v for k, v in {**shared, "index": standing}.items() if (anything or k in takes) and k not in bound}
        result = attack(model, x[standing], given.y[standing], eps=float(radius), **keywords, **options)
        success = to_numpy(result.success)
        if success.dtype != bool or success.shape != standing.shape:  # numbers would be taken for places
            got = f"{success.dtype} of shape {success.shape}"
            raise TypeError(f"attack: expected {len(standing)} bools in the .success of what {name} returns, got {got}")
        smallest[standing[success]] = radius
    accuracy = np.array([(smallest > radius).mean() for radius in radii])
    low, high = wilson(accuracy, len(y))
    return RobustAccuracy(radii, accuracy, low, high, np.full(len(radii), len(y)), smallest, given.norm, name)


def wilson(share: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval (low, high) for a probability of which a share was seen in n trials (E. B. Wilson, "Probable
    inference, the law of succession, and statistical inference", 1927). Unlike share +- 2 sigma it stays within [0, 1],
    and has a width at 0 and 1 too."""
    center = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return np.minimum(np.maximum(center - half, 0.0), share), np.maximum(np.minimum(center + half, 1.0), share)

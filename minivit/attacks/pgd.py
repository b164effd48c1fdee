"""Projected gradient descent, the lecture's iterated attack: many small steps, each led back to what is allowed.

    x(t) = Proj( x(t-1) + alpha * sign(dl/dx) )                   lecture, "PGD Attack"

(Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial attacks", ICLR 2018,
section 2.1; it is ascent, and keeps its name from the minimization of -l.) `step` is the formula, `iterates` the loop,
`pgd` what one calls: it adds random starts, restarts, and keeping the best image seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minivit.arguments import choice, integer, real
from minivit.attacks import norms, validate
from minivit.attacks.loss import input_gradient, objective, success
from minivit.attacks.result import AttackResult, assess
from minivit.attacks.victim import Model, checked_together, logits_of
from minivit.backend import array_module, to_floats, to_numpy
from minivit.backend.random import as_seed
from minivit.nn.module import evaluating


def step(
    model: Model, x_t: Any, x: Any, y: Any, *, eps: float, norm: str, step_size: float, targets: Any = None,
    bounds: tuple[float, float] = (0, 1),
) -> tuple[Any, Any, Any]:
    """One step of PGD, on arrays, unchecked: (x_{t+1}, and the losses (n,) and logits (n, K) at x_t)."""
    loss, logits, g = input_gradient(model, x_t, y, targets)
    ahead = x_t + norms.steepest(g, x_t, step_size, eps, norm, bounds)
    return norms.project(ahead, x, eps, norm, bounds), loss, logits


def iterates(
    model: Model, x: Any, y: Any, start: Any, *, steps: int, targets: Any = None, **options: Any
) -> Iterator[tuple[Any, Any, Any]]:
    """x(0), ..., x(steps), each with its losses (n,) and logits (n, K); options as in `step`."""
    x_t = start
    for _ in range(steps):
        x_next, loss, logits = step(model, x_t, x, y, targets=targets, **options)
        yield x_t, loss, logits
        x_t = x_next
    logits = logits_of(model, x_t)
    yield x_t, objective(logits, y, targets)[0], logits


def pgd(
    model: Model,
    x: Any,
    y: Any,
    eps: float = 8 / 255,
    norm: str = "linf",
    steps: int = 20,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    targets: Any = None,
    bounds: tuple[float, float] = (0, 1),
    keep: str = "best",
    seed: int | np.random.Generator = 0,
    index: Any = None,
    batch_size: int = 256,
    progress: bool = False,
) -> AttackResult:
    """Steps of steepest ascent on the loss, projected on the ball of radius eps around x and on the bounds.

    Args:
        model: a callable from images (n, ...) to logits (n, classes) in minivit operations; it is left as it was.
        x: (n, ...) images, float32 or float64, within the bounds; an array on the CPU or a GPU.
        y: (n,) integer labels.
        eps: how far an image may be moved, in `norm`, on the scale of the pixels: 8/255 means what it says.
        norm: "linf", "l2" or "l1"; what a step is in each: `norms.steepest`.
        steps: how many, at least 1.
        step_size: alpha, in `norm`; None is 2.5 eps / steps, so that the far side of the ball can be reached from any
            start (Madry et al. 2018, appendix).
        random_start: begin at a random point of the ball; False begins at x.
        restarts: how many times to begin; without a random start every time would be the first.
        targets: (n,) classes to be classified as; the steps then descend the cross-entropy of the targets.
        bounds: the least and the largest value of a pixel.
        keep: "best": of x, the starts and all iterates, for each image one that succeeds if there is any, and among
            those the one of highest loss. "last": only the last iterates (of several restarts, the best last one).
        seed, index: image i draws its random starts from (seed, index[i]), by default its position; so it meets the
            same attack in any order, batch size or company.
        batch_size: how many images go through the model at a time.
        progress: whether to show a progress bar.

    Returns:
        AttackResult.

    Raises:
        ValueError, TypeError: for a bad argument (`validate.py`), or a model whose logits give no gradient.
    """
    given = validate.inputs(model, x, y, eps, norm, targets, bounds, batch_size)
    steps = integer("steps", steps, least=1)
    restarts = integer("restarts", restarts, least=1) if random_start else 1
    step_size = 2.5 * given.eps / steps if step_size is None else real("step_size", step_size)
    if step_size < 0:
        raise ValueError(f"step_size: expected a length >= 0, got {step_size}; targets are approached with targets=...")
    keep = choice("keep", keep, ("best", "last"))
    index = validate.indices(index, len(given.y))
    seed = as_seed(seed)

    x_adv = np.empty(given.x.shape, given.x.dtype)
    prediction = np.empty(len(x_adv), np.int64)
    history = np.zeros((restarts, steps + 1))
    work = -(-len(x_adv) // given.batch_size) * restarts * (steps + 1)
    with evaluating(model), _progress(f"PGD-{steps}", work, progress) as advance:
        for rows, images, labels, aims in given.batches():
            xp = array_module(images)
            clean: Any = logits_of(model, images) if random_start else None  # else the walk begins there

            # nothing is read before the walks are over: a GPU is not waited for in between
            totals, best = [], images
            best_success, best_loss = xp.zeros(len(images), bool), xp.full(len(images), -xp.inf, "float64")
            if clean is not None and keep == "best":  # x is a candidate
                best_success, best_loss = success(clean, labels, aims), objective(clean, labels, aims)[0]
            with checked_together():
                for r in range(restarts):
                    start = images
                    if random_start:
                        start = norms.random_start(images, given.eps, given.norm, seed, r, index[rows])
                        start = norms.project(start, images, given.eps, given.norm, given.bounds)
                    walk = iterates(
                        model, images, labels, start, steps=steps, targets=aims,
                        eps=given.eps, norm=given.norm, step_size=step_size, bounds=given.bounds,
                    )
                    for t, (x_t, loss, logits) in enumerate(walk):
                        clean = logits if clean is None else clean
                        totals.append(loss.sum())
                        advance()
                        if keep == "last" and t < steps:
                            continue
                        fooled = success(logits, labels, aims)
                        better = (fooled & ~best_success) | ((fooled == best_success) & (loss > best_loss))
                        best = xp.where(better.reshape((-1,) + (1,) * (images.ndim - 1)), x_t, best)
                        best_success, best_loss = best_success | fooled, xp.where(better, loss, best_loss)
            history += np.reshape(to_floats(*totals), history.shape)
            x_adv[rows] = to_numpy(best)
            prediction[rows] = to_numpy(clean.argmax(axis=1))
            if rows.start == 0:
                validate.warn_of_probabilities(to_numpy(clean))
        return assess(given, x_adv, prediction, f"PGD-{steps}", history / max(len(x_adv), 1))


@contextmanager
def _progress(what: str, work: int, show: bool) -> Iterator[Callable[[], Any]]:
    """A function to call after each piece of work; tqdm is imported only if the bar is to be seen."""
    if not show:
        yield lambda: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=work, desc=what, leave=False) as bar:
        yield bar.update

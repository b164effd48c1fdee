"""Solutions of "pgd" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e15_pgd import project
from minivit.exercises.e15_pgd import step as right_step
from tests.exercises.mistakes import right, wrong


def lengths(g):
    return np.linalg.norm(g.reshape(len(g), -1), axis=1)[:, None, None]


@wrong("missing_normalization", "forgets to divide by the length of the gradient for l_2")
def step(g, alpha, norm):
    return alpha * np.sign(g) if norm == "linf" else alpha * g


@wrong("wrong_norm", "takes the sign for every norm")
def step(g, alpha, norm):
    return alpha * np.sign(g)


@wrong("norm_of_whole_batch", "divides by the length of the gradients of all images together")
def step(g, alpha, norm):
    return alpha * np.sign(g) if norm == "linf" else alpha * g / np.linalg.norm(g)


@wrong("norm_over_one_axis", "divides by the lengths of the rows")
def step(g, alpha, norm):
    return alpha * np.sign(g) if norm == "linf" else alpha * g / np.linalg.norm(g, axis=-1, keepdims=True)


@wrong("largest_entry", "takes the gradient over its largest entry for the sign")
def step(g, alpha, norm):
    if norm == "linf":
        return alpha * g / np.abs(g).max(axis=(1, 2), keepdims=True)
    return right_step(g, alpha, norm)


@wrong("not_finite", "divides 0 by 0 where the gradient is 0")
def step(g, alpha, norm):
    with np.errstate(invalid="ignore"):
        return alpha * np.sign(g) if norm == "linf" else alpha * g / lengths(g)


@wrong("tiny_gradient_lost", "adds so much to the divisor that small gradients are lost")
def step(g, alpha, norm):
    return alpha * np.sign(g) if norm == "linf" else alpha * g / (lengths(g) + 1e-8)


@wrong("one_sided", "draws from [0, eps)")
def random_start(x, eps, rng):
    return np.clip(x + eps * rng.random(x.shape), 0, 1)


@wrong("shared_noise", "draws one number for each image")
def random_start(x, eps, rng):
    return np.clip(x + rng.uniform(-eps, eps, size=(len(x), 1, 1)), 0, 1)


@wrong("outside_ball", "draws normal numbers, which know no bounds")
def random_start(x, eps, rng):
    return np.clip(x + eps * rng.normal(size=x.shape), 0, 1)


@wrong("not_uniform", "draws normal numbers and clips them to the ball, where they heap up")
def random_start(x, eps, rng):
    return np.clip(x + np.clip(eps * rng.normal(size=x.shape), -eps, eps), 0, 1)


@wrong("rng_ignored", "makes a generator of its own")
def random_start(x, eps, rng):
    return np.clip(x + np.random.default_rng(0).uniform(-eps, eps, x.shape), 0, 1)


@wrong("outside_box", "begins with pixels darker than black")
def random_start(x, eps, rng):
    return x + rng.uniform(-eps, eps, x.shape)


@wrong("wrong_sign", "descends, as the name says")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = project(x_adv - right_step(loss_gradient(x_adv, y), alpha, norm), x, eps, norm)
    return x_adv


@wrong("ball_around_the_last_iterate", "projects on the ball around the last iterate")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = project(x_adv + right_step(loss_gradient(x_adv, y), alpha, norm), x_adv, eps, norm)
    return x_adv


@wrong("ball_around_the_start", "projects on the ball around the start")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = project(x_adv + right_step(loss_gradient(x_adv, y), alpha, norm), start, eps, norm)
    return x_adv


@wrong("projected_only_at_the_end", "makes all steps and projects once")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv + right_step(loss_gradient(x_adv, y), alpha, norm)
    return project(x_adv, x, eps, norm)


@wrong("outside_ball", "clips to the box, and forgets the ball")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = np.clip(x_adv + right_step(loss_gradient(x_adv, y), alpha, norm), 0, 1)
    return x_adv


@wrong("gradient_not_renewed", "takes the gradient at the clean image in every step")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = project(x_adv + right_step(loss_gradient(x, y), alpha, norm), x, eps, norm)
    return x_adv


@wrong("start_ignored", "begins at the clean image")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = x.copy()
    for _ in range(steps):
        x_adv = project(x_adv + right_step(loss_gradient(x_adv, y), alpha, norm), x, eps, norm)
    return x_adv


@wrong("step_from_the_clean_image", "adds every step to the clean image")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = project(x + right_step(loss_gradient(x_adv, y), alpha, norm), x, eps, norm)
    return x_adv


@wrong("eps_for_alpha", "makes steps of the size eps")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = project(x_adv + right_step(loss_gradient(x_adv, y), eps, norm), x, eps, norm)
    return x_adv


@wrong("step_count", "makes one step less, counting the start as the first")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(1, steps):
        x_adv = project(x_adv + right_step(loss_gradient(x_adv, y), alpha, norm), x, eps, norm)
    return x_adv


@wrong("mutated_input", "walks on the array that start is")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv += right_step(loss_gradient(x_adv, y), alpha, norm)
        x_adv[...] = project(x_adv, x, eps, norm)
    return x_adv


@wrong("perturbation_returned", "returns the perturbation without the image")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    x_adv = start
    for _ in range(steps):
        x_adv = project(x_adv + right_step(loss_gradient(x_adv, y), alpha, norm), x, eps, norm)
    return x_adv - x


@right("divides by the largest entry first, and guards the length by 1e-12")
def step(g, alpha, norm):
    if norm == "linf":
        return alpha * np.where(g > 0, 1.0, np.where(g < 0, -1.0, 0.0))
    return alpha * g / np.maximum(lengths(g), 1e-12)


@right("image by image, with an if")
def step(g, alpha, norm):
    if norm == "linf":
        return np.sign(g) * alpha
    result = np.zeros_like(g)
    for i in range(len(g)):
        length = np.linalg.norm(g[i])
        if length:
            result[i] = g[i] / length * alpha
    return result


@right("from numbers between 0 and 1")
def random_start(x, eps, rng):
    return np.minimum(np.maximum(x + eps * (2 * rng.random(x.shape) - 1), 0), 1)


@right("within the part of the ball that is in the box")
def random_start(x, eps, rng):
    return rng.uniform(np.maximum(x - eps, 0), np.minimum(x + eps, 1))


@right("by the perturbation, with a while loop")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    delta = start - x
    while steps > 0:
        g = loss_gradient(x + delta, y)
        delta = project(x + delta + right_step(g, alpha, norm), x, eps, norm) - x
        steps -= 1
    return x + delta


@right("image by image, on a copy, with a gradient too many")
def pgd(loss_gradient, x, y, start, eps, alpha, steps, norm):
    result = start.copy()
    for i in range(len(x)):
        one = slice(i, i + 1)
        g = loss_gradient(result[one], y[one])
        for _ in range(steps):
            result[one] = project(result[one] + right_step(g, alpha, norm), x[one], eps, norm)
            g = loss_gradient(result[one], y[one])
    return result

"""Solutions of "projection" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e14_projection import project_l2 as right_l2
from minivit.exercises.e14_projection import project_linf as right_linf
from tests.exercises.mistakes import right, wrong


def lengths(v):
    return np.linalg.norm(v.reshape(len(v), -1), axis=1)[:, None, None]


@wrong("ball_around_zero", "clips the image to [-eps, eps], and not its distance from x")
def project_linf(z, x, eps):
    return np.clip(z, -eps, eps)


@wrong("perturbation_returned", "returns the clipped perturbation without the image")
def project_linf(z, x, eps):
    return np.clip(z - x, -eps, eps)


@wrong("always_to_the_boundary", "takes every pixel to the boundary, also from inside")
def project_linf(z, x, eps):
    return x + eps * np.sign(z - x)


@wrong("rescaled_not_clipped", "scales the whole change down to the largest pixel")
def project_linf(z, x, eps):
    v = z - x
    return x + v * np.minimum(1, eps / np.maximum(np.abs(v).max(axis=(1, 2), keepdims=True), 1e-12))


@wrong("one_sided", "limits the pixels above, but not below")
def project_linf(z, x, eps):
    return np.minimum(z, x + eps)


@wrong("center_ignored", "clips to [0, 1] and takes that for the ball")
def project_linf(z, x, eps):
    return np.clip(z, 0, 1)


@wrong("mutated_input", "moves the pixels that are too far in place")
def project_linf(z, x, eps):
    z[z > x + eps] = (x + eps)[z > x + eps]
    z[z < x - eps] = (x - eps)[z < x - eps]
    return z


@wrong("always_to_the_boundary", "scales every change to the length eps, also those from inside")
def project_l2(z, x, eps):
    v = z - x
    return x + eps * v / (lengths(v) + 1e-12)


@wrong("norm_of_whole_batch", "takes one length for the whole batch")
def project_l2(z, x, eps):
    v = z - x
    return x + v * min(1, eps / np.linalg.norm(v))


@wrong("norm_over_one_axis", "takes the length of each row of an image")
def project_l2(z, x, eps):
    v = z - x
    return x + v * np.minimum(1, eps / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12))


@wrong("squared_length", "forgets the root")
def project_l2(z, x, eps):
    v = z - x
    return x + v * np.minimum(1, eps / np.maximum((v**2).sum(axis=(1, 2), keepdims=True), 1e-12))


@wrong("mean_vs_sum", "takes the root of the mean square for the length")
def project_l2(z, x, eps):
    v = z - x
    return x + v * np.minimum(1, eps / np.maximum(np.sqrt((v**2).mean(axis=(1, 2), keepdims=True)), 1e-12))


@wrong("ball_around_zero", "shortens the image, and not its distance from x")
def project_l2(z, x, eps):
    return z * np.minimum(1, eps / lengths(z))


@wrong("unit_ball", "projects on the ball of radius 1")
def project_l2(z, x, eps):
    v = z - x
    return x + v / np.maximum(lengths(v), 1)


@wrong("unit_ball", "projects on the ball of radius 1 and multiplies by eps then")
def project_l2(z, x, eps):
    v = z - x
    return x + eps * v / np.maximum(lengths(v), 1)


@wrong("wrong_norm", "clips every pixel, as for the l_inf ball")
def project_l2(z, x, eps):
    return x + np.clip(z - x, -eps, eps)


@wrong("not_finite", "divides by the length 0 where z is x")
def project_l2(z, x, eps):
    v = z - x
    length = lengths(v)
    with np.errstate(invalid="ignore"):
        return x + v / length * np.minimum(length, eps)


@wrong("perturbation_returned", "returns the shortened perturbation without the image")
def project_l2(z, x, eps):
    return right_l2(z, x, eps) - x


@wrong("outside_box", "leaves the box out")
def project(z, x, eps, norm):
    return right_linf(z, x, eps) if norm == "linf" else right_l2(z, x, eps)


@wrong("clipped_perturbation", "clips the perturbation to [0, 1] in the place of the image")
def project(z, x, eps, norm):
    ball = right_linf if norm == "linf" else right_l2
    return x + np.clip(ball(z, x, eps) - x, 0, 1)


@wrong("wrong_norm", "takes the l_inf ball whatever the norm")
def project(z, x, eps, norm):
    return np.clip(right_linf(z, x, eps), 0, 1)


@wrong("ball_skipped", "projects into the ball, then clips z again from where it was")
def project(z, x, eps, norm):
    right_l2(z, x, eps)
    return np.clip(z, 0, 1)


@right("with minimum and maximum")
def project_linf(z, x, eps):
    return np.minimum(np.maximum(z, x - eps), x + eps)


@right("by the perturbation")
def project_linf(z, x, eps):
    return x + (z - x).clip(-eps, eps)


@right("image by image, with an if")
def project_l2(z, x, eps):
    result = z.copy()
    for i in range(len(z)):
        length = np.linalg.norm(z[i] - x[i])
        if length > eps:
            result[i] = x[i] + (z[i] - x[i]) / length * eps
    return result


@right("with where, and a small number in the divisor")
def project_l2(z, x, eps):
    v = z - x
    length = lengths(v)
    return np.where(length > eps, x + eps * v / (length + 1e-8), z)


@right("flattened, with einsum")
def project_l2(z, x, eps):
    v = (z - x).reshape(len(z), -1)
    factor = np.minimum(1, eps / np.sqrt(np.einsum("nd,nd->n", v, v) + 1e-24))
    return x + (factor[:, None] * v).reshape(x.shape)


@right("the box first")
def project(z, x, eps, norm):
    return (right_linf if norm == "linf" else right_l2)(np.clip(z, 0, 1), x, eps)


@right("the nearest point of ball and box together")
def project(z, x, eps, norm):
    from minivit.attacks import project as nearest

    return nearest(z, x, eps, norm)

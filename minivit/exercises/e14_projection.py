"""Projection: back into the ball, and back into the box

Where we are: the lecture, "PGD Attack". After each step the image is projected back onto the ball of radius eps centered
at the clean image x, by a function Proj(.) which the lecture does not write out. Here it is:

    Proj(z) = the point of the ball that is nearest to z, in Euclidean distance.

The ball depends on how a change is measured. For each image by itself,

    l_inf ball:  all x' with |x'_i - x_i| <= eps for every pixel i               (the lecture's)
    l_2 ball:    all x' with sqrt(sum over its pixels of (x'_i - x_i)^2) <= eps

x and z are batches of images (n, height, width); the pixels of x are in [0, 1], those of z are anywhere.

1. `project_linf(z, x, eps)`: the nearest point of the l_inf ball. Its condition is about each pixel alone, so you may
   think of an image of one pixel.

2. `project_l2(z, x, eps)`: the nearest point of the l_2 ball. The ball is round: on which line do x, z and the nearest
   point lie? z may be equal to x.

3. `project(z, x, eps, norm)` with norm "linf" or "l2": first into the ball, then into the box, so that every pixel is in
   [0, 1]. The second move does not lead out of the ball again, since x is in the box. Why?

Do not change z or x in place. (For l_2 the third function gives an allowed point near z, but not always the nearest of
all points in ball and box. That one is `minivit.attacks.project`.)

A thought to test: an image of two pixels, x = (0, 0), z = (3, 4), eps = 1. Draw both balls, and find both nearest points
with a ruler. Then z = (0.1, 0.2).
"""

import numpy as np

from minivit.exercises.checks import Finding, Property, Values
from minivit.exercises.values import explain_values


def project_linf(z: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    """The nearest point to z of the l_inf ball of radius eps around x, for each image; (n, height, width)."""
    ### BEGIN SOLUTION
    return np.clip(z, x - eps, x + eps)
    ### END SOLUTION


def project_l2(z: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    """The nearest point to z of the l_2 ball of radius eps around x, for each image; (n, height, width)."""
    ### BEGIN SOLUTION
    v = z - x
    length = np.sqrt((v**2).sum(axis=(1, 2), keepdims=True))  # (n, 1, 1)
    return x + v * (eps / np.maximum(length, eps))
    ### END SOLUTION


def project(z: np.ndarray, x: np.ndarray, eps: float, norm: str) -> np.ndarray:
    """An allowed point near z: within eps of x in the norm "linf" or "l2", with every pixel in [0, 1]."""
    ### BEGIN SOLUTION
    ball = project_linf if norm == "linf" else project_l2
    return np.clip(ball(z, x, eps), 0.0, 1.0)
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """The constraint of an attack as a set, and the projection as the nearest point of it: per image, around the clean
image, and doing nothing to what is inside. That l_inf and l_2 ask for different things: clipping and shrinking."""

EPS = 0.4


def points(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(z, x): of five images two are far from x, one is x itself, one is a little off, one in some pixels only."""
    x = rng.uniform(0.2, 0.8, size=(5, 3, 4))
    v = rng.choice([-1.0, 1.0], size=x.shape) * rng.uniform(0.5, 1.5, size=x.shape)  # every pixel farther than EPS
    v *= np.array([2.0, 1.0, 0.0, 0.05, 1.0])[:, None, None]
    v[4, 1:] *= 0.01
    return x + v, x


def lengths(v: np.ndarray, axis: int | tuple[int, ...] | None = (1, 2)) -> np.ndarray:
    return np.sqrt((v**2).sum(axis=axis, keepdims=True))


def shrunk(v: np.ndarray, length: np.ndarray, eps: float = EPS) -> np.ndarray:
    """v, divided so that what is called its length is at most eps."""
    return v * (eps / np.maximum(length, eps))


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-6)  # 1e-6: whoever divides by length + 1e-8 is right


def in_the_ball(function, rng, norm):
    """What is the matter with project_linf or project_l2."""
    z, x = points(rng)
    v = z - x
    per_image, largest = lengths(v), np.abs(v).max(axis=(1, 2), keepdims=True)
    linf, l2 = np.clip(v, -EPS, EPS), shrunk(v, per_image)
    right, other = (linf, l2) if norm == "linf" else (l2, linf)
    came = function(z.copy(), x.copy(), EPS)
    if not isinstance(came, np.ndarray) or (came.shape, came.dtype) != (x.shape, x.dtype):
        return explain_values(came, x + right, inputs=[x])
    if near(came, x + right):
        return []
    surface = EPS * (np.sign(v) if norm == "linf" else v / np.maximum(per_image, 1e-300))
    guesses = [
        ("perturbation_returned", right - x, "the result is the projected change z - x, not the image"),
        ("wrong_norm", other, "this is the projection on the other of the two balls"),
        ("always_to_the_boundary", surface, "every image is taken to the boundary of the ball, also from inside"),
        ("ball_around_zero", (np.clip(z, -EPS, EPS) if norm == "linf" else shrunk(z, lengths(z))) - x,
         "this is the projection on the ball around 0; the ball's center is x"),
        ("center_ignored", np.clip(z, 0, 1) - x, "this is z clipped to [0, 1]; the ball is somewhere else"),
    ]  # fmt: skip
    if norm == "linf":
        guesses += [
            ("one_sided", np.minimum(v, EPS), "pixels are held back upwards, but go down as far as they like"),
            ("one_sided", np.maximum(v, -EPS), "pixels are held back downwards, but go up as far as they like"),
            ("rescaled_not_clipped", shrunk(v, largest), "the whole change is scaled down: in the ball, but not nearest"),
            ("rescaled_not_clipped", shrunk(v, np.abs(v).max()), "the changes of all images are scaled down together: "
             "in the ball, but not nearest"),
        ]  # fmt: skip
    else:
        guesses += [
            ("norm_of_whole_batch", shrunk(v, lengths(v, None)), "the length is taken over the whole batch"),
            ("norm_over_one_axis", shrunk(v, lengths(v, 2)), "the length is taken of every row of an image by itself"),
            ("norm_over_one_axis", shrunk(v, lengths(v, 1)), "the length is taken of every column of an image by itself"),
            ("norm_over_one_axis", shrunk(v, lengths(v, 0)), "the length is taken over the images, for every pixel"),
            ("squared_length", v * np.minimum(1, EPS / np.maximum(per_image**2, 1e-300)), "the change is divided by the "
             "square of its length"),
            ("mean_vs_sum", shrunk(v, per_image / np.sqrt(12)), "the length has the mean of the squares in it, not the sum"),
            ("unit_ball", shrunk(v, per_image, 1.0), "this is the projection on the ball of radius 1"),
            ("unit_ball", EPS * shrunk(v, per_image, 1.0), "what is within 1 of x is taken for inside; the radius is eps"),
        ]  # fmt: skip
    moved = [0, 1, 3, 4]  # image 2 is x itself: there a length is 0
    for code, guess, what in guesses:
        if near(came[moved], (x + guess)[moved]):
            return [Finding(code, what, {})]
    if not np.isfinite(came).all():
        where = [i for i in range(len(x)) if not np.isfinite(came[i]).all()]
        at_x = "; there z is equal to x" if where == [2] else ""
        return [Finding("not_finite", f"the result has NaN or infinity in image {', '.join(map(str, where))}{at_x}",
                        {"images": where})]  # fmt: skip
    if near(came[[2, 3]], z[[2, 3]]):
        return _out_of_ball(came, x, norm) or explain_values(came, x + right, inputs=[x], rtol=1e-6)
    return [Finding("inside_point_moved", "an image that is in the ball already is moved, by up to "
                    f"{np.abs(came - z)[[2, 3]].max():.3g}", {}), *_out_of_ball(came, x, norm)]  # fmt: skip


def _out_of_ball(came, x, norm):
    distance = np.abs(came - x).max(axis=(1, 2)) if norm == "linf" else lengths(came - x).ravel()
    i = int(distance.argmax())
    if distance[i] <= EPS + 1e-6:
        return []
    return [Finding("outside_ball", f"image {i} is {distance[i]:.4g} from x, and eps is {EPS}", {"image": i})]


def in_ball_and_box(function, rng):
    """What is the matter with `project`: what is in the ball, in the box, and as near to z as one after the other."""
    for norm, ball, other in (("linf", project_linf, project_l2), ("l2", project_l2, project_linf)):
        z, x = points(rng)
        x[:, 0, :2] = 0.03, 0.97
        z[:, 0, :2] = -0.2, 1.1
        came = function(z.copy(), x.copy(), EPS, norm)
        expected = np.clip(ball(z, x, EPS), 0, 1)
        if not isinstance(came, np.ndarray) or (came.shape, came.dtype) != (x.shape, x.dtype):
            return explain_values(came, expected, inputs=[x])
        boxed = came.min() >= -1e-9 and came.max() <= 1 + 1e-9
        out = _out_of_ball(came, x, norm)
        swapped = ball(np.clip(z, 0, 1), x, EPS)  # the other order is allowed too, and so is what is nearer
        if boxed and not out and np.all(lengths(came - z) <= np.maximum(lengths(expected - z), lengths(swapped - z)) + 1e-6):
            continue
        for code, guess, what in (
            ("wrong_norm", np.clip(other(z, x, EPS), 0, 1), f'norm is "{norm}", and this is the ball of the other norm'),
            ("clipped_perturbation", x + np.clip(ball(z, x, EPS) - x, 0, 1), "the change is clipped to [0, 1], not the image"),
            ("ball_skipped", np.clip(z, 0, 1), "the box is respected, the ball is not"),
            ("wrong_box", np.clip(ball(z, x, EPS), x.min(), x.max()), "pixels stop at the least and the largest value of "
             "this batch; black is 0 and white is 1"),
        ):  # fmt: skip
            if near(came, guess):
                return [Finding(code, what, {"norm": norm})]
        if not boxed:
            return [Finding("outside_box", f"{np.sum((came < 0) | (came > 1))} of {came.size} pixels are outside [0, 1], from "
                            f"{came.min():.3g} to {came.max():.3g}", {"norm": norm}), *out]  # fmt: skip
        return out or explain_values(came, expected, inputs=[x], rtol=1e-6)
    return []


def with_eps(rng: np.random.Generator) -> list:
    return [*points(rng), EPS]


CHECKS = (
    Property(function="project_linf", title="project_linf gives the nearest point of the l_inf ball",
             test=lambda f, rng: in_the_ball(f, rng, "linf")),
    Values(function="project_linf", title="project_linf leaves z and x alone", expected=project_linf, inputs=with_eps),
    Property(function="project_l2", title="project_l2 gives the nearest point of the l_2 ball",
             test=lambda f, rng: in_the_ball(f, rng, "l2")),
    Values(function="project_l2", title="project_l2 leaves z and x alone", expected=project_l2, inputs=with_eps, rtol=1e-6),
    Property(function="project", title="project ends in the ball and in the box", test=in_ball_and_box),
    Values(function="project", title="project leaves alone what is allowed", expected=lambda z, x, eps, norm: z.copy(),
           inputs=lambda rng: [rng.uniform(0.45, 0.55, size=(5, 3, 4)), np.full((5, 3, 4), 0.5), EPS, "l2"]),
)  # fmt: skip

HINTS = {
    "always_to_the_boundary": (
        "What should happen to a z that is in the ball already?",
        "The nearest point of the ball to a point of the ball is that point. Your formula is right for z outside only.",
    ),
    "inside_point_moved": (
        "What should happen to a z that is in the ball already?",
        "Projecting twice must be the same as projecting once. Try z = x, and a z very near to x.",
    ),
    "ball_around_zero": (
        "Where is the center of the ball?",
        "You limit z itself. What is limited is how far it is from something.",
    ),
    "center_ignored": (
        "Your result does not depend on x. Should it?",
        "[0, 1] is the box, which comes later. The ball is made by x and eps.",
    ),
    "perturbation_returned": (
        "Is the result an image, or a change of an image?",
        "You have projected the change correctly, and stopped there. The ball's center is not 0.",
    ),
    "one_sided": (
        "A pixel may be brighter or darker than that of x. Which of the two have you limited?",
        "There are two limits for each pixel, one above that of x and one below.",
    ),
    "rescaled_not_clipped": (
        "One pixel is far out, all the others are within eps. Which of them have to move?",
        "A pixel within eps of x fulfils its condition, whatever the others do. Look for the nearest point pixel by pixel.",
    ),
    "norm_of_whole_batch": (
        "How does the result for one image depend on the other images of the batch?",
        "np.linalg.norm and sum without an axis run over everything. You need n lengths, one per image.",
    ),
    "norm_over_one_axis": (
        "How many lengths do you compute? How many images are there?",
        "The length of an image is over all of its pixels, so over every axis but the first. Print the shape of your lengths.",
    ),
    "squared_length": (
        "Take x = 0, z = (3, 4), eps = 1 by hand: how long is z, and how long your result?",
        "A sum of squares is not a length yet.",
    ),
    "mean_vs_sum": (
        "Take x = 0 and z = (3, 4): what is the distance of z from x by your code?",
        "Look at the definition of the l_2 ball: are the squares added or averaged?",
    ),
    "unit_ball": (
        "Try eps = 0.1 and eps = 10 with the same z. What changes in your result?",
        "When is a point outside? Look at what you compare its length with, and at the length that comes out.",
    ),
    "project:wrong_norm": (
        "Which of your two functions is called for which norm?",
        "Print `norm` and the name of the ball that is taken.",
    ),
    "wrong_norm": (
        "Two functions, two balls: which one have you written here?",
        "Clipping makes a cube, shrinking makes a sphere. Draw both in two dimensions.",
    ),
    "not_finite": (
        "Which image of the batch is it, and how far is z from x there?",
        "A division by a length needs an answer for the length 0. What is the projection of x itself?",
    ),
    "outside_ball": (
        "Compute the distance of your result from x, for each image.",
        "Take the image that the report names and follow it: its distance before, the limit, its distance after.",
    ),
    "outside_box": (
        "Being near to x does not keep a pixel in [0, 1]. Why not?",
        "The second of the two moves is missing, or comes too early, or is done to something else than the image.",
    ),
    "clipped_perturbation": (
        "What has to lie in [0, 1], the change or the image?",
        "A change may well be negative. See what your clip is applied to.",
    ),
    "ball_skipped": (
        "Two sets are to be respected. Which have you left out?",
        "Is the result of your first move used in the second?",
    ),
    "wrong_box": (
        "Must the darkest pixel of this batch be the darkest that there can be?",
        "The limits of the box belong to the scale of the pixels, not to the images of the batch.",
    ),
    "wrong_shape": (
        "The projection of a batch of images is a batch of images: which shape does it have?",
        "If a length per image meets a batch, the two must fit by broadcasting: think of `keepdims`.",
    ),
    "mutated_input": (
        "Writing with `[...] =`, `*=` or `out=` changes an array that belongs to the caller.",
        "In an attack z is a new point, but x is the clean image and needed until the end. Make new arrays.",
    ),
    "": (
        "Take x = (0, 0), z = (3, 4), eps = 1 as an image of two pixels: what should come, and what comes?",
        "Check three things one after the other: what is inside stays; what is outside ends at distance eps; every image "
        "is treated as if it were alone.",
    ),
}

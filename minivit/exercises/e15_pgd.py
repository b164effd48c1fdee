"""PGD: many small steps, each led back

Where we are: the lecture, "PGD Attack". FGSM trusts the gradient at x for the whole way. PGD makes smaller steps, asks for
the gradient again after each, and projects back whenever it has gone too far:

    x_adv(t) = Proj( x_adv(t-1) + alpha * sign(dl/dx) )        dl/dx taken at x_adv(t-1)

Proj leads into the ball of radius eps around the clean image x, and into the box [0, 1]. It is given: `project`. The sign
is the step for the l_inf norm. If changes are measured in the l_2 norm, the step of length alpha that raises the loss
most is alpha * g / ||g||, with g an image's gradient and ||g|| the Euclidean length over its pixels.

All arrays are batches (n, height, width), and each image is attacked as if it were alone. `loss_gradient(x, y)` is a
function that gives dl/dx; `small_network(w, v)` makes one to try.

1. `step(g, alpha, norm)`: what is added to the images, for norm "linf" or "l2". How long g is must not matter: a model
   that is sure of itself has gradients of length 1e-9, which point the way just as well. Only an image with g = 0
   everywhere stays where it is.

2. `random_start(x, eps, rng)`: where to begin (here for l_inf): every pixel by a number of its own between -eps and eps
   away from x, all equally likely, and then within [0, 1]. `rng` is a np.random.Generator; use no other.

3. `pgd(loss_gradient, x, y, start, eps, alpha, steps, norm)`: begins at `start`, makes `steps` steps, returns the last
   x_adv.

Do not change x or start in place: x is the center of the ball until the end.

A thought to test: which eps, alpha, steps and start make FGSM of PGD? And if the gradient were the same everywhere, where
would PGD end after very many steps?
"""

from collections.abc import Callable

import numpy as np

from minivit.exercises.checks import Finding, Property, Values
from minivit.exercises.values import explain_values

LossGradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


def small_network(w: np.ndarray, v: np.ndarray) -> LossGradient:
    """The gradient function of the classifier softmax(tanh(x w) v), with x as rows of d pixels, w (d, h) and v (h, K)."""

    def loss_gradient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        hidden = np.tanh(x.reshape(len(x), -1) @ w)  # (n, h)
        logits = hidden @ v  # (n, K)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(x)), y] -= 1.0  # dl/dlogits = p - onehot(y)
        return (((p @ v.T) * (1.0 - hidden**2)) @ w.T).reshape(x.shape)

    return loss_gradient


def project(z: np.ndarray, x: np.ndarray, eps: float, norm: str) -> np.ndarray:
    """Near z: within eps of x in the norm "linf" or "l2", and with every pixel in [0, 1] (exercise "projection")."""
    if norm == "linf":
        ball = np.clip(z, x - eps, x + eps)
    else:
        length = np.sqrt(((z - x) ** 2).sum(axis=(1, 2), keepdims=True))  # (n, 1, 1)
        ball = x + (z - x) * (eps / np.maximum(length, eps))
    return np.clip(ball, 0.0, 1.0)


def step(g: np.ndarray, alpha: float, norm: str) -> np.ndarray:
    """What is added to images whose loss has the gradient g (n, height, width): a step of size alpha, in the norm."""
    ### BEGIN SOLUTION
    if norm == "linf":
        return alpha * np.sign(g)
    length = np.sqrt((g**2).sum(axis=(1, 2), keepdims=True))  # (n, 1, 1)
    return alpha * g / np.where(length > 0, length, 1.0)
    ### END SOLUTION


def random_start(x: np.ndarray, eps: float, rng: np.random.Generator) -> np.ndarray:
    """Uniform in the l_inf ball of radius eps around x, then within [0, 1]; (n, height, width)."""
    ### BEGIN SOLUTION
    return np.clip(x + rng.uniform(-eps, eps, size=x.shape), 0.0, 1.0)
    ### END SOLUTION


def pgd(
    loss_gradient: LossGradient, x: np.ndarray, y: np.ndarray, start: np.ndarray,
    eps: float, alpha: float, steps: int, norm: str,
) -> np.ndarray:
    """x_adv (n, height, width) after `steps` steps of size alpha from `start`, within eps of x and within [0, 1]."""
    ### BEGIN SOLUTION
    x_adv = start
    for _ in range(steps):
        x_adv = project(x_adv + step(loss_gradient(x_adv, y), alpha, norm), x, eps, norm)
    return x_adv
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """The lecture's iterated attack, term by term: where the gradient is taken, which way and how far the step goes, and
around what one projects. A norm decides what a step is; a start is random in every pixel."""

SHAPE = (4, 3, 5)
EPS = 0.1


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-7)  # whoever divides by length + 1e-8 is right


def steepest(function, rng, norm):
    """What is the matter with `step`, on gradients of ordinary length; those of one image are ten times the others'."""
    g, alpha = rng.normal(size=SHAPE), 0.3
    g[0] *= 10
    came, expected = function(g.copy(), alpha, norm), step(g, alpha, norm)
    if not isinstance(came, np.ndarray) or (came.shape, came.dtype) != (g.shape, g.dtype):
        return explain_values(came, expected, inputs=[g])
    if near(came, expected):
        return []
    squares = g**2
    guesses = [
        ("missing_normalization", alpha * g, "alpha times the gradient: the step is as long as the gradient is"),
        ("wrong_norm", step(g, alpha, "l2" if norm == "linf" else "linf"), f'the step of the other norm; this one is "{norm}"'),
        ("largest_entry", alpha * g / np.abs(g).max(axis=(1, 2), keepdims=True), "divided by the largest entry"),
        ("norm_of_whole_batch", alpha * g / np.sqrt(squares.sum()), "divided by one length for the whole batch"),
        ("norm_of_whole_batch", alpha * g / np.abs(g).max(), "divided by the largest entry of the whole batch"),
        ("squared_length", alpha * g / squares.sum(axis=(1, 2), keepdims=True), "divided by the square of the length"),
        ("mean_vs_sum", alpha * g / np.sqrt(squares.mean(axis=(1, 2), keepdims=True)), "divided by the root of the mean "
         "square: a step of alpha times the root of the number of pixels"),
    ]  # fmt: skip
    guesses += [("norm_over_one_axis", alpha * g / np.sqrt(squares.sum(axis=k, keepdims=True)), "divided by lengths along "
                 f"axis {k} alone") for k in range(3)]  # fmt: skip
    for code, guess, what in guesses:
        if near(came, guess):
            return [Finding(code, f'for norm "{norm}" the step is {what}', {"norm": norm})]
    return explain_values(came, expected, inputs=[g], rtol=1e-6)


def any_length(function, rng):
    """What is the matter with the steps of an image whose gradient is 0, and of one whose gradient is tiny."""
    g, alpha = rng.normal(size=SHAPE), 0.3
    g[1] = 0.0
    g[2] *= 1e-9 / np.sqrt((g[2] ** 2).sum())
    for norm in ("linf", "l2"):
        came = function(g.copy(), alpha, norm)
        if not np.isfinite(came).all():
            return [Finding("not_finite", f'the step has {np.sum(~np.isfinite(came))} NaN or infinite numbers for an image '
                            f'with g = 0, norm "{norm}"', {"norm": norm})]  # fmt: skip
        if came[1].any():
            return [Finding("moved_without_gradient", f'an image with g = 0 is moved, norm "{norm}"', {"norm": norm})]
        size = np.abs(came[2]).max() if norm == "linf" else np.sqrt((came[2] ** 2).sum())
        if size < 0.9 * alpha:  # not 1: a divisor of length + 1e-12 does no harm
            return [Finding("tiny_gradient_lost", f'for a gradient of length 1e-9 the step has the size {size:.3g}, expected '
                            f'{alpha}; norm "{norm}"', {"size": size, "norm": norm})]  # fmt: skip
    return []


def uniform_start(function, rng):
    """What is the matter with the distances of the starts from gray images; then, from images near black and white."""
    eps, seed = 0.2, int(rng.integers(2**31))
    x = rng.uniform(0.3, 0.7, size=(5, 8, 9))
    came = function(x.copy(), eps, np.random.default_rng(seed))
    if not isinstance(came, np.ndarray) or (came.shape, came.dtype) != (x.shape, x.dtype):
        return explain_values(came, x, inputs=[x])
    d = (came - x) / eps  # should be uniform in [-1, 1]
    if np.abs(came).max() <= eps * (1 + 1e-9):
        return [Finding("perturbation_returned", "the result is the change of the image, not the image", {})]
    if not d.any():
        return [Finding("not_random", "the start is x itself", {})]
    if np.abs(d).max() > 1 + 1e-9:
        return [Finding("outside_ball", f"a pixel is {eps * np.abs(d).max():.3g} away from x, and eps is {eps}", {})]
    if np.ptp(d, axis=(1, 2)).max() < 1e-9 or np.ptp(d, axis=0).max() < 1e-9:
        return [Finding("shared_noise", "one number serves for all the pixels of an image, or for all images", {})]
    if d.min() >= 0 or d.max() <= 0:
        return [Finding("one_sided", f"no pixel begins {'darker' if d.min() >= 0 else 'brighter'} than in x", {})]
    edge = float(np.mean(np.abs(d) > 1 - 1e-9))
    if edge > 0.1 or abs(np.abs(d).mean() - 0.5) > 0.1 or abs(d.mean()) > 0.2:  # of 360 numbers: more than 6 sigma
        return [Finding("not_uniform", f"{edge:.0%} of the pixels begin at the very edge of the ball, and the mean distance is "
                        f"{np.abs(d).mean():.2f} eps; uniform numbers would have 0% and 0.5 eps", {"edge": edge})]  # fmt: skip
    again, other = (function(x.copy(), eps, np.random.default_rng(k)) for k in (seed, seed + 1))
    if not np.array_equal(came, again):
        return [Finding("rng_ignored", "two equal generators give different starts", {})]
    if np.array_equal(came, other):
        return [Finding("rng_ignored", "two different generators give the same start", {})]
    x = rng.choice([0.02, 0.98], size=x.shape)
    came = function(x.copy(), eps, np.random.default_rng(seed))
    if came.min() < 0 or came.max() > 1:
        return [Finding("outside_box", f"pixels of the start range from {came.min():.3g} to {came.max():.3g}", {})]
    if np.abs(came - x).max() > eps * (1 + 1e-9):
        return [Finding("outside_ball", f"a pixel near black or white begins {np.abs(came - x).max():.3g} away from x, and eps "
                        f"is {eps}", {})]  # fmt: skip
    return []


def scene(rng: np.random.Generator, norm: str) -> tuple[LossGradient, np.ndarray, np.ndarray, np.ndarray]:
    """A network of 3 classes, images, some with pixels near 0 and 1, labels, and a start within ball and box."""
    x = rng.uniform(0.2, 0.8, size=SHAPE)
    x[:, 0, :2] = 0.03, 0.97
    start = project(x + EPS * rng.uniform(-0.9, 0.9, size=SHAPE), x, 0.9 * EPS, norm)
    network = small_network(rng.normal(size=(15, 6)), rng.normal(size=(6, 3)))
    return network, x, rng.integers(0, 3, size=len(x)), start


def walk(function, rng):
    """What is the matter with `pgd`: where its way, seen from where it asks for gradients, first leaves the right one."""
    for alpha, steps in ((1.3 * EPS, 3), (0.4 * EPS, 5)):  # steps beyond the ball show around what it projects
        for norm in ("linf", "l2"):
            loss_gradient, x, y, start = scene(rng, norm)
            asked: list[tuple[np.ndarray, np.ndarray]] = []

            def watched(z, labels, asked=asked, loss_gradient=loss_gradient):
                asked.append((np.array(z), np.array(labels)))
                return loss_gradient(z, labels)

            came = function(watched, x.copy(), y.copy(), start.copy(), EPS, alpha, steps, norm)
            expected = pgd(loss_gradient, x, y, start, EPS, alpha, steps, norm)
            if not isinstance(came, np.ndarray) or (came.shape, came.dtype) != (x.shape, x.dtype):
                return explain_values(came, expected, inputs=[x])
            if not near(came, expected):
                return _first_fault(came, expected, asked, loss_gradient, x, y, start, alpha, steps, norm)
    return []


def _first_fault(came, expected, asked, loss_gradient, x, y, start, alpha, steps, norm):
    if near(came, expected - x):
        return [Finding("perturbation_returned", "the result is the change x_adv - x, not x_adv", {})]
    if not asked:
        return [Finding("gradient_not_used", "loss_gradient is never called", {})]
    if any(z.shape != x.shape or not np.array_equal(labels, y) for z, labels in asked):
        return explain_values(came, expected, inputs=[x], rtol=1e-6)
    points = [z for z, _ in asked]
    if steps > 1 and all(near(z, points[0]) for z in points):
        return [Finding("gradient_not_renewed", f"the gradient is asked for at one point only, and there are {steps} steps",
                        {"calls": len(points)})]  # fmt: skip
    if near(points[0], x):
        return [Finding("start_ignored", "the first gradient is taken at x, not at start", {})]
    ways = [(z, after, loss_gradient(z, y)) for z, after in zip(points, [*points[1:], came])]
    faults = [t for t, (z, after, g) in enumerate(ways, 1)
              if not near(after, project(z + step(g, alpha, norm), x, EPS, norm))]  # fmt: skip
    if not faults and len(points) != steps:
        return [Finding("step_count", f"{len(points)} steps are made, each rightly, and steps = {steps}",
                        {"came": len(points), "expected": steps})]  # fmt: skip
    into_the_ball = near(came, project(came, x, EPS, norm))
    for code, what, guesses in (
        ("wrong_sign", "goes down the gradient", lambda z, g, d: (project(z - d, x, EPS, norm), z - d)),
        ("ball_around_the_last_iterate", "is led back into a ball around the image before the step; the ball's center is x",
         lambda z, g, d: (project(z + d, z, EPS, norm),)),
        ("ball_around_the_start", "is led back into a ball around start; the ball's center is x",
         lambda z, g, d: (project(z + d, start, EPS, norm),)),
        ("projected_only_at_the_end" if into_the_ball else "outside_ball", "is not led back into the ball",
         lambda z, g, d: (z + d, np.clip(z + d, 0, 1))),
        ("step_from_the_clean_image", "takes the gradient where it should, but is added to x",
         lambda z, g, d: (project(x + d, x, EPS, norm),)),
        ("eps_for_alpha", "has the size eps, not alpha", lambda z, g, d: (project(z + step(g, EPS, norm), x, EPS, norm),)),
        ("missing_normalization", "is alpha times the gradient", lambda z, g, d: (project(z + alpha * g, x, EPS, norm),)),
        ("wrong_norm", 'is, all or in part, one for "linf"', lambda z, g, d: (
            project(z + step(g, alpha, "linf"), x, EPS, norm), project(z + d, x, EPS, "linf"),
            project(z + step(g, alpha, "linf"), x, EPS, "linf"))),
    ):  # fmt: skip
        if faults and all(any(near(after, guess) for guess in guesses(z, g, step(g, alpha, norm)))
                          for z, after, g in (ways[t - 1] for t in faults)):  # fmt: skip
            return [Finding(code, f'step {faults[0]} {what} (norm "{norm}", alpha = {alpha / EPS:.1f} eps)', {"steps": faults})]
    return explain_values(came, expected, inputs=[x], rtol=1e-6)


def far_side(function, rng):
    """Two classes and no hidden layer: the gradient has one direction w everywhere, and the best point is known."""
    w = rng.normal(size=(15, 2))
    x, y = rng.uniform(0.3, 0.7, size=SHAPE), rng.integers(0, 2, size=len(SHAPE) + 1)
    up = (w[:, 1 - y] - w[:, y]).T.reshape(SHAPE)  # the loss log(1 + exp(up . x)) rises along it

    def loss_gradient(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        towards = (w[:, 1 - labels] - w[:, labels]).T.reshape(z.shape)
        return towards / (1.0 + np.exp(-(towards * z).sum(axis=(1, 2), keepdims=True)))

    for norm, best in (("linf", np.sign(up)), ("l2", up / np.sqrt((up**2).sum(axis=(1, 2), keepdims=True)))):
        came = function(loss_gradient, x.copy(), y.copy(), x.copy(), EPS, 0.3 * EPS, 6, norm)
        if not near(came, x + EPS * best):
            return explain_values(came - x, EPS * best, name="the change x_adv - x", inputs=[x], rtol=1e-6)
    return []


def an_attack(rng: np.random.Generator) -> list:
    loss_gradient, x, y, start = scene(rng, "linf")
    return [loss_gradient, x, y, start, EPS, 0.4 * EPS, 4, "linf"]


CHECKS = (
    Property(function="step", title='step goes alpha per pixel for "linf"', test=lambda f, rng: steepest(f, rng, "linf")),
    Property(function="step", title='step goes alpha along the gradient for "l2"', test=lambda f, rng: steepest(f, rng, "l2")),
    Property(function="step", title="step does not mind how long the gradient is", test=any_length),
    Values(function="step", title="step leaves the gradient alone", expected=step, rtol=1e-6,
           inputs=lambda rng: [rng.normal(size=SHAPE), 0.3, "l2"]),
    Property(function="random_start", title="random_start is uniform in the ball, and in the box", test=uniform_start),
    Property(function="pgd", title="pgd makes every step as in the formula", test=walk),
    Property(function="pgd", title="pgd ends on the far side of the ball where the loss rises in one direction", test=far_side),
    Values(function="pgd", title="pgd leaves x and start alone", expected=pgd, inputs=an_attack, rtol=1e-6),
)  # fmt: skip

HINTS = {
    "step:missing_normalization": (
        "Which part of the formula for the step is about the length of g?",
        "Make g ten times as long: your step grows tenfold. A sure model has tiny gradients; how far would you get?",
    ),
    "pgd:missing_normalization": (
        "You have written a function that makes a step of a gradient. Is it used?",
        "How far an image moves must depend on alpha, not on how long its gradient happens to be.",
    ),
    "step:wrong_norm": (
        "Which of the two formulas belongs to which norm?",
        "In l_inf every pixel has an allowance of its own; in l_2 all the pixels share one. Print `norm` in the branch taken.",
    ),
    "pgd:wrong_norm": (
        "There are two places in the loop where the norm matters. Does it reach both?",
        'Attack once with "linf" and once with "l2": which of your calls does not know the difference?',
    ),
    "step:constant_factor": (
        "How long is your step? How long should it be?",
        "The direction is right, and the factor is the same for all images. Which argument have you not used, or used twice?",
    ),
    "largest_entry": (
        "How far does the pixel with the smallest gradient go in your step? And how long is the whole step?",
        "The largest entry is the length in l_inf. Neither of the two formulas divides by it.",
    ),
    "norm_of_whole_batch": (
        "How does the step of one image depend on the others of the batch?",
        "A sum without an axis runs over all images: one large gradient makes everyone's step small. How many lengths are "
        "needed?",
    ),
    "norm_over_one_axis": (
        "How many lengths do you compute? How many images are there?",
        "The length of an image's gradient is over all of its pixels, so over every axis but the first.",
    ),
    "squared_length": (
        "Compute the length of your step for an image. Is it alpha?",
        "A sum of squares is not a length yet.",
    ),
    "mean_vs_sum": (
        "Compute the length of your step for an image. Is it alpha?",
        "Are the squares in a Euclidean length added or averaged?",
    ),
    "step:not_finite": (
        "What is g / ||g|| for an image with g = 0?",
        "0 / 0 is NaN, and a NaN never goes away. Decide what to divide by where the length is 0; the numerator is 0 anyway.",
    ),
    "moved_without_gradient": (
        "What does the lecture's sign function give for 0?",
        "Without a gradient no direction is better than another. Such an image stays.",
    ),
    "tiny_gradient_lost": (
        "You guard against a division by 0. From which length on does the guard change the result?",
        "Compare the number you add, or below which you give up, with a gradient of length 1e-9. Only 0 itself is dangerous.",
    ),
    "random_start:not_random": (
        "How far from x does the attack begin?",
        "Draw numbers from rng, one per pixel, and look at their smallest and largest.",
    ),
    "random_start:outside_ball": (
        "What are the smallest and the largest number that you draw?",
        "No pixel may be farther from x than eps. A normal distribution has no largest number; and see what you clip.",
    ),
    "one_sided": (
        "A pixel may begin darker than in x, too. Can it, in your code?",
        "`rng.random` gives numbers from 0 to 1. From where to where should they go?",
    ),
    "shared_noise": (
        "How many random numbers do you draw, and how many pixels are there?",
        "Each pixel of each image needs its own: look at the shape of what you draw.",
    ),
    "not_uniform": (
        "Make a histogram of (start - x) / eps. What should it look like?",
        "All distances from -eps to eps are to be equally likely: not heaped at the edges, and not in the middle.",
    ),
    "rng_ignored": (
        "Where do your random numbers come from?",
        "An attack can be repeated only if all its randomness comes from the generator that is handed in.",
    ),
    "random_start:outside_box": (
        "A pixel of 0.02 and a change of -0.2: what comes out?",
        "The start is an image, too. Lead it back to where images are.",
    ),
    "wrong_sign": (
        "Is the loss to rise or to fall?",
        "It is called projected gradient descent, but what does the lecture's formula have between x_adv and alpha?",
    ),
    "ball_around_the_last_iterate": (
        "From which image must x_adv never be farther than eps? Which do you hand to project?",
        "With a center that walks along, each step may be eps long, and ten steps lead ten times as far. Two images are "
        "alive in your loop: one moves, one does not.",
    ),
    "ball_around_the_start": (
        "From which image must x_adv never be farther than eps: start or x?",
        "The start is a random point of the ball. From there, eps may lead out of it.",
    ),
    "projected_only_at_the_end": (
        "At which points did you ask for the gradient? Were they all in the ball?",
        "In the formula Proj stands inside the iteration. What is learned far outside of the ball does not help within.",
    ),
    "pgd:outside_ball": (
        "How far is your result from x?",
        "One of the names in the lecture's formula does not occur in your loop; or you clip to the box alone.",
    ),
    "gradient_not_renewed": (
        "What tells PGD from FGSM with many equal steps?",
        "The loss is not linear: at the new point its gradient is another. At which point do you call loss_gradient?",
    ),
    "start_ignored": (
        "Where does your loop begin?",
        "One of the arguments of pgd is not used.",
    ),
    "step_from_the_clean_image": (
        "To what do you add the step?",
        "Each iterate continues from the one before; x has only one part to play after the start.",
    ),
    "eps_for_alpha": (
        "Which number is the size of a step, and which that of the ball?",
        "alpha and eps each occur in one place of the formula. Check which is where.",
    ),
    "step_count": (
        "Count the calls of loss_gradient.",
        "Is the first or the last round of your loop one too many, or too few? Try steps = 1.",
    ),
    "perturbation_returned": (
        "Show the result as an image: what do you see?",
        "You return a change. Of what?",
    ),
    "gradient_not_used": (
        "How do you know which way to go?",
        "loss_gradient is a function: the formula calls it in every step.",
    ),
    "mutated_input": (
        "`x_adv = start` copies nothing: it is a second name for the same array.",
        "`+=` or `[...] =` on x_adv writes into the caller's array then. Make a new array, in the loop or before it.",
    ),
    "wrong_shape": (
        "Which shape have the images, and which your result?",
        "A step and a start have the shape of the images. If a length per image meets a batch, think of `keepdims`.",
    ),
    "": (
        "Make one step with steps = 1 and compare each intermediate value with the formula.",
        "For one image print: where the gradient is taken, the step and its size, the point before Proj, the point after.",
    ),
}

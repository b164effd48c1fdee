"""FGSM: one step along the sign of the gradient

Where we are: the second half of the lecture, "FGSM Attack". The model is trained and frozen. Now the image changes, so
that the loss l of its true label rises. The lecture's formula, and one thing it leaves unsaid, namely that a pixel ends
at 0 and at 1:

    x_adv = x + eps * sign(dl/dx),    then every pixel is clipped to [0, 1]

The sign is taken pixel by pixel, and sign(0) = 0. x is a batch of images (n, height, width) with pixels in [0, 1]; eps
is on the same scale, so that 8/255 means eight of the 256 gray levels. `loss_gradient(x, y)` is a function: it gives
dl/dx for the labels y (n,), each image's by its own loss, in the shape of x. `linear_softmax(w, b)` makes one to try.

1. `fgsm(x, y, eps, loss_gradient)`: x_adv.

2. `fgsm_targeted(x, targets, eps, loss_gradient)`: now a class is given as which the image shall be classified (the
   lecture: the attack is targeted if y_adv is pre-determined). `loss_gradient(x, targets)` is the gradient of the loss
   of that class. Should this loss rise or fall?

3. `predicted_rise(g, eps)`: why the sign? If the loss were linear around x, a change d of an image would raise it by the
   sum over all pixels of g_i d_i, with g = dl/dx. Among all d with |d_i| <= eps, the step of FGSM (not yet clipped)
   raises it most. By how much? Return one number per image, (n,).

Do not change x or g in place: an attack is compared with the clean image afterwards.

A thought to test: an image of two pixels with g = (0.5, -2) and eps = 0.1. Where does each pixel go, and what is gained?
Does it matter that the second gradient is four times the first?
"""

from collections.abc import Callable

import numpy as np

from minivit.exercises.checks import Finding, Property, Values
from minivit.exercises.values import explain_values

LossGradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


def linear_softmax(w: np.ndarray, b: np.ndarray) -> LossGradient:
    """The gradient function of the classifier softmax(x w + b), with x as rows of d pixels, w (d, K) and b (K,)."""

    def loss_gradient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        logits = x.reshape(len(x), -1) @ w + b  # (n, K)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(x)), y] -= 1.0  # dl/dlogits = p - onehot(y)
        return (p @ w.T).reshape(x.shape)

    return loss_gradient


def fgsm(x: np.ndarray, y: np.ndarray, eps: float, loss_gradient: LossGradient) -> np.ndarray:
    """x_adv (n, height, width): one step that raises the loss of the labels y (n,), within [0, 1]."""
    ### BEGIN SOLUTION
    return np.clip(x + eps * np.sign(loss_gradient(x, y)), 0.0, 1.0)
    ### END SOLUTION


def fgsm_targeted(x: np.ndarray, targets: np.ndarray, eps: float, loss_gradient: LossGradient) -> np.ndarray:
    """x_adv (n, height, width): one step towards being classified as `targets` (n,), within [0, 1]."""
    ### BEGIN SOLUTION
    return np.clip(x - eps * np.sign(loss_gradient(x, targets)), 0.0, 1.0)
    ### END SOLUTION


def predicted_rise(g: np.ndarray, eps: float) -> np.ndarray:
    """(n,): by how much FGSM's step raises each image's loss to first order; g (n, height, width) is dl/dx."""
    ### BEGIN SOLUTION
    return eps * np.abs(g).sum(axis=(1, 2))
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """An attack is gradient ascent on the image: the same gradient as in training, by another variable and with the
other sign. Why the sign is the best step for a limit per pixel; what eps means, and that an image must stay an image."""

SHAPE = (5, 3, 4)


def victim(rng: np.random.Generator) -> tuple[LossGradient, np.ndarray]:
    """A classifier of 6 classes that does not look at two of the pixels, as models of digits ignore the corners, and labels."""
    w = 0.5 * rng.normal(size=(12, 6))
    w[[0, 7]] = 0.0
    return linear_softmax(w, rng.normal(size=6)), rng.integers(0, 6, size=5)


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-12)


def moves(attack, rng, towards):
    """What is the matter with the change of images so gray that nothing is clipped; `towards` is +1 or -1."""
    loss_gradient, y = victim(rng)
    x, eps = rng.uniform(0.4, 0.6, size=SHAPE), 0.11
    came = attack(x.copy(), y.copy(), eps, loss_gradient)
    g = towards * loss_gradient(x, y)
    change = eps * np.sign(g)
    if not isinstance(came, np.ndarray) or (came.shape, came.dtype) != (x.shape, x.dtype):
        return explain_values(came, x + change, inputs=[x])
    d = came - x
    if near(d, change):
        return []
    if near(came, change) or near(came, np.clip(change, 0, 1)):
        return [Finding("perturbation_returned", "the result is the change of the image, not the image", {})]
    where = g == 0
    if d[where].any() and near(d[~where], change[~where]):
        return [Finding("sign_of_zero", f"where the gradient is 0, {np.count_nonzero(d[where])} pixels are moved all the same",
                        {"moved": int(np.count_nonzero(d[where]))})]  # fmt: skip
    if near(came, np.clip(x + change, x.min(), x.max())):
        return [Finding("wrong_box", f"pixels stop at {x.min():.3g} and {x.max():.3g}, the least and the largest of the batch; "
                        "black is 0 and white is 1", {})]  # fmt: skip
    if near(d, np.maximum(change, 0)):
        return [Finding("clipped_perturbation", "no pixel becomes darker: a change that should be negative is 0", {})]
    for factor, text in ((1 / 255, "1/255 of eps"), (255.0, "255 eps")):
        if near(d, factor * change) or (factor > 1 and near(came, np.clip(x + factor * change, 0, 1))):
            return [Finding("eps_rescaled", f"the pixels move by {text}; eps and the pixels are on the same scale already",
                            {"factor": factor})]  # fmt: skip
    if near(came / 255, x + change):
        return [Finding("pixels_rescaled", "the result is 255 times the right one: pixels of 0 to 255", {})]
    if near(255 * came, np.rint(255 * came)):
        return [Finding("rounded", "all pixels are whole multiples of 1/255, those of x are not", {})]
    if near(d, np.broadcast_to(d[0], d.shape)) and np.ptp(change, axis=0).any():
        return [Finding("same_for_all_images", "every image of the batch is changed in the same way", {})]
    cosine = (d * g).sum(axis=(1, 2)) / np.sqrt((d**2).sum(axis=(1, 2)) * (g**2).sum(axis=(1, 2)))
    if np.allclose(np.abs(cosine), 1.0) and cosine.min() * cosine.max() > 0:
        least, most = np.abs(d[~where]).min(), np.abs(d[~where]).max()
        return [Finding("gradient_not_sign", "the change is proportional to the gradient: the pixels move by "
                        f"{least:.2g} to {most:.2g}, expected {eps} for each", {"least": least, "most": most})]  # fmt: skip
    return explain_values(d, change, name="the change x_adv - x", inputs=[x])


def stays_in_box(attack, rng, towards):
    """What is the matter with images that reach nearly to black and white."""
    loss_gradient, y = victim(rng)
    x, eps = rng.uniform(0.02, 0.98, size=SHAPE), 0.11
    x[:, 1, :2] = 0.03, 0.97
    came = attack(x.copy(), y.copy(), eps, loss_gradient)
    expected = np.clip(x + towards * eps * np.sign(loss_gradient(x, y)), 0, 1)
    out = int(np.sum((came < 0) | (came > 1)))
    if out:
        return [Finding("outside_box", f"{out} of {came.size} pixels are outside [0, 1], from {came.min():.3g} to "
                        f"{came.max():.3g}", {"count": out})]  # fmt: skip
    return explain_values(came, expected, inputs=[x])


def rise(function, rng):
    g, eps = rng.normal(size=SHAPE), 0.17
    came = np.asarray(function(g.copy(), eps))
    pixels = (1, 2)
    guesses = (
        ("absolute_value_forgotten", eps * g.sum(axis=pixels), "eps times the sum of the gradient: positive and negative "
         "pixels cancel, as they would if all moved the same way"),
        ("wrong_norm", eps * np.sqrt((g**2).sum(axis=pixels)), "eps times the Euclidean length of the gradient: right for "
         "a step of length eps, which this is not"),
        ("wrong_norm", eps * np.abs(g).max(axis=pixels), "eps times the largest entry: as if one pixel only moved"),
        ("mean_vs_sum", eps * np.abs(g).mean(axis=pixels), "1/12 of the right one, and an image has 12 pixels: a mean"),
    )  # fmt: skip
    for code, guess, what in guesses:
        if near(came, guess):
            return [Finding(code, f"the result is {what}", {})]
    return explain_values(came, eps * np.abs(g).sum(axis=pixels), inputs=[g])


def whole_range(rng: np.random.Generator) -> list:
    loss_gradient, y = victim(rng)
    return [rng.uniform(size=SHAPE), y, 8 / 255, loss_gradient]


CHECKS = (
    Property(function="fgsm", title="fgsm moves every pixel by eps, the way in which the loss rises",
             test=lambda f, rng: moves(f, rng, 1)),
    Property(function="fgsm", title="fgsm keeps every pixel in [0, 1]", test=lambda f, rng: stays_in_box(f, rng, 1)),
    Values(function="fgsm", title="fgsm leaves the clean images alone", expected=fgsm, inputs=whole_range),
    Property(function="fgsm_targeted", title="fgsm_targeted moves every pixel by eps, towards the target",
             test=lambda f, rng: moves(f, rng, -1)),
    Property(function="fgsm_targeted", title="fgsm_targeted keeps every pixel in [0, 1]",
             test=lambda f, rng: stays_in_box(f, rng, -1)),
    Values(function="fgsm_targeted", title="fgsm_targeted leaves the clean images alone", expected=fgsm_targeted,
           inputs=whole_range),
    Property(function="predicted_rise", title="predicted_rise is what the step gains, if the loss is linear", test=rise),
    Values(function="predicted_rise", title="predicted_rise leaves the gradient alone", expected=predicted_rise,
           inputs=lambda rng: [rng.normal(size=SHAPE), 8 / 255]),
)  # fmt: skip

HINTS = {
    "fgsm:wrong_sign": (
        "Training and attacking use the same gradient. In what do they differ?",
        "You go downhill: after your step the model is surer of the true label than before. The lecture's formula for "
        "training has a minus; look at the one for FGSM.",
    ),
    "fgsm_targeted:wrong_sign": (
        "Of which class is this the loss, and what do you want to happen to it?",
        "Your step makes the target less likely. A small loss of a class means that the model believes in it.",
    ),
    "gradient_not_sign": (
        "How far does the pixel with the smallest gradient move, and how far may it move?",
        "eps is a limit for each pixel by itself, so each may go all the way. Of the gradient's entries FGSM keeps the "
        "direction and drops the size.",
    ),
    "eps_rescaled": (
        "On which scale are the pixels of x, and on which is eps?",
        "Both are between 0 and 1; eps = 8/255 has been divided already. Look for another 255 in your code.",
    ),
    "pixels_rescaled": (
        "On which scale are the pixels of x?",
        "The result is to be compared with x and shown to the same model. Look for a 255 in your code.",
    ),
    "rounded": (
        "Which values may a pixel of an array of floats have?",
        "Saving an image as a file rounds it to 256 gray levels. Here nothing is saved, and half of a small eps may be lost.",
    ),
    "clipped_perturbation": (
        "What has to lie in [0, 1], the change or the image?",
        "A change may well be negative: the pixel becomes darker. See what your clip is applied to.",
    ),
    "outside_box": (
        "What is a pixel of -0.05, or of 1.07?",
        "After the step a pixel may be darker than black or whiter than white. The last step of the formula is missing, or "
        "is applied to something else than the image.",
    ),
    "wrong_box": (
        "Must the darkest pixel of this batch be the darkest that there can be?",
        "The limits belong to the scale of the pixels, not to the images that happen to be in the batch.",
    ),
    "perturbation_returned": (
        "Show the result as an image: what do you see?",
        "You return what is to be added. To what?",
    ),
    "same_for_all_images": (
        "Every image has a gradient of its own. Where in your code do they meet?",
        "You sum or average over the axis of the images. Nothing in this attack leads from one image to another.",
    ),
    "sign_of_zero": (
        "What does the lecture's sign function give for 0?",
        "There are three cases, not two. A pixel that the model does not look at gains nothing by moving.",
    ),
    "absolute_value_forgotten": (
        "Put the step into the sum: what is g_i times sign(g_i)?",
        "A pixel with a negative gradient is made darker, and that raises the loss, too. No term of the sum is negative.",
    ),
    "wrong_norm": (
        "Put d_i = eps sign(g_i) into the sum over the pixels, and write down one term.",
        "All pixels move, each by eps, and each adds its part. No squares and no maximum occur.",
    ),
    "mean_vs_sum": (
        "Two pixels that move gain more than one. Does your number grow with the number of pixels?",
        "The gains of the pixels add up. Look at whether you add or average.",
    ),
    "predicted_rise:constant_factor": (
        "Twice the eps: what happens to the gain? And to your number?",
        "Your numbers are right but for one factor, the same for all images. Which argument have you not used, or used twice?",
    ),
    "predicted_rise:wrong_shape": (
        "One number per image: which axes should disappear, and which stay?",
        "The first axis counts the images; sum over all the others, and over these only.",
    ),
    "wrong_shape": (
        "An adversarial image is an image: which shape does it have?",
        "x_adv has exactly the shape of x. Print the shapes of what you add.",
    ),
    "mutated_input": (
        "`+=`, `-=` and `out=` write into an array that belongs to the caller.",
        "Whoever compares x_adv with x afterwards finds no difference: you have overwritten x, and both are one array.",
    ),
    "": (
        "Take the image of two pixels from the statement and follow each pixel by hand.",
        "Do it in steps: the gradient, its sign, the step, the image after the step, the limits. Print each for one image.",
    ),
}

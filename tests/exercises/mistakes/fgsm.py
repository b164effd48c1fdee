"""Solutions of "fgsm" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e13_fgsm import fgsm as right_fgsm
from tests.exercises.mistakes import right, wrong


@wrong("wrong_sign", "descends the loss, as in training")
def fgsm(x, y, eps, loss_gradient):
    return np.clip(x - eps * np.sign(loss_gradient(x, y)), 0, 1)


@wrong("gradient_not_sign", "adds the gradient itself and forgets the sign")
def fgsm(x, y, eps, loss_gradient):
    return np.clip(x + eps * loss_gradient(x, y), 0, 1)


@wrong("gradient_not_sign", "scales the gradient by its largest entry instead of taking the sign")
def fgsm(x, y, eps, loss_gradient):
    g = loss_gradient(x, y)
    return np.clip(x + eps * g / np.abs(g).max(axis=(1, 2), keepdims=True), 0, 1)


@wrong("eps_rescaled", "divides eps by 255 once more")
def fgsm(x, y, eps, loss_gradient):
    return np.clip(x + eps / 255 * np.sign(loss_gradient(x, y)), 0, 1)


@wrong("eps_rescaled", "takes the pixels to be on the scale of 0 to 255")
def fgsm(x, y, eps, loss_gradient):
    return np.clip(x + eps * 255 * np.sign(loss_gradient(x, y)), 0, 1)


@wrong("pixels_rescaled", "returns pixels of 0 to 255")
def fgsm(x, y, eps, loss_gradient):
    return np.clip(255 * x + 255 * eps * np.sign(loss_gradient(x, y)), 0, 255)


@wrong("rounded", "rounds to the 256 gray levels of a file")
def fgsm(x, y, eps, loss_gradient):
    return np.rint(255 * np.clip(x + eps * np.sign(loss_gradient(x, y)), 0, 1)) / 255


@wrong("outside_box", "does not clip at all")
def fgsm(x, y, eps, loss_gradient):
    return x + eps * np.sign(loss_gradient(x, y))


@wrong("outside_box", "clips the perturbation to [-eps, eps], but not the image")
def fgsm(x, y, eps, loss_gradient):
    return x + np.clip(eps * np.sign(loss_gradient(x, y)), -eps, eps)


@wrong("clipped_perturbation", "clips the perturbation to [0, 1] in the place of the image")
def fgsm(x, y, eps, loss_gradient):
    return x + np.clip(eps * np.sign(loss_gradient(x, y)), 0, 1)


@wrong("wrong_box", "clips to the range that the batch happens to have")
def fgsm(x, y, eps, loss_gradient):
    return np.clip(x + eps * np.sign(loss_gradient(x, y)), x.min(), x.max())


@wrong("perturbation_returned", "returns the perturbation without the image")
def fgsm(x, y, eps, loss_gradient):
    return eps * np.sign(loss_gradient(x, y))


@wrong("same_for_all_images", "averages the gradient over the batch")
def fgsm(x, y, eps, loss_gradient):
    return np.clip(x + eps * np.sign(loss_gradient(x, y).mean(axis=0)), 0, 1)


@wrong("sign_of_zero", "has two cases in its sign function, and takes 0 for negative")
def fgsm(x, y, eps, loss_gradient):
    return np.clip(x + np.where(loss_gradient(x, y) > 0, eps, -eps), 0, 1)


@wrong("mutated_input", "adds the step to the clean images in place")
def fgsm(x, y, eps, loss_gradient):
    x += eps * np.sign(loss_gradient(x, y))
    return np.clip(x, 0, 1)


@wrong("wrong_sign", "ascends the loss of the target")
def fgsm_targeted(x, targets, eps, loss_gradient):
    return right_fgsm(x, targets, eps, loss_gradient)


@wrong("outside_box", "mirrors the clipped untargeted attack, and leaves the box on the other side")
def fgsm_targeted(x, targets, eps, loss_gradient):
    return 2 * x - right_fgsm(x, targets, eps, loss_gradient)


@wrong("absolute_value_forgotten", "sums the gradient with its signs")
def predicted_rise(g, eps):
    return eps * g.sum(axis=(1, 2))


@wrong("wrong_norm", "takes the Euclidean length of the gradient")
def predicted_rise(g, eps):
    return eps * np.linalg.norm(g.reshape(len(g), -1), axis=1)


@wrong("wrong_shape", "sums over the whole batch")
def predicted_rise(g, eps):
    return eps * np.abs(g).sum()


@wrong("mean_vs_sum", "averages over the pixels instead of summing")
def predicted_rise(g, eps):
    return eps * np.abs(g).mean(axis=(1, 2))


@wrong("constant_factor", "forgets eps")
def predicted_rise(g, eps):
    return np.abs(g).sum(axis=(1, 2))


@right("with where in the place of the sign, and minimum and maximum")
def fgsm(x, y, eps, loss_gradient):
    g = loss_gradient(x, y)
    step = np.where(g > 0, eps, np.where(g < 0, -eps, 0.0))
    return np.minimum(np.maximum(x + step, 0), 1)


@right("image by image")
def fgsm(x, y, eps, loss_gradient):
    result = np.empty_like(x)
    for i in range(len(x)):
        g = loss_gradient(x[i : i + 1], y[i : i + 1])[0]
        result[i] = (x[i] + eps * np.sign(g)).clip(0, 1)
    return result


@right("on a copy, in place")
def fgsm(x, y, eps, loss_gradient):
    result = x.copy()
    result += eps * np.sign(loss_gradient(x, y))
    np.clip(result, 0, 1, out=result)
    return result


@right("as the untargeted attack with a negative eps")
def fgsm_targeted(x, targets, eps, loss_gradient):
    return right_fgsm(x, targets, -eps, loss_gradient)


@right("as the inner product of the gradient and the step")
def predicted_rise(g, eps):
    return np.einsum("nhw,nhw->n", g, eps * np.sign(g))

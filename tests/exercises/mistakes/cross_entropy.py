"""Solutions of "cross_entropy" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e05_cross_entropy import log_softmax as right_log_softmax
from tests.exercises.mistakes import right, wrong


def softmax(x):
    return np.exp(right_log_softmax(x))


@wrong("not_finite", "takes the logarithm of a softmax, which may be zero")
def log_softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.log(e / e.sum(axis=-1, keepdims=True))


@wrong("not_finite", "takes the exponentials of the scores as they are")
def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@wrong("missing_term", "shifts inside the exponential and not outside the logarithm")
def log_softmax(x):
    m = x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x - m).sum(axis=-1, keepdims=True))


@wrong("softmax_off_diagonal", "differentiates each output by its own score only, 1 - p")
def log_softmax_backward(g, x):
    return g * (1 - softmax(x))


@wrong("cotangent_ignored", "subtracts p without the cotangents of the row")
def log_softmax_backward(g, x):
    return g - softmax(x)


@wrong("missing_term", "takes the normalization for a constant")
def log_softmax_backward(g, x):
    return g.copy()


@wrong("rule_of_the_softmax", "applies the rule of the softmax, without the logarithm's")
def log_softmax_backward(g, x):
    p = softmax(x)
    return p * (g - np.sum(g * p, axis=-1, keepdims=True))


@wrong("mean_vs_sum", "takes the mean of the row's cotangents")
def log_softmax_backward(g, x):
    return g - softmax(x) * g.mean(axis=-1, keepdims=True)


@wrong("not_finite", "takes the exponentials of the scores as they are on the way back")
def log_softmax_backward(g, x):
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    return g - p * g.sum(axis=-1, keepdims=True)


@wrong("not_finite", "takes the logarithm of a probability, which may be zero")
def cross_entropy(x, labels):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return -np.mean(np.log((e / e.sum(axis=-1, keepdims=True))[np.arange(len(x)), labels]))


@wrong("picked_a_block", "picks the columns of all labels in all rows")
def cross_entropy(x, labels):
    return -np.mean(right_log_softmax(x)[:, labels])


@wrong("mean_vs_sum", "sums over the batch")
def cross_entropy(x, labels):
    return -np.sum(right_log_softmax(x)[np.arange(len(x)), labels])


@wrong("mean_vs_sum", "averages over all scores of a one-hot product, most of which are zero")
def cross_entropy(x, labels):
    return -np.mean(np.eye(x.shape[1])[labels] * right_log_softmax(x))


@wrong("wrong_sign", "forgets the minus sign of the loss")
def cross_entropy(x, labels):
    return np.mean(right_log_softmax(x)[np.arange(len(x)), labels])


@wrong("not_normalized", "takes the scores themselves for logarithms of probabilities")
def cross_entropy(x, labels):
    return -np.mean(x[np.arange(len(x)), labels])


@wrong("no_logarithm", "takes the probabilities of the right classes for their logarithms")
def cross_entropy(x, labels):
    return -np.mean(softmax(x)[np.arange(len(x)), labels])


@wrong("no_mean", "returns the losses of the images, without their mean")
def cross_entropy(x, labels):
    return -right_log_softmax(x)[np.arange(len(x)), labels]


@wrong("not_finite", "takes the exponentials of the scores as they are on the way back to them")
def cross_entropy_backward(g, x, labels):
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    return g * (p - np.eye(x.shape[1])[labels]) / len(labels)


@wrong("mean_vs_sum", "forgets the mean over the batch on the way back")
def cross_entropy_backward(g, x, labels):
    return g * (softmax(x) - np.eye(x.shape[1])[labels])


@wrong("cotangent_ignored", "takes the loss for the last step of all")
def cross_entropy_backward(g, x, labels):
    return (softmax(x) - np.eye(x.shape[1])[labels]) / len(x)


@wrong("missing_term", "has the part of the right class only")
def cross_entropy_backward(g, x, labels):
    return -g * np.eye(x.shape[1])[labels] / len(x)


@wrong("missing_term", "has the probabilities only, without the labels")
def cross_entropy_backward(g, x, labels):
    return g * softmax(x) / len(x)


@wrong("wrong_sign", "subtracts the probabilities from the truth")
def cross_entropy_backward(g, x, labels):
    return g * (np.eye(x.shape[1])[labels] - softmax(x)) / len(x)


@wrong("labels_in_every_row", "subtracts one at every label in every row")
def cross_entropy_backward(g, x, labels):
    p = softmax(x)
    p[:, labels] -= 1
    return g * p / len(x)


@wrong("mean_vs_sum", "divides the probabilities by the batch, not the labels' part")
def cross_entropy_backward(g, x, labels):
    p = softmax(x) / len(x)
    p[np.arange(len(x)), labels] -= 1
    return g * p


@right("with np.logaddexp")
def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


@right("row by row")
def log_softmax(x):
    out = np.empty_like(x)
    for n, row in enumerate(x):
        m = row.max()
        out[n] = row - m - np.log(sum(np.exp(v - m) for v in row))
    return out


@right("with the matrix of derivatives of every row")
def log_softmax_backward(g, x):
    p = softmax(x)
    return np.einsum("ni,nij->nj", g, np.eye(x.shape[-1]) - p[:, None, :])


@right("with a one-hot matrix")
def cross_entropy(x, labels):
    return -np.sum(np.eye(x.shape[1])[labels] * right_log_softmax(x)) / len(x)


@right("picking with take_along_axis")
def cross_entropy(x, labels):
    return np.mean(-np.take_along_axis(right_log_softmax(x), labels[:, None], axis=1))


@right("through the rule of the log-softmax")
def cross_entropy_backward(g, x, labels):
    g_log_p = np.zeros_like(x)
    g_log_p[np.arange(len(x)), labels] = -g / len(x)
    return g_log_p - softmax(x) * g_log_p.sum(axis=1, keepdims=True)


@right("by subtracting one from the probabilities at the labels, in place on an array of its own")
def cross_entropy_backward(g, x, labels):
    p = softmax(x)
    p[np.arange(len(x)), labels] -= 1
    p *= g / len(x)
    return p

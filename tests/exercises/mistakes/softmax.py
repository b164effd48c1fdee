"""Solutions of "softmax" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e04_softmax import softmax as right_softmax
from tests.exercises.mistakes import right, wrong


@wrong("not_finite", "takes the exponentials of the scores as they are")
def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


@wrong("one_shift_for_all", "shifts all rows by the largest score of all")
def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum(axis=-1, keepdims=True)


@wrong("wrong_axis", "normalizes the columns, axis 0, instead of the rows")
def softmax(x):
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


@wrong("wrong_axis", "normalizes along axis 1, which is the last for a matrix only")
def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@wrong("wrong_axis", "divides by the sum over the whole array")
def softmax(x):
    e = np.exp(x - np.max(x))
    return e / np.sum(e)


@wrong("not_normalized", "shifts the numerator and not the denominator")
def softmax(x):
    return np.exp(x - x.max(axis=-1, keepdims=True)) / np.exp(x).sum(axis=-1, keepdims=True)


@wrong("not_shift_invariant", "adds a small number to the denominator instead of shifting")
def softmax(x):
    e = np.exp(x)
    return e / (e.sum(axis=-1, keepdims=True) + 1e-12)


@wrong("mutated_input", "shifts the caller's scores in place")
def softmax(x):
    x -= x.max(axis=-1, keepdims=True)
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


@wrong("softmax_off_diagonal", "differentiates each output by its own score only, p (1 - p)")
def softmax_backward(g, x):
    p = right_softmax(x)
    return g * p * (1 - p)


@wrong("softmax_off_diagonal", "takes the softmax for an exponential over a constant")
def softmax_backward(g, x):
    return g * right_softmax(x)


@wrong("missing_term", "has the sum of the row only, without the direct term")
def softmax_backward(g, x):
    p = right_softmax(x)
    return -p * np.sum(g * p, axis=-1, keepdims=True)


@wrong("not_finite", "takes the exponentials of the scores as they are on the way back")
def softmax_backward(g, x):
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    return p * (g - np.sum(g * p, axis=-1, keepdims=True))


@wrong("missing_factor", "forgets the p in front of the bracket")
def softmax_backward(g, x):
    p = right_softmax(x)
    return g - np.sum(g * p, axis=-1, keepdims=True)


@wrong("missing_factor", "sums g instead of g p under the sum")
def softmax_backward(g, x):
    p = right_softmax(x)
    return p * (g - np.sum(g, axis=-1, keepdims=True))


@wrong("mean_vs_sum", "takes the mean of g p along the row")
def softmax_backward(g, x):
    p = right_softmax(x)
    return p * (g - np.mean(g * p, axis=-1, keepdims=True))


@wrong("summed_over_other_axes", "sums g p over the whole batch")
def softmax_backward(g, x):
    p = right_softmax(x)
    return p * (g - np.sum(g * p))


@wrong("summed_over_other_axes", "sums g p over the rows, axis 0")
def softmax_backward(g, x):
    p = right_softmax(x)
    return p * (g - np.sum(g * p, axis=0))


@wrong("wrong_sign", "adds the coupling term instead of subtracting it")
def softmax_backward(g, x):
    p = right_softmax(x)
    return p * (g + np.sum(g * p, axis=-1, keepdims=True))


@wrong("cotangent_ignored", "returns p (1 - p) without the cotangent")
def softmax_backward(g, x):
    p = right_softmax(x)
    return p * (1 - p)


@wrong("raised", "loses the summed axis, so that the sum does not line up with the rows")
def softmax_backward(g, x):
    p = right_softmax(x)
    return p * (g - (g * p).sum(axis=-1))


@right("by the logarithm of the sum")
def softmax(x):
    m = np.max(x, axis=-1, keepdims=True)
    return np.exp(x - (m + np.log(np.sum(np.exp(x - m), axis=-1, keepdims=True))))


@right("row by row")
def softmax(x):
    out = np.empty_like(x)
    for index in np.ndindex(x.shape[:-1]):
        e = np.exp(x[index] - max(x[index]))
        out[index] = e / sum(e)
    return out


@right("in place, on arrays of its own")
def softmax(x):
    e = x - np.amax(x, -1)[..., None]
    np.exp(e, out=e)
    e /= e.sum(-1)[..., None]
    return e


@right("with the matrix of derivatives of every row")
def softmax_backward(g, x):
    p = right_softmax(x)
    jacobian = p[..., :, None] * np.eye(x.shape[-1]) - p[..., :, None] * p[..., None, :]
    return (jacobian @ g[..., None])[..., 0]


@right("as the two terms apart, with einsum")
def softmax_backward(g, x):
    p = right_softmax(x)
    return g * p - p * np.einsum("...k,...k->...", g, p)[..., None]


@right("through the steps of the forward: exponential, sum, quotient")
def softmax_backward(g, x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    s = e.sum(axis=-1, keepdims=True)
    ge = g / s
    gs = -(g * e / s**2).sum(axis=-1, keepdims=True)
    ge = ge + gs
    return ge * e

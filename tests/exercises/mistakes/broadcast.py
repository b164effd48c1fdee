"""Solutions of "broadcast" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e02_broadcast import unbroadcast as right_unbroadcast
from tests.exercises.mistakes import right, wrong


@wrong("missing_broadcast_sum", "passes the cotangent on to both terms in its full shape")
def positions_backward(g, x, e):
    return g, g


@wrong("mean_vs_sum", "averages over the images, as one would a batch of gradients")
def positions_backward(g, x, e):
    return g, g.mean(axis=0)


@wrong("missing_broadcast_sum", "takes the cotangent of the first image, since the positions are the same for all")
def positions_backward(g, x, e):
    return g, g[0]


@wrong("wrong_shape", "sums the cotangent over the features instead of the images")
def positions_backward(g, x, e):
    return g, g.sum(axis=-1)


@wrong("missing_broadcast_sum", "sums the leading axes and leaves those of length 1 alone")
def unbroadcast(g, shape):
    while g.ndim > len(shape):
        g = g.sum(axis=0)
    return g


@wrong("lost_axis", "sums over the right axes but drops those of length 1")
def unbroadcast(g, shape):
    extra = g.ndim - len(shape)
    axes = [*range(extra), *(extra + k for k, n in enumerate(shape) if n == 1)]
    return g.sum(axis=tuple(axes))


@wrong("summed_other_axes", "finds the repeated axes by their lengths, from the left")
def unbroadcast(g, shape):
    left, axes = list(shape), []
    for axis, n in enumerate(g.shape):
        if left and left[0] == n:
            left.pop(0)
        elif left and left[0] == 1:
            left.pop(0)
            axes.append(axis)
        else:
            axes.append(axis)
    return g.sum(axis=tuple(axes)).reshape(shape)


@wrong("missing_broadcast_sum", "brings it to the right shape by cutting, not by summing")
def unbroadcast(g, shape):
    g = g[(0,) * (g.ndim - len(shape))]
    return g[tuple(slice(n) for n in shape)]


@wrong("missing_factor", "undoes the broadcast and forgets the derivative of the product")
def multiply_backward(g, x, y):
    return g * y, right_unbroadcast(g, y.shape)


@wrong("sum_before_product", "sums cotangent and factor before multiplying them")
def multiply_backward(g, x, y):
    return right_unbroadcast(g, x.shape) * y, right_unbroadcast(g, y.shape) * right_unbroadcast(x, y.shape)


@wrong("missing_broadcast_sum", "takes for granted that only the second input is broadcast")
def multiply_backward(g, x, y):
    return g * y, right_unbroadcast(g * x, y.shape)


@right("with einsum")
def positions_backward(g, x, e):
    return g.copy(), np.einsum("bnd->nd", g)


@right("adds up image by image")
def positions_backward(g, x, e):
    ge = np.zeros_like(e)
    for image in g:
        ge += image
    return g, ge


@right("by comparing with the shape that was broadcast")
def unbroadcast(g, shape):
    padded = (1,) * (g.ndim - len(shape)) + shape
    axes = tuple(k for k in range(g.ndim) if padded[k] != g.shape[k])
    return g.sum(axis=axes, keepdims=True).reshape(shape)


@right("axis by axis, from the front")
def unbroadcast(g, shape):
    while g.ndim > len(shape):
        g = g.sum(axis=0)
    for axis, n in enumerate(shape):
        if n == 1:
            g = g.sum(axis=axis, keepdims=True)
    return g


@right("element by element, adding into zeros")
def unbroadcast(g, shape):
    out = np.zeros(shape)
    where = np.broadcast_to(np.arange(out.size).reshape(shape), g.shape)
    np.add.at(out.reshape(-1), where, g)
    return out


@right("with both factors broadcast first")
def multiply_backward(g, x, y):
    full_x, full_y = np.broadcast_arrays(x, y)
    return [right_unbroadcast(full_y * g, x.shape), right_unbroadcast(full_x * g, y.shape)]

"""Solutions of "product" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e01_product import product_backward as right_product_backward
from tests.exercises.mistakes import right, wrong


@wrong("swapped_inputs", "gives each input the gradient of the other")
def product_backward(g, x, y):
    return g * x, g * y


@wrong("missing_factor", "passes the cotangent through, as the rule of a sum does")
def product_backward(g, x, y):
    return g, g


@wrong("cotangent_ignored", "returns the local derivatives and forgets the cotangent")
def product_backward(g, x, y):
    return y.copy(), x.copy()


@wrong("wrong_count", "returns the gradient of x only")
def product_backward(g, x, y):
    return g * y


@wrong("mutated_input", "writes the first gradient into the cotangent")
def product_backward(g, x, y):
    gy = g * x
    g *= y
    return g, gy


@wrong("wrong_shape", "sums to the loss itself: a number for a matrix")
def product_backward(g, x, y):
    return np.sum(g * y), np.sum(g * x)


@wrong("missing_term", "follows only the path of x as a factor")
def reuse_backward(g, x, y):
    s = x + y
    return right_product_backward(g, x, s)


@wrong("missing_term", "follows only the path of x through the sum")
def reuse_backward(g, x, y):
    return g * x, g * x


@right("in two statements, with np.multiply")
def product_backward(g, x, y):
    gx = np.multiply(g, y)
    gy = np.multiply(g, x)
    return gx, gy


@right("returns a list")
def product_backward(g, x, y):
    return [y * g, x * g]


@right("in closed form")
def reuse_backward(g, x, y):
    return g * (2 * x + y), g * x


@right("accumulates into zeros, path by path")
def reuse_backward(g, x, y):
    gx, gy = np.zeros_like(x), np.zeros_like(y)
    s = x + y
    gx += g * s
    gs = g * x
    gx += gs
    gy += gs
    return gx, gy

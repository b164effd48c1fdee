"""Solutions of "gelu" that are wrong, and some that are right."""

import math

import numpy as np

from minivit.exercises.e07_gelu import erf
from tests.exercises.mistakes import right, wrong

K, CUBIC = math.sqrt(2 / math.pi), 0.044715


def cdf(x):
    return 0.5 * (1 + erf(x / np.sqrt(2)))


def density(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


@wrong("argument_not_scaled", "takes erf at x instead of x/√2")
def gelu(x):
    return 0.5 * x * (1 + erf(x))


@wrong("approximate_form", "computes the approximation with tanh where the exact form is asked for")
def gelu(x):
    return 0.5 * x * (1 + np.tanh(K * (x + CUBIC * x**3)))


@wrong("constant_factor", "forgets the 1/2 of the distribution function")
def gelu(x):
    return x * (1 + erf(x / np.sqrt(2)))


@wrong("missing_term", "returns Φ alone: x is differentiated, Φ is not")
def gelu_backward(g, x):
    return g * cdf(x)


@wrong("missing_term", "differentiates Φ and forgets that x stands before it")
def gelu_backward(g, x):
    return g * x * density(x)


@wrong("argument_not_scaled", "writes exp(-x²) for exp(-x²/2)")
def gelu_backward(g, x):
    return g * (cdf(x) + x * np.exp(-(x**2)) / np.sqrt(2 * np.pi))


@wrong("constant_factor", "forgets the constant 1/√(2π) of the density")
def gelu_backward(g, x):
    return g * (cdf(x) + x * np.exp(-(x**2) / 2))


@wrong(("missing_factor", "constant_factor"), "forgets the inner derivative 1/√2 of x/√2")
def gelu_backward(g, x):
    t = x / np.sqrt(2)
    return g * (0.5 * (1 + erf(t)) + 0.5 * x * 2 / np.sqrt(np.pi) * np.exp(-(t**2)))


@wrong("missing_factor", "takes the density for its product with x")
def gelu_backward(g, x):
    return g * (cdf(x) + density(x))


@wrong("cotangent_ignored", "returns the derivative without the cotangent")
def gelu_backward(g, x):
    return cdf(x) + x * density(x)


@wrong("gradient_of_the_other_form", "hands on the exact form's gradient, as the two are so near")
def gelu_tanh_backward(g, x):
    return g * (cdf(x) + x * density(x))


@wrong("missing_factor", "forgets du/dx, the inner derivative of tanh")
def gelu_tanh_backward(g, x):
    t = np.tanh(K * (x + CUBIC * x**3))
    return g * 0.5 * (1 + t + x * (1 - t**2))


@wrong("constant_factor", "forgets the 3 of the derivative of x³")
def gelu_tanh_backward(g, x):
    t = np.tanh(K * (x + CUBIC * x**3))
    return g * 0.5 * (1 + t + x * (1 - t**2) * K * (1 + CUBIC * x**2))


@wrong("missing_term", "differentiates u as if it were linear in x")
def gelu_tanh_backward(g, x):
    t = np.tanh(K * (x + CUBIC * x**3))
    return g * 0.5 * (1 + t + x * (1 - t**2) * K)


@right("with math.erf, number by number")
class _:
    def gelu(x):
        return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.ravel()]).reshape(x.shape)

    def gelu_backward(g, x):
        out = np.empty_like(x)
        for i in np.ndindex(x.shape):
            v = float(x[i])
            out[i] = g[i] * (0.5 * math.erfc(-v / math.sqrt(2)) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi))
        return out


@right("in steps, one variable for every link of the chain")
def gelu_backward(g, x):
    t = x / np.sqrt(2)
    e = erf(t)
    gx = g * 0.5 * (1 + e)
    ge = g * 0.5 * x
    gt = ge * 2 / np.sqrt(np.pi) * np.exp(-t * t)
    return gx + gt / np.sqrt(2)


@right("with the tanh form as a sigmoid")
def gelu_tanh_backward(g, x):
    u = K * (x + CUBIC * x * x * x)
    s = 1 / (1 + np.exp(-2 * u))  # ½ (1 + tanh u)
    return g * s + g * x * 2 * s * (1 - s) * K * (1 + 3 * CUBIC * x * x)


@right("with 1/cosh² for the derivative of tanh")
def gelu_tanh_backward(g, x):
    u = np.sqrt(2 / np.pi) * x * (1 + 0.044715 * np.square(x))
    du = np.sqrt(2 / np.pi) + 0.134145 * np.sqrt(2 / np.pi) * np.square(x)
    return g * (0.5 + 0.5 * np.tanh(u)) + g * 0.5 * x * du / np.cosh(u) ** 2

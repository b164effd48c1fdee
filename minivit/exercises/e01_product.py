"""A product, and a value used twice

Where we are: before the Vision Transformer, the tool that trains it and attacks it. A network is a chain of small
operations. Reverse mode walks the chain from the loss back to its inputs, and every operation needs one rule:

    given  g = dL/dz,  the derivative of the loss L by the operation's result z  (g has the shape of z),
    return dL/dx       for every input x                                         (each has the shape of x).

g is called the cotangent. By the chain rule dL/dx_i = sum over j of g_j dz_j/dx_i. For an elementwise operation only
j = i counts, so the rule is "g times the local derivative".

1. `product_backward(g, x, y)` for z = x * y, element by element, x and y of the same shape. Return two arrays.

2. `reuse_backward(g, x, y)` for z = x * (x + y). Now x reaches z along two paths, as a factor and through the sum.
   Changes along both paths add up, so the gradients of the paths are added. Do it in steps, backwards: first the rule
   of the product with s = x + y, which gives you dL/dx along the first path and dL/ds; then the rule of the sum.

Do not change g, x or y in place: others may still need them.

A thought to test: take numbers, x = 2, y = 3, g = 1. What does z gain when x grows by 0.001? Compare.
"""

import numpy as np

from minivit.exercises.checks import Gradient


def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * y


def product_backward(g: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dx, dL/dy) of product(x, y), where g is dL/dz."""
    ### BEGIN SOLUTION
    return g * y, g * x
    ### END SOLUTION


def reuse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    s = x + y
    return x * s


def reuse_backward(g: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dx, dL/dy) of reuse(x, y), where g is dL/dz."""
    ### BEGIN SOLUTION
    s = x + y
    gx, gs = product_backward(g, x, s)
    return gx + gs, gs
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """What a backward rule is: cotangent times local derivative, one gradient per input. Gradients of several
paths to the same value add up."""


def two_matrices(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 4)), rng.normal(size=(3, 4))]


CHECKS = (
    Gradient(function="product_backward", title="product_backward is the gradient of x * y",
             forward=product, inputs=two_matrices),
    Gradient(function="reuse_backward", title="reuse_backward is the gradient of x * (x + y)",
             forward=reuse, inputs=two_matrices),
)  # fmt: skip

HINTS = {
    "swapped_inputs": (
        "Which of the two factors does z feel when only x changes?",
        "Hold y fixed and let x grow by one: z grows by the other factor. Return the gradients in the order of the inputs.",
    ),
    "missing_factor": (
        "The rule has two ingredients, and one of your gradients has only the first.",
        "g alone is the rule of a sum. What is dz/dx of this operation, written out for one element?",
    ),
    "cotangent_ignored": (
        "Your gradient is right for one special loss only. Which?",
        "You return the local derivative dz/dx. The loss sees z through what comes after it; where does g come in?",
    ),
    "reuse_backward:missing_term": (
        "Draw the graph of x * (x + y): how many arrows leave x?",
        "There is an arrow from x to the product and one from x to the sum. You have followed one. Add what comes back "
        "along the other.",
    ),
    "mutated_input": (
        "`*=` and `+=` change an array that belongs to someone else.",
        "Write `g * y`, which makes a new array, in the place of `g *= y`.",
    ),
    "": (
        "Write z for a single element and differentiate it by each input, with the other one held fixed.",
        "Try x = 2, y = 3, g = 1 by hand, and call your function with these numbers.",
    ),
}

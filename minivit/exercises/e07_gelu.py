"""GELU, the bend in the MLP

Where we are: "Transformer Encoder". The MLP of every block is a linear layer, GELU, and a linear layer; without the
bend in the middle the two would be one. GELU multiplies x by the probability that a standard normal number is below x:

    gelu(x) = x * Phi(x),    Phi(x) = 1/2 (1 + erf(x / sqrt(2)))

Phi rises from 0 to 1, so GELU is nearly x for large x and nearly 0 for very negative x. `erf` is given; its derivative is

    erf'(t) = 2 / sqrt(pi) * exp(-t^2)

1. `gelu(x)`, element by element.

2. `gelu_backward(g, x)` returns dL/dx, where g = dL/dz of z = gelu(x). A product rule and a chain rule.

The original ViT code computes an approximation, which is given as `gelu_tanh`:

    gelu_tanh(x) = 1/2 x (1 + tanh(u)),    u = sqrt(2/pi) (x + 0.044715 x^3)

The two differ by at most 0.0005. That is too little to see in a plot and enough to be a wrong gradient: a model must be
differentiated in the form in which it is run.

3. `gelu_tanh_backward(g, x)` returns dL/dx for z = gelu_tanh(x). Remember tanh'(u) = 1 - tanh(u)^2.

A thought to test: gelu(x) - gelu(-x) = x for every x. What follows for the slopes at x and at -x, and for that at 0?
"""

import math

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property, Values

erf = np.vectorize(math.erf, otypes=[float])  # NumPy has none


def gelu(x: np.ndarray) -> np.ndarray:
    """x Phi(x), element by element."""
    ### BEGIN SOLUTION
    below = 0.5 * (1 + erf(x / np.sqrt(2)))
    return x * below
    ### END SOLUTION


def gelu_backward(g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dL/dx of gelu(x), where g is dL/dz."""
    ### BEGIN SOLUTION
    below = 0.5 * (1 + erf(x / np.sqrt(2)))
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)  # the derivative of `below`
    return g * (below + x * density)
    ### END SOLUTION


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + np.tanh(u))


def gelu_tanh_backward(g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dL/dx of gelu_tanh(x), where g is dL/dz."""
    ### BEGIN SOLUTION
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)  # du/dx
    return g * 0.5 * ((1 + t) + x * (1 - t**2) * slope)
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """Product rule and chain rule in one elementwise function. An approximation has a gradient of its own, and the
gradients of two functions that look alike are not interchangeable."""


def one_array(rng: np.random.Generator) -> list[np.ndarray]:
    return [1.5 * rng.normal(size=(3, 5))]


def is_near(came, expected: np.ndarray) -> bool:
    return np.shape(came) == expected.shape and np.allclose(came, expected, rtol=0, atol=1e-9)


def no_slip(function, rng: np.random.Generator) -> list[Finding]:
    (x,) = one_array(rng)
    came = function(x.copy())
    slips = (
        ("argument_not_scaled", 0.5 * x * (1 + erf(x)), "x (1 + erf(x)) / 2: erf is taken at x"),
        ("argument_not_scaled", 0.5 * x * (1 + erf(x * np.sqrt(2))), "what comes out with erf at √2 x"),
        ("approximate_form", gelu_tanh(x), "the form with tanh, an approximation; here the exact one is asked for"),
        ("missing_factor", 0.5 * (1 + erf(x / np.sqrt(2))), "Φ(x) alone"),
        ("missing_term", 0.5 * x * erf(x / np.sqrt(2)), "x erf(x/√2) / 2, without the 1 that is added to erf"),
    )
    return [Finding(code, f"the result is {text}", {}) for code, guess, text in slips if is_near(came, guess)]


def of_its_own_form(other, name: str):
    """A test that finds the gradient of the other form."""

    def test(function, rng: np.random.Generator) -> list[Finding]:
        (x,) = one_array(rng)
        g = rng.normal(size=x.shape)
        if is_near(function(g.copy(), x.copy()), other(g, x)):
            return [Finding("gradient_of_the_other_form", f"this is exactly the gradient of {name}", {})]
        return []

    return test


def density_at_the_right_place(function, rng: np.random.Generator) -> list[Finding]:
    (x,) = one_array(rng)
    g = rng.normal(size=x.shape)
    below = 0.5 * (1 + erf(x / np.sqrt(2)))
    came = function(g.copy(), x.copy())
    for factor in (1 / np.sqrt(np.pi), 1 / np.sqrt(2 * np.pi)):
        if is_near(came, g * (below + x * factor * np.exp(-(x**2)))):
            return [Finding("argument_not_scaled", "erf' is taken at x, not at the argument that erf has in gelu",
                            {"factor": factor})]  # fmt: skip
    return []


CHECKS = (
    Property(function="gelu", title="gelu makes none of the usual slips", test=no_slip),
    Values(function="gelu", title="gelu has the right values", expected=gelu, inputs=one_array),
    Property(function="gelu_backward", title="gelu_backward is not that of the other form",
             test=of_its_own_form(gelu_tanh_backward, "gelu_tanh")),
    Property(function="gelu_backward", title="gelu_backward does not take erf' at x", test=density_at_the_right_place),
    Gradient(function="gelu_backward", title="gelu_backward is the gradient of gelu", forward=gelu, inputs=one_array),
    Property(function="gelu_tanh_backward", title="gelu_tanh_backward is not that of the other form",
             test=of_its_own_form(gelu_backward, "gelu")),
    Gradient(function="gelu_tanh_backward", title="gelu_tanh_backward is the gradient of gelu_tanh",
             forward=gelu_tanh, inputs=one_array),
)  # fmt: skip

HINTS = {
    "gelu:missing_factor": (
        "Phi is a probability, between 0 and 1. Is GELU?",
        "For large x, gelu(x) is nearly x. What is yours nearly?",
    ),
    "gelu:missing_term": (
        "For large x, gelu(x) is nearly x; for very negative x nearly 0. And yours?",
        "erf runs from -1 to 1. What is done to it, so that Phi runs from 0 to 1?",
    ),
    "gelu:constant_factor": (
        "For large x, gelu(x) is nearly x. What is yours nearly?",
        "Phi runs from 0 to 1. Look at the numbers in front of it.",
    ),
    "argument_not_scaled": (
        "At which number is erf taken in the definition of Phi? It is not x.",
        "Everything that has to do with erf happens at t = x / sqrt(2), its derivative too. Write t^2 in terms of x.",
    ),
    "approximate_form": (
        "Which of the two forms is asked for here?",
        "Your numbers are near, but they are those of gelu_tanh. The exact form goes through `erf`.",
    ),
    "gradient_of_the_other_form": (
        "Two functions that are near each other: of which one did you take the derivative?",
        "Begin with the formula of the function whose name stands in the name of the backward.",
    ),
    "missing_term": (
        "GELU is a product, and x is in both factors.",
        "Two terms: one where the first factor moves and the other waits, one the other way round. You have one of them.",
    ),
    "gelu_tanh_backward:missing_factor": (
        "Between tanh and x there is u. Does it leave a trace in your gradient?",
        "The chain rule takes two steps: from tanh to u, and from u to x. What is du/dx?",
    ),
    "missing_factor": (
        "A chain rule has one factor for every link of the chain. Count the links from Phi to x.",
        "erf depends on t, t on x. Which factor belongs to the second link?",
    ),
    "constant_factor": (
        "The shape of your gradient is right, a number is not. Which numbers belong to erf', which to the power of x?",
        "Collect the constants in front of the term that the report names, one by one, and multiply them on paper.",
    ),
    "cotangent_ignored": (
        "This is the derivative dz/dx. You are asked for dL/dx.",
        "The loss feels z with the strength g. Where does g come in?",
    ),
    "wrong_sign": (
        "Is Phi rising or falling?",
        "Phi rises everywhere, so the term with its derivative has the sign of x.",
    ),
    "mutated_input": (
        "g and x belong to the caller. Which line changes one of them?",
        "`*=` and the like write into the array itself. Make a new one.",
    ),
    "": (
        "Name the pieces (t, erf(t), Phi, or u, tanh(u)), differentiate each by the one before, and put them together.",
        "Compare at a few numbers by hand: at 0 the slope is 1/2, far to the right 1, far to the left 0.",
    ),
}

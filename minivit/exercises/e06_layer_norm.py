"""Layer normalization

Where we are: "Transformer Encoder". The "Norm" before the attention and before the MLP of every block is layer
normalization. x has one token per row, N x D, and every token is normalized by itself, over its own D features:

    mean = average of the D features,   variance = average of (x - mean)^2           (one number each per token)
    n    = (x - mean) / sqrt(variance + eps)
    y    = weight * n + bias                                                         (weight, bias: D numbers each)

The averages divide by D. eps keeps a token whose features are all equal from a division by zero. weight and bias are
learned, and the same for all tokens.

1. `layer_norm(x, weight, bias, eps)` returns y, of the shape of x.

2. `layer_norm_backward(g, x, weight, bias, eps)` returns dL/dx, dL/dweight and dL/dbias, each of the shape of its input,
   where g = dL/dy. Recompute from x what you need.

   weight and bias are broadcast over the tokens. For x go back in steps: first from y to n, then from n to x. There x
   appears three times in n: where you see it, in the mean and in the variance. Changes along all paths add up.

A thought to test: y stays the same if a number is added to all features of a token (why?). So what must the sum of
dL/dx over the features of a token be? And if the token is multiplied by 2, with eps = 0?
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property, Values, numerical_gradient


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """The rows of x (N, D) normalized, times weight (D,), plus bias (D,)."""
    ### BEGIN SOLUTION
    centered = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centered**2, axis=-1, keepdims=True)
    n = centered / np.sqrt(variance + eps)
    return weight * n + bias
    ### END SOLUTION


def layer_norm_backward(
    g: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dL/dx, dL/dweight, dL/dbias) of layer_norm(x, weight, bias, eps), where g (N, D) is dL/dy."""
    ### BEGIN SOLUTION
    centered = x - x.mean(axis=-1, keepdims=True)
    sigma = np.sqrt(np.mean(centered**2, axis=-1, keepdims=True) + eps)
    n = centered / sigma
    h = g * weight  # dL/dn
    gx = (h - h.mean(axis=-1, keepdims=True) - n * np.mean(h * n, axis=-1, keepdims=True)) / sigma
    return gx, np.sum(g * n, axis=0), np.sum(g, axis=0)
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """The backward of a normalization: statistics are functions of the input, and their paths count. Parameters that
are broadcast over the tokens collect a sum over them."""

BIG_EPS = 0.3  # so that a wrong place of eps shows


def draw(rng: np.random.Generator) -> list[np.ndarray]:
    return [1 + 1.5 * rng.normal(size=(3, 5)), rng.normal(size=5), rng.normal(size=5)]


def draw_with_eps(rng: np.random.Generator) -> list:
    return [*draw(rng), BIG_EPS]


def g_and_draw_with_eps(rng: np.random.Generator) -> list:
    return [rng.normal(size=(3, 5)), *draw_with_eps(rng)]


def draw_with_equal_features(rng: np.random.Generator) -> list:
    x, weight, bias = draw(rng)
    x[1] = x[1, 0]
    return [x, weight, bias, 1e-5]


def near(came, expected: np.ndarray) -> bool:
    return np.shape(came) == expected.shape and np.allclose(came, expected, rtol=0, atol=1e-4 * np.max(np.abs(expected)))


def otherwise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, inside: float = BIG_EPS, outside: float = 0.0,
              axis: int | None = -1, ddof: int = 0, power: float = 0.5) -> np.ndarray:  # fmt: skip
    """Layer norm with something changed."""
    centered = x - x.mean(axis=axis, keepdims=True)
    return weight * centered / ((x.var(axis=axis, ddof=ddof, keepdims=True) + inside) ** power + outside) + bias


def gradient_otherwise(g: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, change: dict) -> np.ndarray:
    return numerical_gradient(lambda v: otherwise(v, weight, bias, **change), x, g).value


SLIPS = (
    ("eps_forgotten", {"inside": 0}, "is what comes out for eps = 0: eps has no part in it"),
    ("eps_outside_root", {"inside": 0, "outside": BIG_EPS}, "is what comes out if eps is added outside the root"),
    ("unbiased_variance", {"ddof": 1}, "is what comes out if the variance is divided by D - 1 instead of D"),
    ("wrong_axis", {"axis": 0}, "is what comes out if every feature is normalized over the tokens"),
    ("wrong_axis", {"axis": None}, "is what comes out if all tokens are normalized together"),
    ("root_forgotten", {"power": 1}, "is what comes out if x - mean is divided by the variance instead of its root"),
)


def no_slip(function, rng: np.random.Generator) -> list[Finding]:
    x, weight, bias = draw(rng)
    came = function(x.copy(), weight.copy(), bias.copy(), BIG_EPS)
    if near(came, layer_norm(x, weight, bias, BIG_EPS)):
        return []
    return [Finding(code, f"the result {text}", change) for code, change, text in SLIPS
            if near(came, otherwise(x, weight, bias, **change))]  # fmt: skip


def no_slip_backwards(function, rng: np.random.Generator) -> list[Finding]:
    x, weight, bias = draw(rng)
    g = rng.normal(size=x.shape)
    came = function(g.copy(), x.copy(), weight.copy(), bias.copy(), BIG_EPS)
    if isinstance(came, tuple | list) and len(came) == 3:
        for code, change, text in SLIPS:
            if near(came[0], gradient_otherwise(g, x, weight, bias, change)):
                return [Finding(code, f"for eps = {BIG_EPS} the gradient of x is that of another function, which {text}",
                                change)]  # fmt: skip
        for other, text in ((x, "x"), (x - x.mean(axis=-1, keepdims=True), "x - mean")):
            if near(came[1], np.sum(g * other, axis=0)):
                return [Finding("not_normalized", f"the gradient of weight is what comes out if weight is multiplied by {text}",
                                {"used": text})]  # fmt: skip
    return []


CHECKS = (
    Property(function="layer_norm", title="layer_norm makes none of the usual slips", test=no_slip),
    Values(function="layer_norm", title="layer_norm has the right values", expected=layer_norm, inputs=draw_with_eps),
    Values(function="layer_norm", title="layer_norm bears a token of equal features",
           expected=layer_norm, inputs=draw_with_equal_features),
    Property(function="layer_norm_backward", title="layer_norm_backward makes none of the usual slips",
             test=no_slip_backwards),
    Gradient(function="layer_norm_backward", title="layer_norm_backward is the gradient of layer_norm",
             forward=layer_norm, inputs=draw),
    Values(function="layer_norm_backward", title="layer_norm_backward with another eps", expected=layer_norm_backward,
           inputs=g_and_draw_with_eps),
)  # fmt: skip

HINTS = {
    "layer_norm:eps_forgotten": (
        "What happens to a token whose features are all equal?",
        "Search your function for eps: it is an argument, and the result must depend on it.",
    ),
    "layer_norm_backward:eps_forgotten": (
        "Forward and backward must speak of the same function, down to the eps.",
        "Compare the number that you divide by with the one of the forward.",
    ),
    "eps_outside_root": (
        "Read the formula for n again: what exactly stands under the root?",
        "The standard deviation of NumPy has taken its root already, before you can add anything.",
    ),
    "unbiased_variance": (
        "How many features are averaged for the variance, and by what do you divide?",
        "Statistics estimates a population from a sample and divides by D - 1. Here nothing is estimated.",
    ),
    "wrong_axis": (
        "A token is a row. Along which axis do its own features lie?",
        "What you do mixes tokens: change one token and look whether the others' results move. They must not.",
    ),
    "root_forgotten": (
        "Multiply all features by 10: by what does your result change, and by what should it?",
        "n has variance 1. Compute the variance of yours; which power of the variance do you divide by?",
    ),
    "layer_norm:missing_term": (
        "The difference is the same for every token. What is added to every token alike?",
        "Compare your result with the last of the three formulas, symbol by symbol.",
    ),
    "missing_term": (
        "Which path from x, weight or bias to y have you not walked back?",
        "Draw the graph of the three formulas with all arrows, and tick off one term for each.",
    ),
    "layer_norm_term": (
        "If one feature of a token grows, what else in the formula for n moves with it?",
        "The mean and the variance are no constants. Each is an average over all D features, so each sends something back "
        "to all of them; write these paths one by one and add them.",
    ),
    "not_normalized": (
        "y = weight * n + bias. What is dy/dweight for one element?",
        "The weight multiplies something that has mean 0 and variance 1. What did you multiply g by?",
    ),
    "missing_broadcast_sum": (
        "How often is weight[0] used in one call? And bias[0]?",
        "Once per token. What comes back from all these uses belongs to one number.",
    ),
    "mean_vs_sum": (
        "Ask of every average in your backward whether it should be a sum, and of every sum whether an average.",
        "The mean gives each feature a share of 1/D, so does the variance. But weight and bias are used by every token "
        "in full.",
    ),
    "missing_factor": (
        "Walk from y back to x, operation by operation. Is there one that leaves no trace in your gradient?",
        "Two factors stand before the centered x: the weight, and one over the root. Both scale what comes back.",
    ),
    "swapped_inputs": (
        "Which gradient belongs to which parameter?",
        "Return them in the order of the arguments. The one that is only added needs nothing but g.",
    ),
    "wrong_sign": (
        "If the mean grows, does n grow or shrink? And if the variance grows?",
        "x - mean: the path through the mean carries a minus, and so does the one through a divisor.",
    ),
    "mutated_input": (
        "g, x and the parameters belong to the caller. Which line changes one of them?",
        "`*=`, `-=` and the like write into the array itself. Make a new one.",
    ),
    "not_finite": (
        "A token with equal features has variance 0.",
        "What keeps the divisor from being 0 in the formula for n?",
    ),
    "wrong_shape": (
        "Every gradient has the shape of its input, every result that of x.",
        "Print the shapes of mean and variance. keepdims=True leaves an axis of length 1, so that they line up with x.",
    ),
    "": (
        "Do it for a single token first, on paper, from n back to x.",
        "Check your gradient with the thought at the end of the statement: what is its sum over a token's features?",
    ),
}  # fmt: skip

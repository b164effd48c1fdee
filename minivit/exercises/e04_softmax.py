"""The softmax: stable forwards, coupled backwards

Where we are: Attention(Q, K, V) = softmax(Q K^T / sqrt(D)) V. Each row of Q K^T holds the scores of one patch against all
patches; the softmax makes weights of them, positive and of sum one. It stands at the end of the network as well, where
it turns the scores of the classes into probabilities. Along the last axis, always:

    p_i = exp(x_i) / sum over j of exp(x_j)

Forwards there is one danger. exp(710) is infinite in float64 (in float32 exp(89) already), and infinity by infinity is
NaN; if all scores are below -750, it is 0 / 0. What helps: the softmax does not change when a constant c is added to all
scores of a row, since exp(c) cancels. So you are free to choose c for each row such that nothing overflows and at least
one term of the sum is not small.

1. `softmax(x)` for x of shape (..., K), right for every finite x, and without changing x.

Backwards every p_i depends on every x_j of its row, because of the sum below the line:

    dp_i/dx_j = p_i (1 - p_i)  if i = j,      - p_i p_j  otherwise

2. `softmax_backward(g, x)`: put this into dL/dx_j = sum over i of g_i dp_i/dx_j, and take p_j out of the sum. What is
   left needs no matrix of derivatives: two lines, for a batch of any shape. You may call your `softmax`.

A thought to test: all p of a row sum to one whatever x is. So if g is the same for a whole row, what must come out? And
what is the sum of dL/dx over a row, if a shift of the whole row changes nothing?
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property, Values


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) / sum of exp(x) along the last axis, without overflow."""
    ### BEGIN SOLUTION
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
    ### END SOLUTION


def softmax_backward(g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dL/dx of softmax(x), where g is dL/dp."""
    ### BEGIN SOLUTION
    p = softmax(x)
    return p * (g - np.sum(g * p, axis=-1, keepdims=True))
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """Shift invariance as a tool for stable numerics. A Jacobian with rank-one part is applied without being built,
and every output of a normalization depends on every input."""


def true_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def scores(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 5))]


def heads(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(2, 3, 4))]


def g_and_large_scores(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 5)), *large_scores(rng)]


def large_scores(rng: np.random.Generator) -> list[np.ndarray]:
    return [1000 + 3 * rng.normal(size=(3, 5))]


def small_scores(rng: np.random.Generator) -> list[np.ndarray]:
    return [-1000 + 3 * rng.normal(size=(3, 5))]


def rows_sum_to_one(softmax, rng: np.random.Generator) -> list[Finding]:
    for x in (rng.normal(size=(3, 5)), *heads(rng)):
        p = softmax(x.copy())
        if p.shape != x.shape or not np.isfinite(p).all() or np.allclose(p.sum(axis=-1), 1, rtol=1e-12, atol=0):
            continue
        for axis in range(x.ndim - 1):
            if np.allclose(p.sum(axis=axis), 1):
                return [Finding("wrong_axis", f"for x of shape {x.shape} what sums to one runs along axis {axis}, not along "
                                "the last", {"axis": axis})]  # fmt: skip
        if np.isclose(p.sum(), 1):
            return [Finding("wrong_axis", "all numbers of x together sum to one, not each row", {"axis": None})]
        return [Finding("not_normalized", f"the rows sum to {p.sum(axis=-1).ravel()}, not to one", {"sums": p.sum(axis=-1)})]
    return []


def each_row_by_itself(softmax, rng: np.random.Generator) -> list[Finding]:
    x = rng.normal(size=(3, 5)) + np.array([[0], [-2000], [2000]])
    p = softmax(x)
    lost = np.flatnonzero(~np.isclose(p.sum(axis=-1), 1))
    return [Finding("one_shift_for_all", f"with rows around 0, -2000 and 2000, row {lost[0]} comes out as {p[lost[0]]}; with "
                    "each row alone all is well", {"rows": lost})] if len(lost) else []  # fmt: skip


def shift_invariant(softmax, rng: np.random.Generator) -> list[Finding]:
    x = rng.normal(size=(3, 5))
    p = softmax(x)
    q = softmax(x - 50)
    if p.shape == q.shape and np.allclose(p, q, rtol=1e-9, atol=0):
        return []
    return [Finding("not_shift_invariant", "softmax(x - 50) is another than softmax(x): by up to "
                    f"{np.max(np.abs(p - q)):.3g}", {})]  # fmt: skip


def sums_along_the_row(softmax_backward, rng: np.random.Generator) -> list[Finding]:
    (x,) = scores(rng)
    g, p = rng.normal(size=x.shape), true_softmax(x)
    gx = softmax_backward(g.copy(), x.copy())
    for axis, over in ((0, "axis 0"), (None, "the whole array")):
        if gx.shape == x.shape and np.allclose(gx, p * (g - np.sum(g * p, axis=axis, keepdims=True))):
            return [Finding("summed_over_other_axes", f"the sum of g p runs over {over}; the softmax is taken along the last "
                            "axis", {"axis": axis})]  # fmt: skip
    return []


CHECKS = (
    Property(function="softmax", title="each row of softmax(x) sums to one", test=rows_sum_to_one),
    Values(function="softmax", title="softmax has the right values", expected=true_softmax, inputs=scores),
    Property(function="softmax", title="softmax(x - 50) is softmax(x)", test=shift_invariant),
    Values(function="softmax", title="softmax of scores around 1000", expected=true_softmax, inputs=large_scores),
    Values(function="softmax", title="softmax of scores around -1000", expected=true_softmax, inputs=small_scores),
    Property(function="softmax", title="softmax of rows that are far apart", test=each_row_by_itself),
    Property(function="softmax_backward", title="softmax_backward treats each row by itself", test=sums_along_the_row),
    Gradient(function="softmax_backward", title="softmax_backward is the gradient of the softmax",
             forward="softmax", inputs=scores),
    Gradient(function="softmax_backward", title="softmax_backward, with more axes in front",
             forward="softmax", inputs=heads),
    Values(function="softmax_backward", title="softmax_backward of scores around 1000", expected=softmax_backward,
           inputs=g_and_large_scores),
)  # fmt: skip

HINTS = {
    "wrong_axis": (
        "Which numbers belong together: the scores of one patch against all others, or all numbers?",
        "Both the shift and the sum go along the last axis; every row stands for itself.",
    ),
    "not_normalized": (
        "What do you divide by, and does it belong to the same exponentials that stand above the line?",
        "Whatever you subtract from x above the line must be subtracted below the line, too; and nothing else may be added.",
    ),
    "not_shift_invariant": (
        "Exponentials can be very small and yet matter: only their ratios count.",
        "Where does your code change the exponentials, or their sum, by something that does not cancel?",
    ),
    "softmax:not_finite": (
        "How large may x be before exp(x) is infinite? And what is 0 / 0?",
        "Use the freedom to add a constant to a row: which constant makes the largest exponential exactly 1?",
    ),
    "one_shift_for_all": (
        "Your shift is right for one row. And for a row that lies far below it?",
        "The constant may differ from row to row, and has to. Over which axis do you take the maximum?",
    ),
    "mutated_input": (
        "`-=` changes the scores of the caller.",
        "Make a new array of the difference.",
    ),
    "softmax_off_diagonal": (
        "What happens to p_2 when only x_1 grows?",
        "You have the case i = j. The sum below the line makes every output depend on every input; add the terms with i "
        "different from j.",
    ),
    "softmax_backward:missing_factor": (
        "There is a p for every factor of the derivative p_i p_j. Are all of them there?",
        "Write the sum over i of g_i dp_i/dx_j with both cases put in, and see what is under the sum, and what is in front.",
    ),
    "softmax_backward:not_finite": (
        "Which softmax does your backward use, and how large may its scores be?",
        "Call your `softmax`, which bears any scores, instead of taking exponentials once more.",
    ),
    "softmax_backward:missing_term": (
        "dp_i/dx_i has two terms, and dp_i/dx_j one. Which of them has left no trace in your gradient?",
        "Put both cases into the sum over i of g_i dp_i/dx_j: p_j g_j from i = j alone, and something from every i.",
    ),
    "mean_vs_sum": (
        "Is there a mean in dL/dx_j = sum over i of g_i dp_i/dx_j?",
        "Every output of the row adds its part; nothing is averaged.",
    ),
    "wrong_sign": (
        "Let x_1 grow: does p_1 grow or fall?",
        "Compare the signs of your two terms with those of dp_i/dx_j in the statement.",
    ),
    "cotangent_ignored": (
        "Where does the loss come in?",
        "You return dp_i/dx_i. Each derivative is to be weighted by the g_i of the output it belongs to, and summed over i.",
    ),
    "zero_gradient": (
        "If g is constant along a row, the gradient is zero. What plays the role of g in your formula?",
        "The sum of all derivatives of a row vanishes. Weight them by g first.",
    ),
    "summed_over_other_axes": (
        "Do the rows of x know of each other?",
        "Every row has a softmax of its own, so the sum runs along the last axis alone. Which axes does yours run over?",
    ),
    "wrong_shape": (
        "Which shape has the sum along the last axis, and which does it need beside x?",
        "A sum along an axis removes it. To go on with arrays of the shape of x, the axis has to stay, with length 1.",
    ),
    "": (
        "Take a row of two scores, p = (0.7, 0.3), and write out dL/dx_1 with both terms.",
        "Check the two facts of the last paragraph on your result; the one that fails tells which term is wrong.",
    ),
}

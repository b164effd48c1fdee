"""Cross-entropy: from scores to the loss

Where we are: the loss of the lecture, whose gradient by the parameters trains the classifier and whose gradient by the
image attacks it. The network gives each image n a row of K scores x_n, the logits; its class is the integer y_n. The
loss is the mean over the B images of minus the logarithm of the probability of the right class:

    L = - (1/B) sum over n of log p_n[y_n],        p_n = softmax(x_n)

Do not take the logarithm of a softmax: where a probability is below 1e-324 it is 0 in the computer, and its logarithm is
minus infinity. Take the logarithm on paper, where it meets the exponential, and shift by the maximum m of the row:

    log p_i = x_i - m - log sum over j of exp(x_j - m)

1. `log_softmax(x)` along the last axis, right for every finite x.

2. `log_softmax_backward(g, x)`. Differentiate log p_i = x_i - log sum over j of exp(x_j); the derivative of the last term
   by x_j is something you know. Then dL/dx_j = sum over i of g_i d(log p_i)/dx_j. One line; mind that all outputs of a
   row depend on all its inputs.

3. `cross_entropy(x, labels)` for x of shape (B, K) and B integers from 0 to K - 1. Pick one number of each row.

4. `cross_entropy_backward(g, x, labels)`: dL/dx, of shape (B, K), where g is a number, the derivative of the loss by what
   it is used for later (1 if it is the last step, but it need not be). Put your gradient of 2. together with the choice
   of the labels, and simplify: it is the reason for which classifiers use this loss, and one line is enough.

A thought to test: with all scores equal, what is the loss for K classes? And which scores does a step against the
gradient raise, which does it lower, and by how much in all?
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property, Values


def log_softmax(x: np.ndarray) -> np.ndarray:
    """log(softmax(x)) along the last axis, finite for every finite x."""
    ### BEGIN SOLUTION
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    ### END SOLUTION


def log_softmax_backward(g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dL/dx of log_softmax(x), where g is the derivative of the loss by log p."""
    ### BEGIN SOLUTION
    return g - np.exp(log_softmax(x)) * g.sum(axis=-1, keepdims=True)
    ### END SOLUTION


def cross_entropy(x: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the batch of -log softmax(x)[label]: x (B, K), labels (B,)."""
    ### BEGIN SOLUTION
    return -np.mean(log_softmax(x)[np.arange(len(labels)), labels])
    ### END SOLUTION


def cross_entropy_backward(g: np.ndarray, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """dL/dx of cross_entropy(x, labels), of shape (B, K); g is a number."""
    ### BEGIN SOLUTION
    return g * (np.exp(log_softmax(x)) - np.eye(x.shape[1])[labels]) / len(labels)
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """A logarithm taken on paper instead of in the computer. Softmax and cross-entropy belong together: what comes
back is the probabilities minus the truth, divided by the size of the batch."""


def true_log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def logits(rng: np.random.Generator) -> list[np.ndarray]:
    return [1 + rng.normal(size=(3, 5))]


def logits_and_labels(rng: np.random.Generator) -> list[np.ndarray]:
    first = rng.integers(5)
    return [1 + rng.normal(size=(4, 5)), np.array([first, (first + 2) % 5, first, (first + 3) % 5])]


def large_logits(rng: np.random.Generator) -> list[np.ndarray]:
    return [1000 * rng.normal(size=(3, 5)) + np.array([[3000], [0], [-3000]])]


def g_and_large_logits(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 5)), *large_logits(rng)]


def large_logits_and_labels(rng: np.random.Generator) -> list[np.ndarray]:
    return [*large_logits(rng), rng.integers(5, size=3)]


def g_large_logits_and_labels(rng: np.random.Generator) -> list[np.ndarray]:
    return [np.array(1.3), *large_logits_and_labels(rng)]


def cross_entropy_of(x: np.ndarray, labels: np.ndarray) -> float:
    return -float(np.mean(true_log_softmax(x)[np.arange(len(labels)), labels]))


def has_its_own_rule(log_softmax_backward, rng: np.random.Generator) -> list[Finding]:
    (x,) = logits(rng)
    g, p = rng.normal(size=x.shape), np.exp(true_log_softmax(x))
    gx = log_softmax_backward(g.copy(), x.copy())
    if gx.shape == x.shape and np.allclose(gx, p * (g - np.sum(g * p, axis=-1, keepdims=True))):
        return [Finding("rule_of_the_softmax", "this is the gradient of softmax(x), not of its logarithm", {})]
    return []


def one_number_per_row(cross_entropy, rng: np.random.Generator) -> list[Finding]:
    x, labels = logits_and_labels(rng)
    loss = np.asarray(cross_entropy(x.copy(), labels.copy()))
    log_p = true_log_softmax(x)
    right_class = log_p[np.arange(len(labels)), labels]
    expected = -right_class.mean()
    if loss.shape == right_class.shape and np.allclose(loss, -right_class):
        return [Finding("no_mean", f"the loss has shape {loss.shape}, one number per image; it is to be their mean",
                        {"came": loss.shape})]  # fmt: skip
    if loss.size != 1:
        return [Finding("wrong_shape", f"the loss has shape {loss.shape}; it is to be one number", {"came": loss.shape})]
    came = float(loss.item())
    if np.isclose(came, expected, rtol=1e-9):
        return []
    for code, value, text in (
        ("wrong_sign", -expected, "minus the loss"),
        ("mean_vs_sum", -right_class.sum(), f"the sum over the {len(labels)} images, not the mean"),
        ("mean_vs_sum", -right_class.sum() / x.size, f"the sum over {x.size}, all scores, not over {len(labels)}, the images"),
        ("picked_a_block", -log_p[:, labels].mean(), "the mean over a block of rows and columns: every label in every row"),
        ("no_logarithm", -np.exp(right_class).mean(), "minus the mean of the probabilities; the logarithm is missing"),
        ("not_normalized", -x[np.arange(len(labels)), labels].mean(), "what comes out for the scores themselves"),
    ):
        if np.isclose(came, value, rtol=1e-9):
            return [Finding(code, f"the result is {text}: {came:.6g}, expected {expected:.6g}", {"factor": came / expected})]
    return [Finding("unexplained", f"the loss is {came:.6g}, expected {expected:.6g}", {})]


def bears_large_scores(cross_entropy, rng: np.random.Generator) -> list[Finding]:
    x, labels = large_logits_and_labels(rng)
    came, expected = float(np.asarray(cross_entropy(x.copy(), labels.copy())).item()), cross_entropy_of(x, labels)
    if np.isclose(came, expected, rtol=1e-9):
        return []
    return [Finding("not_finite" if not np.isfinite(came) else "unexplained", f"for scores of some thousands the loss is "
                    f"{came:.6g}, expected {expected:.6g}", {"came": came, "expected": expected})]  # fmt: skip


def one_label_per_row(cross_entropy_backward, rng: np.random.Generator) -> list[Finding]:
    x, labels = logits_and_labels(rng)
    gx = cross_entropy_backward(np.array(1.0), x.copy(), labels.copy())
    everywhere = np.isin(np.arange(x.shape[1]), labels)
    if gx.shape == x.shape and np.allclose(gx, (np.exp(true_log_softmax(x)) - everywhere) / len(labels)):
        return [Finding("labels_in_every_row", "in every row one is subtracted at the labels of all rows", {"labels": labels})]
    return []


CHECKS = (
    Values(function="log_softmax", title="log_softmax has the right values", expected=true_log_softmax, inputs=logits),
    Values(function="log_softmax", title="log_softmax of large scores", expected=true_log_softmax, inputs=large_logits),
    Property(function="log_softmax_backward", title="log_softmax_backward has a rule of its own", test=has_its_own_rule),
    Gradient(function="log_softmax_backward", title="log_softmax_backward is its gradient",
             forward="log_softmax", inputs=logits),
    Values(function="log_softmax_backward", title="log_softmax_backward of large scores", expected=log_softmax_backward,
           inputs=g_and_large_logits),
    Property(function="cross_entropy", title="cross_entropy is the mean of one number per image", test=one_number_per_row),
    Property(function="cross_entropy", title="cross_entropy of large scores", test=bears_large_scores),
    Property(function="cross_entropy_backward", title="cross_entropy_backward looks at one label per row",
             test=one_label_per_row),
    Gradient(function="cross_entropy_backward", title="cross_entropy_backward is its gradient",
             forward="cross_entropy", inputs=logits_and_labels),
    Values(function="cross_entropy_backward", title="cross_entropy_backward of large scores",
           expected=cross_entropy_backward, inputs=g_large_logits_and_labels),
)  # fmt: skip

HINTS = {
    "log_softmax:not_finite": (
        "Where is the largest exponential taken, and where a logarithm of something that may be zero?",
        "First shift by the maximum of the row, then simplify log(exp(x_i) / s) on paper until no logarithm of a tiny "
        "number is left.",
    ),
    "not_finite": (
        "Where does your code take an exponential of the scores as they are, or a logarithm of what may be zero?",
        "`log_softmax` bears any scores. Build on it, and take exponentials of its result only.",
    ),
    "log_softmax:missing_term": (
        "Your result is off by the same number along a row (or all of it). What is the same for a whole row?",
        "What is subtracted inside the exponential comes back outside the logarithm. Is it there once, and only once?",
    ),
    "log_softmax:wrong_shape": (
        "Which shape has the sum along the last axis, and which does it need beside x?",
        "The axis that is summed must stay, with length 1.",
    ),
    "softmax_off_diagonal": (
        "What happens to log p_2 when only x_1 grows?",
        "The sum under the logarithm has all x of the row in it. So each x collects from all g of the row.",
    ),
    "log_softmax_backward:missing_factor": (
        "How many of the g of a row have a part in dL/dx_j through the logarithm of the sum?",
        "Differentiate log p_i by x_j for i = j and for i different from j. Weight by g_i and sum over i: what is left of the "
        "g in the second term?",
    ),
    "log_softmax_backward:missing_term": (
        "log p_i is a difference. Has each of its two terms left something in your gradient?",
        "The second term, the logarithm of the sum, changes with every x_j too, and it stands in every output of the row.",
    ),
    "wrong_sign": (
        "A loss is small when all is well. Is yours, and does a step against the gradient raise the right score?",
        "log p is negative, the loss is positive. Follow the minus sign from the definition to the end.",
    ),
    "mean_vs_sum": (
        "What is the mean taken over, and how many are there?",
        "The loss is divided by the number of images: not by the number of scores, and not by nothing. So is its gradient.",
    ),
    "cross_entropy_backward:mean_vs_sum": (
        "Through which factor does every image enter the mean? Is it in all of your gradient?",
        "Try two classes with equal scores and a batch of two: what must each row of the gradient sum to, and what is its "
        "first element?",
    ),
    "no_mean": (
        "The loss of a batch is a single number.",
        "You have the loss of each image. What is said about the images in the definition of L?",
    ),
    "picked_a_block": (
        "What is the shape of what you have picked by the labels? You want B numbers.",
        "A colon takes all rows for each label. To take label n in row n, both indices have to be arrays of length B.",
    ),
    "no_logarithm": (
        "Where is the logarithm of the definition?",
        "You have written `log_softmax` for this.",
    ),
    "not_normalized": (
        "The scores themselves are not log-probabilities.",
        "Which function of yours makes log-probabilities of scores?",
    ),
    "log_softmax_backward:cotangent_ignored": (
        "One of your terms knows g and one does not.",
        "The logarithm of the sum stands in every output of the row. What is it weighted by, when all of them are summed up?",
    ),
    "rule_of_the_softmax": (
        "You have differentiated p, and the function is log p.",
        "Start from log p_i = x_i - log sum over j of exp(x_j), which is simpler than what comes before the logarithm.",
    ),
    "cotangent_ignored": (
        "Your gradient is right if the loss is the last step. And if the loss is multiplied by 3 later?",
        "g is the derivative by the loss. The chain rule wants it in every rule, this one too.",
    ),
    "cross_entropy_backward:missing_term": (
        "L is a difference: the logarithm of a sum, minus the score of the right class. Has each left something?",
        "One part of the gradient is the same whatever the label, the other is there for the label only.",
    ),
    "labels_in_every_row": (
        "In how many places of (B, K) do the labels leave something?",
        "With a colon for the rows, every label is subtracted in every row. Each row has one label.",
    ),
    "mutated_input": (
        "`-=` changes an array that belongs to someone else.",
        "Work on an array of your own.",
    ),
    "": (
        "Take one image with two scores, x = (0, 0) and label 0, and compute by hand.",
        "The rows of the gradient of log_softmax and of the loss sum to something simple, since a shift of a row changes "
        "nothing. Do yours?",
    ),
}

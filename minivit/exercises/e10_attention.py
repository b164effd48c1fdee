"""Scaled dot-product attention, forward and backward

Where we are: inside the Transformer encoder, at the lecture's

    Attention(Q, K, V) = softmax(Q Kᵀ / √D) V

Tokens are rows. N queries, q of shape (N, d), ask M keys, k of shape (M, d); every key carries a value, a row of v of
shape (M, d). In self-attention N = M; here they may differ. In three steps:

    1.  s = q kᵀ / √d                                (N, M)   how well query n fits key m
    2.  p = softmax of s, for each query over keys   (N, M)   how much query n looks at key m
    3.  z = p v                                      (N, d)   averages of the values, with these weights

d is the width of what is multiplied here: D with a single head, D / h with h of them. Why divide? The dot product of two
vectors with independent entries of mean 0 and variance 1 has variance d. Large scores push the softmax towards 0 and 1, and
there its derivative p_i ([i = j] - p_j) is almost 0: hardly any gradient passes.

1. `attention(q, k, v)`: the three steps. `softmax(x, axis)` is given.

2. `attention_backward(g, q, k, v)`, g = dL/dz: return (dL/dq, dL/dk, dL/dv). Compute s and p again, then walk the
   steps backwards. Step 3 is a product of matrices, so it hands back two gradients, dL/dp and dL/dv. Step 2 turns dL/dp
   into dL/ds: every weight of a row depends on all scores of that row. Step 1 is a product of matrices again.

3. Both for h heads at once: q (h, N, d), k and v (h, M, d), the result (h, N, d), no loop over heads. Each head attends
   by itself. `@` multiplies the last two axes and leaves those before them alone; which of your lines do not?

Do not change g, q, k or v in place.

A thought to test: a constant added to all scores of one query changes nothing (why?). So what must each row of dL/ds sum
to? And what must attention return if every value is 1?
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property, Values


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """z of shape (N, d), or (h, N, d): averages of the rows of v."""
    ### BEGIN SOLUTION
    s = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])  # (h, N, d) @ (h, d, M) -> (h, N, M)
    return softmax(s, axis=-1) @ v  # (h, N, M) @ (h, M, d) -> (h, N, d)
    ### END SOLUTION


def attention_backward(
    g: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dL/dq, dL/dk, dL/dv) of attention(q, k, v), where g is dL/dz."""
    ### BEGIN SOLUTION
    scale = 1 / np.sqrt(q.shape[-1])
    p = softmax(q @ k.swapaxes(-1, -2) * scale, axis=-1)
    # 3. z = p v
    gp = g @ v.swapaxes(-1, -2)  # (h, N, d) @ (h, d, M) -> (h, N, M)
    gv = p.swapaxes(-1, -2) @ g  # (h, M, N) @ (h, N, d) -> (h, M, d)
    # 2. p = softmax(s)
    gs = p * (gp - np.sum(gp * p, axis=-1, keepdims=True))
    # 1. s = q kᵀ / √d
    gq = gs @ k * scale  # (h, N, M) @ (h, M, d) -> (h, N, d)
    gk = gs.swapaxes(-1, -2) @ q * scale  # (h, M, N) @ (h, N, d) -> (h, M, d)
    return gq, gk, gv
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """To walk a forward pass of several steps backwards, with the rules known from the product of matrices and the
softmax. Why scores are scaled, and by the width of a head. Axes counted from the end serve any number of heads."""


def one_head(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 5)), rng.normal(size=(4, 5)), rng.normal(size=(4, 5))]


def heads(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 4, 5))]


def few_heads(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(2, 3, 2)), rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 4, 2))]


def averages(draw):
    """Where every value is 1, so is their average."""

    def test(function, rng):
        q, k, v = draw(rng)
        z = function(q.copy(), k.copy(), np.ones_like(v))
        if np.shape(z) != q.shape or np.allclose(z, 1):  # of the shape Values speaks
            return []
        if np.allclose(z, np.mean(z)):
            return [Finding("scaled_after_softmax", f"where every value is 1, the result is {np.mean(z):.4g} everywhere: the "
                            "weights of each query add up to that, not to 1", {"sum": float(np.mean(z))})]  # fmt: skip
        return [Finding("not_an_average", f"where every value is 1, the result lies between {np.min(z):.4g} and "
                        f"{np.max(z):.4g}: the weights with which a query looks at the keys do not add up to 1",
                        {"min": float(np.min(z)), "max": float(np.max(z))})]  # fmt: skip

    return test


def scaled(draw):
    """Does another divisor than √d explain the result?"""

    def test(function, rng):
        q, k, v = draw(rng)
        z = function(q.copy(), k.copy(), v.copy())
        h, n, m, d = int(np.prod(q.shape[:-2])), q.shape[-2], k.shape[-2], q.shape[-1]
        divisors = {"1 (they are not scaled)": 1, "d": d, "1/√d (they are multiplied by √d)": d**-0.5,
                    "√(h d), the width of all heads together": (h * d) ** 0.5, "√h": h**0.5,
                    "√N, the number of queries": n**0.5, "√M, the number of keys": m**0.5}  # fmt: skip
        s = q @ k.swapaxes(-1, -2)
        for text, c in divisors.items():
            if not np.isclose(c, d**0.5) and np.shape(z) == q.shape and np.allclose(z, softmax(s / c, axis=-1) @ v, rtol=1e-9):
                return [Finding("wrong_scale", f"the result is what comes out if the scores are divided by {text}", {"by": c})]
        return []

    return test


def walked_back(draw):
    """Two mistakes that leave no simple mark on the numbers: they are made here, and compared."""

    def test(function, rng):
        q, k, v = draw(rng)
        g = rng.normal(size=q.shape)
        gradients = function(g.copy(), q.copy(), k.copy(), v.copy())
        gq = gradients[0] if isinstance(gradients, tuple | list) and gradients else gradients
        s, gp = q @ k.swapaxes(-1, -2), g @ v.swapaxes(-1, -2)
        c = np.sqrt(q.shape[-1])
        for code, text, p, axis in (
            ("wrong_axis", "the softmax's rule adds up over the queries", softmax(s / c, axis=-1), -2),
            ("another_forward", "its weights are those of scores that were not scaled", softmax(s, axis=-1), -1),
        ):
            came = (p * (gp - np.sum(gp * p, axis=axis, keepdims=True))) @ k / c
            if np.shape(gq) == q.shape and (np.allclose(gq, came, rtol=1e-9) or np.allclose(gq, c * came, rtol=1e-9)):
                return [Finding(code, f"dL/dq is what comes out if {text}", {})]
        return []

    return test


CHECKS = (
    Property(function="attention", title="the weights of each query add up to 1", test=averages(one_head)),
    Property(function="attention", title="the scores are scaled by their width", test=scaled(one_head)),
    Values(function="attention", title="attention has the right values", expected=attention, inputs=one_head),
    Property(function="attention_backward", title="the way back has the forward's weights and axis",
             test=walked_back(one_head)),
    Gradient(function="attention_backward", title="attention_backward is its gradient", forward=attention, inputs=one_head),
    Property(function="attention", title="with heads too, the weights of each query add up to 1", test=averages(heads)),
    Property(function="attention", title="each head is scaled by its own width", test=scaled(heads)),
    Values(function="attention", title="attention of several heads has the right values", expected=attention, inputs=heads),
    Property(function="attention_backward", title="the way back uses the same axis with heads", test=walked_back(heads)),
    Gradient(function="attention_backward", title="attention_backward is the gradient of several heads", forward=attention,
             inputs=few_heads),
)  # fmt: skip

HINTS = {
    "not_an_average": (
        "Take one query. Over which axis must its weights add up to 1?",
        "p[n, m] says how much query n looks at key m. The softmax runs over what the query chooses from. Does the axis you "
        "name still mean that when an axis of heads comes first?",
    ),
    "scaled_after_softmax": (
        "Which numbers are to be kept small, the scores or the weights?",
        "Scaling is step 1, before the softmax. Afterwards it comes too late: the softmax has saturated already, and the "
        "weights no longer add up to 1.",
    ),
    "wrong_scale": (
        "How many products are added up in one dot product of a query with a key? What is the variance of such a sum?",
        "A standard deviation is the root of a variance. Take the length of the axis over which q and k are multiplied, of one "
        "head only.",
    ),
    "softmax_off_diagonal": (
        "Raise one score of a row: which weights of that row change?",
        "All of them, since they add up to 1. Besides what a weight does to itself, dL/ds needs a term that is common to the "
        "row. Check: each row of dL/ds must sum to 0.",
    ),
    "wrong_axis": (
        "Over what does one row of weights add up to 1? The sum in the softmax's rule runs over the same.",
        "A query's weights depend on its own scores only. Which axis is that, counted from the end? Does your line still mean "
        "it when an axis of heads comes first?",
    ),
    "another_forward": (
        "Where do the weights in your backward come from? Are they the ones that the forward used?",
        "Compute s and p anew exactly as in the forward, every factor included.",
    ),
    "attention_backward:constant_factor": (
        "A constant by which the forward multiplies or divides, the backward must too. There is one in step 1.",
        "The factor is in the report: compare it with √d. Which of the gradients have s = q kᵀ / √d on their way?",
    ),
    "attention_backward:missing_factor": (
        "You walked over one of the steps without its rule.",
        "dL/dp is not dL/ds. What is the rule of the softmax?",
    ),
    "attention_backward:swapped_inputs": (
        "Each gradient is right. For which input?",
        "Return them in the order of the inputs: q, k, v.",
    ),
    "attention_backward:wrong_sign": (
        "There is one difference in this backward. Which way round is it?",
        "A score that is raised raises its own weight and lowers the others. Which of the two terms of the softmax's rule has "
        "the minus?",
    ),
    "attention_backward:missing_term": (
        "How many arrows lead from the result back to this input?",
        "Write down the three steps and tick, for each, what it hands back: steps 3 and 1 have two gradients each.",
    ),
    "attention_backward:zero_gradient": (
        "One of the inputs gets no gradient. Which step uses it?",
        "A product of matrices hands back a gradient for either factor.",
    ),
    "wrong_shape": (
        "Write the shapes beside the step: of the cotangent that comes, of the factors, of the gradient to be returned.",
        "If z = a b, then dL/da has the shape of a. There is only one way to multiply dL/dz with b, one of them transposed, so "
        "that it fits.",
    ),
    "wrong_count": (
        "The function has three inputs. How many gradients does it hand back?",
        "Return a tuple: dL/dq, dL/dk, dL/dv.",
    ),
    "mutated_input": (
        "`/=` and `-=` change an array that belongs to someone else.",
        "Make a new array: put the scale into the line of the scores, and leave q, k, v and g alone.",
    ),
    "attention_backward:": (
        "Which gradients are right already? dL/dv needs step 3 only; dL/dq and dL/dk need all three.",
        "Compute p exactly as the forward does. Then one step at a time: print the row sums of dL/ds, which must be 0, and "
        "with heads look at each line that names an axis.",
    ),
    "": (
        "Try it by hand with one query, two keys and d = 1.",
        "Print s, p and the result one after another, and compare their shapes with those in the statement.",
    ),
}

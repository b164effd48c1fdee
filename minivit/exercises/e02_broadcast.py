"""Broadcasting: one number used many times

Where we are: the input of the Vision Transformer, z0 = [p_class; p_1 E; ...; p_N E] + E_pos. In code z0 is a batch, with
axes (images, patches, features), and E_pos has the axes (patches, features) alone: NumPy broadcasts, every image gets
the same positions. So every number of E_pos enters the result once per image, and what reaches the loss along all these
ways adds up:

    z_bnd = x_bnd + e_nd,      dL/de_nd = sum over b of g_bnd        where  g = dL/dz

The rule of broadcasting: an array that was repeated along an axis in the forward pass is summed over that axis in the
backward pass, and its gradient has its own shape.

1. `positions_backward(g, x, e)` for z = x + e, with x of shape (B, N, D) and e of shape (N, D). Return two arrays.

2. `unbroadcast(g, shape)` for any shapes that NumPy broadcasts. An array of shape `shape` was broadcast to the shape of
   g; return its gradient. NumPy lines up the shapes at their last axes and repeats an array in two places: along axes
   that it has not, which come first, and along axes on which it has length 1.

       g (3, 4, 5),  shape (5,)       repeated along axes 0 and 1
       g (3, 4, 5),  shape (4, 1)     repeated along axes 0 and 2; the result has the shape (4, 1)
       g (3, 4, 5),  shape ()         repeated along all of them: a scalar

   `np.sum` takes a tuple of axes, and `keepdims=True` leaves the axes it has summed in place, with length 1.

3. `multiply_backward(g, x, y)` for z = x * y, where x and y may be broadcast, each or both.

Do not change g, x or y in place.

A thought to test: z = x + t with three numbers x and a single t. When t grows by 0.001, what does the sum of z gain?
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property


def positions(x: np.ndarray, e: np.ndarray) -> np.ndarray:
    return x + e


def positions_backward(g: np.ndarray, x: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dx, dL/de) of positions(x, e): of shapes (B, N, D) and (N, D)."""
    ### BEGIN SOLUTION
    return g, g.sum(axis=0)
    ### END SOLUTION


def unbroadcast(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """g summed to `shape`, over the axes along which an array of that shape was broadcast to the shape of g."""
    ### BEGIN SOLUTION
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(axis for axis, length in enumerate(shape) if length == 1)
    return g.sum(axis=stretched, keepdims=True)
    ### END SOLUTION


def multiply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * y


def multiply_backward(g: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dx, dL/dy) of multiply(x, y), each of the shape of its input."""
    ### BEGIN SOLUTION
    return unbroadcast(g * y, x.shape), unbroadcast(g * x, y.shape)
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """Repeating in the forward pass is summing in the backward pass. One function, unbroadcast, serves every
operation that broadcasts; a gradient has the shape of its input."""


def images_and_positions(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 2, 4)), rng.normal(size=(2, 4))]


def sums_to_shape(unbroadcast, rng: np.random.Generator) -> list[Finding]:
    cases = [((3, 4, 5), (4, 5), (0,)), ((3, 4, 5), (5,), (0, 1)), ((4, 5), (4, 1), (1,)), ((3, 4, 5), (1, 4, 1), (0, 2)),
             ((3, 4, 5), (4, 1), (0, 2)), ((4, 4), (4,), (0,)), ((3, 4), (3, 4), ()), ((3, 4), (), (0, 1))]  # fmt: skip
    for whole, shape, axes in cases:
        g = rng.normal(size=whole)
        given = g.copy()
        came = unbroadcast(given, shape)
        call = f"unbroadcast(g, {shape}) of g with shape {whole}"
        expected = g.sum(axis=axes).reshape(shape)
        size = 1e-9 * np.max(np.abs(expected))
        if not np.array_equal(given, g):
            return [Finding("mutated_input", f"{call} changed g in place; work on a copy", {"shape": shape})]
        if came.shape == shape and np.max(np.abs(came - expected)) <= size:
            continue
        evidence = {"g": whole, "shape": shape, "came": came.shape}
        if came.shape == expected.squeeze().shape and np.allclose(came, expected.squeeze()):
            return [Finding("lost_axis", f"{call} has the right numbers in the shape {came.shape}: axes of length 1 are lost",
                            evidence)]  # fmt: skip
        if came.shape != shape:
            code = "missing_broadcast_sum" if came.ndim >= len(shape) and came.size > expected.size else "wrong_shape"
            return [Finding(code, f"{call} has shape {came.shape}", evidence)]
        for other in range(g.ndim):
            if (other,) != axes and g.sum(axis=other).size == came.size and np.allclose(g.sum(axis=other).reshape(shape), came):
                return [Finding("summed_other_axes", f"{call} was summed over axis {other}; it was broadcast along axis "
                                f"{axes[0]}", evidence)]  # fmt: skip
        if np.allclose(came, g.mean(axis=axes).reshape(shape)):
            return [Finding("mean_vs_sum", f"{call} is the mean over the axes, not the sum", evidence)]
        if any(np.allclose(came.reshape(-1), np.take(g, k, axis=axes[0]).reshape(-1)) for k in (0, -1) if len(axes) == 1):
            return [Finding("missing_broadcast_sum", f"{call} has only one of the {g.shape[axes[0]]} entries along axis "
                            f"{axes[0]}", evidence)]  # fmt: skip
        return [Finding("unexplained", f"{call} has other numbers than the sum over axes {axes}", evidence)]
    return []


def one_factor_per_row(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(4, 5)), rng.normal(size=(4, 1))]


def a_single_factor(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 4)), rng.normal(size=())]


def both_broadcast(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(4, 1)), rng.normal(size=(3, 1, 5))]


def products_are_summed(multiply_backward, rng: np.random.Generator) -> list[Finding]:
    x, y = one_factor_per_row(rng)
    g = rng.normal(size=x.shape)
    gy = multiply_backward(g.copy(), x.copy(), y.copy())[1]
    if np.allclose(gy, g.sum(axis=1, keepdims=True) * x.sum(axis=1, keepdims=True)):
        return [Finding("sum_before_product", "the gradient of y is the sum of g times the sum of x; the gradient is the sum "
                        "of all products g x", {"equals": "sum(g) sum(x)"})]  # fmt: skip
    return []


CHECKS = (
    Gradient(function="positions_backward", title="positions_backward is the gradient of x + e",
             forward=positions, inputs=images_and_positions),
    Property(function="unbroadcast", title="unbroadcast sums over the axes that were repeated, and over no others",
             test=sums_to_shape),
    Property(function="multiply_backward", title="multiply_backward multiplies before it sums", test=products_are_summed),
    Gradient(function="multiply_backward", title="multiply_backward, with one factor per row",
             forward=multiply, inputs=one_factor_per_row),
    Gradient(function="multiply_backward", title="multiply_backward, with a single factor",
             forward=multiply, inputs=a_single_factor),
    Gradient(function="multiply_backward", title="multiply_backward, with both factors broadcast",
             forward=multiply, inputs=both_broadcast),
)  # fmt: skip

HINTS = {
    "positions_backward:missing_broadcast_sum": (
        "In how many places of z does a single number of e stand?",
        "e_nd stands in the result once for each image. The cotangents of all these places belong to it.",
    ),
    "unbroadcast:missing_broadcast_sum": (
        "There are two kinds of repeated axes. Which of them is left in your result?",
        "Compare g.shape and shape, lined up at the last axis: what is to be done where shape has nothing, and what where "
        "it has a 1?",
    ),
    "multiply_backward:missing_broadcast_sum": (
        "Which of the two inputs is smaller than z? May it be both?",
        "Either input may have been repeated; you have a function that undoes it for any shape. Use it for both.",
    ),
    "lost_axis": (
        "The numbers are right. What happens to an axis of length 1 in np.sum?",
        "np.sum removes the axes it sums over unless it is told to keep them. Which axes should go, and which stay with "
        "length 1?",
    ),
    "summed_other_axes": (
        "From which end does NumPy compare two shapes?",
        "For g of shape (4, 4) and shape (4,): the only axis of the small array is the last one of g. Which axis of g has no "
        "partner?",
    ),
    "mean_vs_sum": (
        "Contributions of several ways to the loss: do they add up, or average out?",
        "If t is added to three numbers and grows by 0.001, the sum of the three grows by 0.003, not by 0.001.",
    ),
    "multiply_backward:missing_factor": (
        "That is the rule for a sum that broadcasts. What is dz/dy here?",
        "Two things are to be done for each input: the local derivative of the product, and the undoing of the broadcast.",
    ),
    "sum_before_product": (
        "A sum of products is not the product of the sums.",
        "Every place of z has its own g and its own x. In which order must you multiply and sum?",
    ),
    "wrong_shape": (
        "A gradient has the shape of its input. Write the shapes of g and of the input below each other, right-aligned.",
        "Sum over those axes only where the input has no axis, or one of length 1 that g has longer; the others stay.",
    ),
    "swapped_inputs": (
        "Which of your two results belongs to which input?",
        "Return the gradients in the order of the inputs, the one of the first argument after g first.",
    ),
    "mutated_input": (
        "`*=` and `+=` change an array that belongs to someone else.",
        "Make a new array instead of changing g, x or y.",
    ),
    "": (
        "Pick one number of the smaller input and list the places of z that it reaches.",
        "Write out the case of shapes (2, 3) and (3,) by hand, all six elements of z, and collect the terms of one input.",
    ),
}

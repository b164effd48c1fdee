"""The matrix product: a layer, and one weight for all patches

Where we are: the linear projection z_i = p_i E of the patches, and with it every other layer of the Vision Transformer:
queries, keys, values, the MLP and the classifier are all products with a weight. Element by element

    z_nk = sum over d of x_nd w_dk + b_k        X: (N, D),  W: (D, K),  b: (K,),  Z: (N, K)

The element x_nd reaches the loss through row n of Z, in every column k, and each time with the factor w_dk:

    dL/dx_nd = sum over k of g_nk w_dk

The sum over k runs along the second axis of g and the second axis of W. Do the same for w_dk: where in Z does it appear,
with which factor, and over which index is summed? Only then write it as a matrix product.

1. `affine_backward(g, x, w, b)` for z = x @ w + b. Return three arrays.

2. `project_backward(g, p, e)` for z = p @ e, where p is a batch of images in patches, of shape (B, N, D), and e, of shape
   (D, K), is the same for all of them: z_bnk = sum over d of p_bnd e_dk. Return two arrays. Over which indices must be
   summed for e?

3. `matmul_backward(g, x, y)` for z = x @ y, where both have an axis of images in front: x (B, N, D), y (B, D, K). So the
   scores of attention are made. `@` multiplies the matrices on the last two axes, image by image; `.T` reverses all
   axes, and is the transpose of a matrix only where there are two.

Shapes help: a gradient has the shape of its input, and of the products of g with the other factor few have it. But when
N, D and K are equal, all of them have it, so do not stop there.

A thought to test: let N = 1 and K = 1, so z = x_1 w_1 + ... + x_D w_D + b is a number. What is dz/dw_d?
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property


def affine(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return x @ w + b


def affine_backward(
    g: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dL/dx, dL/dw, dL/db) of affine(x, w, b): of shapes (N, D), (D, K), (K,)."""
    ### BEGIN SOLUTION
    return g @ w.T, x.T @ g, g.sum(axis=0)
    ### END SOLUTION


def project(p: np.ndarray, e: np.ndarray) -> np.ndarray:
    return p @ e


def project_backward(g: np.ndarray, p: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dp, dL/de) of project(p, e): of shapes (B, N, D), (D, K)."""
    ### BEGIN SOLUTION
    return g @ e.T, np.einsum("bnd,bnk->dk", p, g)
    ### END SOLUTION


def matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x @ y


def matmul_backward(g: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dL/dx, dL/dy) of matmul(x, y): of shapes (B, N, D), (B, D, K)."""
    ### BEGIN SOLUTION
    return g @ y.swapaxes(-1, -2), x.swapaxes(-1, -2) @ g
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """The backward of a matrix product is two matrix products, found by following one element. A weight shared by
all images and all patches collects a contribution from each of them."""


def a_layer(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)]


def a_square_layer(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(3, 3)), rng.normal(size=(3, 3)), rng.normal(size=3)]


def patches_and_weight(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5))]


def two_stacks(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 5))]


def transposes(project_backward, rng: np.random.Generator) -> list[Finding]:
    p, e = patches_and_weight(rng)
    g = rng.normal(size=(2, 3, 5))
    ge = project_backward(g.copy(), p.copy(), e.copy())[1]
    if ge.shape == e.shape and np.allclose(ge, p.reshape(4, 6) @ g.reshape(6, 5)):
        return [Finding("reshaped_not_transposed", "the gradient of e is the product of p reshaped to (D, B N) with g: the "
                        "rows of that matrix are no features", {"came": "p.reshape(D, -1) @ g"})]  # fmt: skip
    return []


CHECKS = (
    Gradient(function="affine_backward", title="affine_backward is the gradient of x @ w + b",
             forward=affine, inputs=a_layer),
    Gradient(function="affine_backward", title="affine_backward, where all matrices are square",
             forward=affine, inputs=a_square_layer),
    Property(function="project_backward", title="project_backward transposes where it must", test=transposes),
    Gradient(function="project_backward", title="project_backward is the gradient of p @ e, one e for all images",
             forward=project, inputs=patches_and_weight),
    Gradient(function="matmul_backward", title="matmul_backward is the gradient of x @ y, image by image",
             forward=matmul, inputs=two_stacks),
)  # fmt: skip

HINTS = {
    "transposed": (
        "Your gradient has the right numbers, at [k, d] instead of [d, k]. What is the shape of the weight?",
        "(A B) transposed is (B transposed) (A transposed): the factors change places too.",
    ),
    "affine_backward:missing_broadcast_sum": (
        "To how many rows of Z is b added?",
        "Every row of Z has its own cotangent, and all rows share one b. What becomes of an array that was broadcast?",
    ),
    "project_backward:missing_broadcast_sum": (
        "Every image hands back a gradient for e. But there is only one e.",
        "e_dk appears in z_bnk for every image b and every patch n. Which of the two have you summed over?",
    ),
    "project_backward:assigned_not_added": (
        "What does your loop leave of the images before the last?",
        "All images use the same e. What they hand back belongs together.",
    ),
    "mean_vs_sum": (
        "Is there a mean in z = x @ w + b?",
        "If the loss is a mean over the rows, g has that 1/N in it already. A rule knows nothing of the loss.",
    ),
    "swapped_inputs": (
        "Compare the shape of each result with the shape of the input in its place.",
        "Return the gradients in the order of the arguments after g.",
    ),
    "missing_factor": (
        "What is dz_nk / dx_nd? And what have you multiplied g by?",
        "The gradient of one factor has the other factor in it, the gradient of the term b does not.",
    ),
    "cotangent_ignored": (
        "Your gradient is right for the sum of all z only. What comes in where every z has its own weight in the loss?",
        "Replace the ones, or the sum that stands for them, by g.",
    ),
    "wrong_count": (
        "How many inputs has z?",
        "Return one gradient per argument after g, in their order; the last one is easily forgotten.",
    ),
    "wrong_shape": (
        "Write the shapes of g, of the inputs and of your results in a row. Which axis is summed away in the product?",
        "The index that the gradient does not have is the one to be summed over. With three axes, take care what a transpose "
        "does to the first.",
    ),
    "reshaped_not_transposed": (
        "A reshape keeps the order of the numbers in memory. Does a transpose?",
        "Merging the axes of images and patches is a good idea, as long as the features stay an axis of their own.",
    ),
    "": (
        "Write out z_nk and follow one element of the wrong input: in which z does it appear, with which factor?",
        "Take X of shape (1, 2), W of shape (2, 1) and g = 1, and compare with your function by hand.",
    ),
}

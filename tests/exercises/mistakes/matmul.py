"""Solutions of "matmul" that are wrong, and some that are right."""

import numpy as np

from tests.exercises.mistakes import right, wrong


@wrong("transposed", "multiplies cotangent and input in the wrong order, which gives the transposed weight's gradient")
def affine_backward(g, x, w, b):
    return g @ w.T, g.T @ x, g.sum(axis=0)


@wrong("missing_broadcast_sum", "passes the cotangent on to the bias, one row for every sample")
def affine_backward(g, x, w, b):
    return g @ w.T, x.T @ g, g


@wrong("mean_vs_sum", "divides the parameters' gradients by the number of samples")
def affine_backward(g, x, w, b):
    return g @ w.T, x.T @ g / len(x), g.mean(axis=0)


@wrong("swapped_inputs", "returns the gradient of the weight in the place of the input's")
def affine_backward(g, x, w, b):
    return x.T @ g, g @ w.T, g.sum(axis=0)


@wrong("raised", "forgets to transpose the weight")
def affine_backward(g, x, w, b):
    return g @ w, x.T @ g, g.sum(axis=0)


@wrong("transposed", "chooses by the shapes whether to transpose, and so does not where the weight is square")
def affine_backward(g, x, w, b):
    gx = g @ w if g.shape[1] == w.shape[0] else g @ w.T
    return gx, x.T @ g, g.sum(axis=0)


@wrong("wrong_count", "leaves the bias out")
def affine_backward(g, x, w, b):
    return g @ w.T, x.T @ g


@wrong("cotangent_ignored", "returns the derivatives of the sum of all outputs")
def affine_backward(g, x, w, b):
    ones = np.ones_like(g)
    return ones @ w.T, x.T @ ones, ones.sum(axis=0)


@wrong("missing_broadcast_sum", "gives every image a gradient of the shared weight of its own")
def project_backward(g, p, e):
    return g @ e.T, p.swapaxes(-1, -2) @ g


@wrong(("assigned_not_added", "missing_broadcast_sum"), "keeps only the last image's gradient of the weight in a loop")
def project_backward(g, p, e):
    ge = np.zeros_like(e)
    for image, gi in zip(p, g):
        ge = image.T @ gi
    return g @ e.T, ge


@wrong("mean_vs_sum", "averages the shared weight's gradient over the images")
def project_backward(g, p, e):
    return g @ e.T, np.mean(p.swapaxes(-1, -2) @ g, axis=0)


@wrong("reshaped_not_transposed", "reshapes the patches to (D, B N) where they should be transposed")
def project_backward(g, p, e):
    return g @ e.T, p.reshape(e.shape[0], -1) @ g.reshape(-1, e.shape[1])


@wrong(("raised", "wrong_shape"), "transposes a stack of matrices with .T, which reverses all axes")
def matmul_backward(g, x, y):
    return g @ y.T, x.T @ g


@wrong("wrong_shape", "sums the gradient over the images, though each has a matrix of its own")
def matmul_backward(g, x, y):
    return g @ y.swapaxes(-1, -2), np.einsum("bnd,bnk->dk", x, g)


@right("with einsum throughout, the letters of the forward rearranged")
def affine_backward(g, x, w, b):
    return np.einsum("nk,dk->nd", g, w), np.einsum("nk,nd->dk", g, x), np.einsum("nk->k", g)


@right("adds up the outer products of the rows")
def affine_backward(g, x, w, b):
    gx, gw, gb = np.zeros_like(x), np.zeros_like(w), np.zeros_like(b)
    for n in range(len(x)):
        gx[n] = w @ g[n]
        gw += np.outer(x[n], g[n])
        gb += g[n]
    return gx, gw, gb


@right("transposes the product instead of the factors")
def affine_backward(g, x, w, b):
    return (w @ g.T).T, (g.T @ x).T, np.ones(len(g)) @ g


@right("merges images and patches into one axis")
def project_backward(g, p, e):
    rows, g_rows = p.reshape(-1, p.shape[-1]), g.reshape(-1, g.shape[-1])
    return (g_rows @ e.T).reshape(p.shape), rows.T @ g_rows


@right("multiplies image by image and sums")
def project_backward(g, p, e):
    return g @ e.T, (p.transpose(0, 2, 1) @ g).sum(axis=0)


@right("with tensordot over the shared axes")
def project_backward(g, p, e):
    return np.tensordot(g, e, axes=(2, 1)), np.tensordot(p, g, axes=((0, 1), (0, 1)))


@right("image by image, stacked")
def matmul_backward(g, x, y):
    return np.stack([gi @ yi.T for gi, yi in zip(g, y)]), np.stack([xi.T @ gi for gi, xi in zip(g, x)])

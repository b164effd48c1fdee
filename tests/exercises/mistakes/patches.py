"""Solutions of "patches" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e08_patches import im2col as right_im2col
from tests.exercises.mistakes import right, wrong


@wrong("plain_reshape", "cuts the image's memory into runs, without exchanging axes")
def im2col(image, patch_size):
    return image.reshape(-1, patch_size * patch_size * image.shape[2])


@wrong("patches_by_columns", "takes the patches from top to bottom first")
def im2col(image, patch_size):
    H, W, _ = image.shape
    P = patch_size
    return np.stack([image[i : i + P, j : j + P].ravel() for j in range(0, W, P) for i in range(0, H, P)])


@wrong("channels_first", "flattens each patch in the order (channel, row, column)")
def im2col(image, patch_size):
    H, W, C = image.shape
    P = patch_size
    grid = image.transpose(2, 0, 1).reshape(C, H // P, P, W // P, P)
    return grid.transpose(1, 3, 0, 2, 4).reshape(-1, P * P * C)


@wrong("pixels_by_columns", "flattens each patch column by column, as MATLAB does")
def im2col(image, patch_size):
    H, W, C = image.shape
    P = patch_size
    return image.reshape(H // P, P, W // P, P, C).transpose(0, 2, 3, 1, 4).reshape(-1, P * P * C)


@wrong("pixels_apart", "splits H into (P, H/P) instead of (H/P, P), so that a patch is a thinned image")
def im2col(image, patch_size):
    H, W, C = image.shape
    P = patch_size
    return image.reshape(P, H // P, P, W // P, C).transpose(1, 3, 0, 2, 4).reshape(-1, P * P * C)


@wrong("wrong_shape", "keeps the grid of patches as two axes")
def im2col(image, patch_size):
    H, W, C = image.shape
    P = patch_size
    return image.reshape(H // P, P, W // P, P, C).transpose(0, 2, 1, 3, 4).reshape(H // P, W // P, P * P * C)


@wrong("plain_reshape", "reshapes the patches to an image, without exchanging axes back")
def col2im(patches, height, width, patch_size):
    return patches.reshape(height, width, -1)


@wrong("misplaced", "reads the grid of patches as (W/P, H/P)")
def col2im(patches, height, width, patch_size):
    P = patch_size
    grid = patches.reshape(width // P, height // P, P, P, -1)
    return grid.transpose(1, 2, 0, 3, 4).reshape(height, width, -1)


@wrong("transposed", "puts the image together with its columns as rows")
def col2im(patches, height, width, patch_size):
    P = patch_size
    grid = patches.reshape(height // P, width // P, P, P, -1)
    return grid.transpose(1, 3, 0, 2, 4).reshape(width, height, -1)


@wrong("plain_reshape", "gives the cotangent the image's shape and leaves its numbers in the order of the patches")
def im2col_backward(g, image, patch_size):
    return g.reshape(image.shape)


@wrong(("wrong_shape", "misplaced"), "passes the cotangent on as it is, in patches")
def im2col_backward(g, image, patch_size):
    return g


@wrong("cotangent_ignored", "puts the image's patches back together instead of the cotangent's")
def im2col_backward(g, image, patch_size):
    P = patch_size
    patches = right_im2col(image, P)
    H, W, C = image.shape
    return patches.reshape(H // P, W // P, P, P, C).transpose(0, 2, 1, 3, 4).reshape(H, W, C)


@wrong("permuted", "cuts the cotangent once more instead of undoing the cut")
def im2col_backward(g, image, patch_size):
    return right_im2col(g.reshape(image.shape), patch_size).reshape(image.shape)


@right("with loops over the patches and slices")
class _:
    def im2col(image, patch_size):
        H, W, _ = image.shape
        P = patch_size
        return np.array([image[i : i + P, j : j + P].ravel() for i in range(0, H, P) for j in range(0, W, P)])

    def col2im(patches, height, width, patch_size):
        P = patch_size
        out = np.zeros((height, width, patches.shape[1] // P**2))
        for n, patch in enumerate(patches):
            i, j = divmod(n, width // P)
            out[i * P : (i + 1) * P, j * P : (j + 1) * P] = patch.reshape(P, P, -1)
        return out

    def im2col_backward(g, image, patch_size):
        P = patch_size
        out, n = np.zeros_like(image), 0
        for i in range(0, image.shape[0], P):
            for j in range(0, image.shape[1], P):
                out[i : i + P, j : j + P] += g[n].reshape(P, P, -1)
                n += 1
        return out


@right("with an index of every pixel, and np.add.at for the way back")
class _:
    def im2col(image, patch_size):
        H, W, C = image.shape
        place = np.arange(H * W * C).reshape(H // patch_size, patch_size, W // patch_size, patch_size, C)
        return image.ravel()[place.swapaxes(1, 2).reshape(-1, patch_size**2 * C)]

    def im2col_backward(g, image, patch_size):
        places = right_im2col(np.arange(image.size).reshape(image.shape), patch_size)
        gradient = np.zeros(image.size)
        np.add.at(gradient, places.ravel(), g.ravel())
        return gradient.reshape(image.shape)


@right("with splits and stacks")
class _:
    def im2col(image, patch_size):
        H, W, _ = image.shape
        rows = np.vsplit(image, H // patch_size)
        return np.stack([part.reshape(-1) for row in rows for part in np.hsplit(row, W // patch_size)])

    def col2im(patches, height, width, patch_size):
        P = patch_size
        rows = np.split(patches.reshape(len(patches), P, P, -1), height // P)
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


@right("with the matrix A itself, and its transpose")
def im2col_backward(g, image, patch_size):
    A = right_im2col(np.arange(image.size).reshape(image.shape), patch_size).ravel()[:, None] == np.arange(image.size)
    return (A.T.astype(float) @ g.ravel()).reshape(image.shape)

"""From an image to patches, and back

Where we are: "Image to Patches (im2col in MATLAB)". A transformer reads a sequence, so an image x of H x W pixels with C
channels is cut into patches of P x P pixels, which do not overlap, and each becomes one row of a matrix:

    x in R^(H x W x C)    ->    p in R^(N x P^2 C),    N = H W / P^2

As always with a reshape there are many orders to choose from, and only one is the same as everyone else's:

    the patches as one reads a page, from left to right, row of patches by row of patches;
    within a patch (row, column, channel): its pixels likewise, and of each pixel all channels one after the other.

1. `im2col(image, patch_size)`: (H, W, C) -> (N, P*P*C). P divides H and W.

2. `col2im(patches, height, width, patch_size)`: the way back, (N, P*P*C) -> (H, W, C). C follows from the shapes.

3. `im2col_backward(g, image, patch_size)` returns dL/dimage, where g = dL/dp.

Cutting is linear: p = A x, with a matrix A of zeros and ones, if x and p are written as long vectors. A backward applies
the transpose, dL/dx = A^T g. No need to write A down: <A x, g> = <x, A^T g> for all x and g says which map A^T is. (And
what would it have to do if patches overlapped, so that one pixel lies in several of them?)

A thought to test: number the pixels, `np.arange(H * W * C).reshape(H, W, C)`, and read the first two patches aloud. A
reshape never moves a number in memory order: what does `image.reshape(N, P*P*C)` put into the first patch?
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property, Values


def im2col(image: np.ndarray, patch_size: int) -> np.ndarray:
    """(H, W, C) -> (N, P*P*C): row by row of patches, each in (row, column, channel) order."""
    ### BEGIN SOLUTION
    H, W, C = image.shape
    P = patch_size
    grid = image.reshape(H // P, P, W // P, P, C)
    return grid.transpose(0, 2, 1, 3, 4).reshape((H // P) * (W // P), P * P * C)
    ### END SOLUTION


def col2im(patches: np.ndarray, height: int, width: int, patch_size: int) -> np.ndarray:
    """(N, P*P*C) -> (H, W, C): every patch back in its place."""
    ### BEGIN SOLUTION
    P = patch_size
    grid = patches.reshape(height // P, width // P, P, P, -1)
    return grid.transpose(0, 2, 1, 3, 4).reshape(height, width, -1)
    ### END SOLUTION


def im2col_backward(g: np.ndarray, image: np.ndarray, patch_size: int) -> np.ndarray:
    """dL/dimage (H, W, C) of im2col(image, patch_size), where g (N, P*P*C) is dL/dp."""
    ### BEGIN SOLUTION
    H, W, _ = image.shape
    return col2im(g, H, W, patch_size)
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """Reshape and transpose, and that an order is a convention to be kept. The backward of a linear map is its adjoint;
for a rearrangement that is its inverse."""

P, H, W, C = 2, 4, 6, 3


def an_image(rng: np.random.Generator) -> list:
    return [rng.normal(size=(H, W, C)), P]


def larger_patches(rng: np.random.Generator) -> list:
    return [rng.normal(size=(9, 6, 2)), 3]


def some_patches(rng: np.random.Generator) -> list:
    return [rng.normal(size=(6, P * P * C)), H, W, P]


def small_image(rng: np.random.Generator) -> list:
    return [rng.normal(size=(H, W, 2)), P]


# the order of the axes (row of patches, row in it, column of patches, column in it, channel) in the patches: what it means
ORDERS = {
    (0, 1, 2, 3, 4): ("plain_reshape", "the numbers are in memory order: each patch is a piece of whole rows of pixels"),
    (2, 0, 1, 3, 4): ("patches_by_columns", "the patches are taken from top to bottom first"),
    (0, 2, 3, 1, 4): ("pixels_by_columns", "within a patch the pixels are taken from top to bottom first"),
    (2, 0, 3, 1, 4): ("pixels_by_columns", "patches, and pixels in them, are taken from top to bottom first"),
    (0, 2, 4, 1, 3): ("channels_first", "within a patch the order is (channel, row, column)"),
    (1, 3, 0, 2, 4): ("pixels_apart", "each patch holds pixels that lie P apart, one from every patch"),
}


def in_order(function, rng: np.random.Generator) -> list[Finding]:
    image, _ = an_image(rng)
    came = function(image.copy(), P)
    if np.shape(came) not in ((6, P * P * C), (H // P, W // P, P * P * C)) or np.array_equal(came, im2col(image, P)):
        return []
    grid = image.reshape(H // P, P, W // P, P, C)
    for order, (code, text) in ORDERS.items():
        if np.array_equal(np.ravel(came), grid.transpose(order).ravel()):
            return [Finding(code, text, {"axes": order})]
    apart = image.reshape(P, H // P, P, W // P, C)
    if np.array_equal(np.ravel(came), apart.transpose(1, 3, 0, 2, 4).ravel()):
        return [Finding("pixels_apart", "each patch holds pixels from all over the image, H/P rows and W/P columns apart", {})]
    return []


def every_pixel_home(function, rng: np.random.Generator) -> list[Finding]:
    patches, *sizes = some_patches(rng)
    came = function(patches.copy(), *sizes)
    if np.shape(came) == (H, W, C) and np.array_equal(came, patches.reshape(H, W, C)):
        return [Finding("plain_reshape", "the numbers are in the memory order of the patches", {})]
    return []


def is_the_adjoint(function, rng: np.random.Generator) -> list[Finding]:
    image, size = an_image(rng)
    g = some_patches(rng)[0]
    came = function(g.copy(), image.copy(), size)
    if np.shape(came) != image.shape:  # its shape is examined next
        return []
    left, right = float(np.sum(im2col(image, size) * g)), float(np.sum(image * came))
    if abs(left - right) <= 1e-9 * np.sqrt(np.sum(image**2) * np.sum(g**2)):
        return []
    found = [Finding("not_the_adjoint", f"<A x, g> = {left:.6g}, but <x, dL/dx> = {right:.6g}", {"left": left, "right": right})]
    causes = (
        ("plain_reshape", g.reshape(image.shape), "g is reshaped only: its numbers stay in the memory order of patches"),
        ("permuted", im2col(g.reshape(image.shape), size).reshape(image.shape), "g was cut once more: A g instead of A^T g"),
        ("cotangent_ignored", image, "the result is the image itself, whatever g is"),
        ("cotangent_ignored", np.ones_like(image), "the result is all ones, whatever g is"),
        ("zero_gradient", np.zeros_like(image), "the result is zero"),
    )
    return [Finding(code, text, {}) for code, guess, text in causes if np.array_equal(came, guess)] + found


CHECKS = (
    Property(function="im2col", title="im2col makes none of the usual slips in the order", test=in_order),
    Values(function="im2col", title="im2col has the right values", expected=im2col, inputs=an_image),
    Values(function="im2col", title="im2col has the right values for P = 3", expected=im2col, inputs=larger_patches),
    Property(function="col2im", title="col2im does not just reshape", test=every_pixel_home),
    Values(function="col2im", title="col2im puts every number back", expected=col2im, inputs=some_patches),
    Property(function="im2col_backward", title="<im2col(x), g> = <x, im2col_backward(g)>", test=is_the_adjoint),
    Gradient(function="im2col_backward", title="im2col_backward is the gradient of im2col",
             forward=im2col, inputs=small_image),
)  # fmt: skip

HINTS = {
    "im2col_backward:plain_reshape": (
        "g[0] belongs to the first patch. To which pixels must its numbers go?",
        "The pixels of one patch are no neighbors in the image's memory. You have a function that knows their places.",
    ),
    "col2im:plain_reshape": (
        "The first P*P*C numbers belong to the first patch. Where are they in your image?",
        "Give every axis its own place before you move any: row and column of the patch, row and column in it, channel.",
    ),
    "plain_reshape": (
        "The first patch is a square. Which pixels are in the first row of your result?",
        "A reshape alone cuts the image into runs of memory. Split H and W in two; then two axes must change places.",
    ),
    "patches_by_columns": (
        "Read a page: which patch is the second?",
        "Of the two axes that count patches, which one comes first in your order, and so turns slowest?",
    ),
    "pixels_by_columns": (
        "Which pixel is the second within your first patch: the one to the right, or the one below?",
        "In (row, column, channel) the column turns faster than the row. Compare with the order of your axes or loops.",
    ),
    "channels_first": (
        "Which number comes second in a patch: the same pixel's next channel, or the same channel's next pixel?",
        "Some libraries keep images as (C, H, W), and then a patch begins with its whole first channel. Here C is last.",
    ),
    "pixels_apart": (
        "Are the pixels of your first patch neighbors?",
        "H splits into the patch's row and the row within the patch. Which of the two turns slower, and so stands first "
        "in the reshape?",
    ),
    "im2col:wrong_shape": (
        "How many patches are there, and how many numbers are in one? That is the shape.",
        "N counts the patches in both directions together. All numbers of a patch lie along the second axis.",
    ),
    "wrong_shape": (
        "What goes in has one shape, what comes back the shape of an image. Which?",
        "(H, W, C), as it was before it was cut; a gradient has the shape of its input.",
    ),
    "misplaced": (
        "The right numbers, in wrong places: a reshape reads the axes in another order than you mean.",
        "Write the length of every axis beside its meaning, before and after every reshape and transpose. Do H and W, or P "
        "and the count of patches, stand in each other's place?",
    ),
    "transposed": (
        "Height or width first?",
        "An image is (H, W, C): rows, then columns. Number the pixels and print a small one.",
    ),
    "permuted": (
        "The right numbers, in wrong places: the way there and the way back are not the same way.",
        "To undo steps, undo the last one first. Which were the steps of the cut?",
    ),
    "not_the_adjoint": (
        "A pixel lands in exactly one place of p. From where must its gradient come?",
        "Each number of g goes back to the pixel that was copied to its place, as it is: nothing is added or scaled.",
    ),
    "cotangent_ignored": (
        "Call your backward with two different g. What changes?",
        "The image's values do not matter here, only its shape. The numbers must come from g.",
    ),
    "zero_gradient": (
        "Is there a pixel that p does not depend on?",
        "Every pixel is in one patch. Was the array that you return ever filled?",
    ),
    "mutated_input": (
        "The image belongs to the caller. Which line changes it?",
        "`x.shape = ...`, `x.resize` and assignments to a view change the array itself.",
    ),
    "": (
        "Number the pixels of a small image, cut it by hand, and compare.",
        "Choose H, W, P, P and C all different where you can: then wrong axes show in the shapes.",
    ),
}

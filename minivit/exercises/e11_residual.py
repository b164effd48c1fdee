"""A residual block, and why gradients survive depth

Where we are: the second half of a layer of the Transformer encoder. A layer does not replace its input, it adds to it:
x is normalized, a multilayer perceptron (MLP) computes a change from it, and the change is added to x. The path past
the MLP is the skip connection. For tokens x of shape (N, D) and hidden width H, in five steps:

    1.  h = normalize(x)        each token to mean 0 and variance 1: given, with its backward     (N, D)
    2.  a = h w1 + b1           w1 (D, H), b1 (H,)                                                (N, H)
    3.  t = tanh(a)             a ViT takes GELU here                                             (N, H)
    4.  m = t w2 + b2           w2 (H, D), b2 (D,)                                                (N, D)
    5.  y = x + m                                                                                 (N, D)

1. `block(x, w1, b1, w2, b2)`: the five steps.

2. `block_backward(g, x, w1, b1, w2, b2)`, g = dL/dy: return the gradients of all five inputs, in their order. Compute
   h and t again, then walk the steps backwards. A bias is added to all N tokens, so its gradient is a sum over them. And
   look where x is used: in step 5 and in step 1.

3. `tower_backward(g, x, blocks)`: a tower of blocks, each on the result of the one before; `blocks` is a list of
   (w1, b1, w2, b2) and g the gradient of the last result. Return dL/dx, x being the first block's input. Forwards, keep
   the input of every block; backwards, hand dL/dx of each to the one below.

Do not change your arguments in place.

Why the skip? With J the Jacobian of the change m by x, that of the block is I + J, and the gradient at the foot of a tower is
a product of such factors. Without the skips it is a product of the J alone: if each halves the gradient, 20 blocks leave
a millionth of it. With them, expand the product: one of its terms is g itself, which went past all blocks.

A thought to test: what must dL/dx be if w2 and b2 are zero? And in the tower?
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property, Values

EPS = 1e-6


def normalize(x: np.ndarray) -> np.ndarray:
    c = x - x.mean(axis=-1, keepdims=True)
    return c / np.sqrt(np.mean(c * c, axis=-1, keepdims=True) + EPS)


def normalize_backward(g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dL/dx of h = normalize(x), where g is dL/dh."""
    c = x - x.mean(axis=-1, keepdims=True)
    r = 1 / np.sqrt(np.mean(c * c, axis=-1, keepdims=True) + EPS)
    h = c * r
    return r * (g - g.mean(axis=-1, keepdims=True) - h * np.mean(g * h, axis=-1, keepdims=True))


def block(x: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray, b2: np.ndarray) -> np.ndarray:
    """y of shape (N, D)."""
    ### BEGIN SOLUTION
    h = normalize(x)
    a = h @ w1 + b1
    t = np.tanh(a)
    m = t @ w2 + b2
    return x + m
    ### END SOLUTION


def block_backward(
    g: np.ndarray, x: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray, b2: np.ndarray
) -> tuple[np.ndarray, ...]:
    """(dL/dx, dL/dw1, dL/db1, dL/dw2, dL/db2) of block(x, w1, b1, w2, b2), where g is dL/dy."""
    ### BEGIN SOLUTION
    h = normalize(x)
    t = np.tanh(h @ w1 + b1)
    # 5. y = x + m: g goes to both
    # 4. m = t w2 + b2
    gt, gw2, gb2 = g @ w2.T, t.T @ g, g.sum(axis=0)
    # 3. t = tanh(a)
    ga = gt * (1 - t * t)
    # 2. a = h w1 + b1
    gh, gw1, gb1 = ga @ w1.T, h.T @ ga, ga.sum(axis=0)
    # 1. h = normalize(x), and the skip of step 5
    gx = g + normalize_backward(gh, x)
    return gx, gw1, gb1, gw2, gb2
    ### END SOLUTION


def tower_backward(g: np.ndarray, x: np.ndarray, blocks: list[tuple[np.ndarray, ...]]) -> np.ndarray:
    """dL/dx of a tower of blocks, where g is the derivative of L by its result."""
    ### BEGIN SOLUTION
    inputs = []
    for parameters in blocks:
        inputs.append(x)
        x = block(x, *parameters)
    for x, parameters in zip(reversed(inputs), reversed(blocks)):
        g = block_backward(g, x, *parameters)[0]
    return g
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """Two paths from one value: the skip and the branch, whose gradients are added where the paths part. The
gradients of a linear layer's weight and bias. Depth: the forward's values are kept, and visited in reverse; the skip hands
the gradient past every block."""

N, D, H = 3, 4, 5


def parameters(rng: np.random.Generator, size: float = 1.0) -> list[np.ndarray]:
    shapes = ((D, H), (H,), (H, D), (D,))
    return [size * rng.normal(size=shape) / np.sqrt(D) for shape in shapes]


def of_block(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=(N, D)), *parameters(rng)]


def past_the_mlp(function, rng):
    """With w2 = 0 and b2 = 0 the block is the identity."""
    x, w1, b1, w2, b2 = of_block(rng)
    y = function(x.copy(), w1, b1, 0 * w2, 0 * b2)
    if np.shape(y) != x.shape or np.allclose(y, x):  # of the shape Values speaks
        return []
    if not np.any(y):
        return [Finding("no_skip", "with w2 and b2 zero the result is zero: nothing goes past the MLP", {})]
    for text, value in (("normalize(x)", normalize(x)), ("twice x", 2 * x)):
        if np.allclose(y, value):
            return [Finding("wrong_skip", f"with w2 and b2 zero the result is {text}, not x", {"is": text})]
    return [Finding("wrong_skip", "with w2 and b2 zero the result is not x: the skip does not hand x on as it is", {})]


def where_paths_meet(function, rng):
    """Two mistakes that leave no simple mark on the numbers: they are made here, and compared."""
    x, w1, b1, w2, b2 = of_block(rng)
    g = rng.normal(size=x.shape)
    gradients = function(g.copy(), x.copy(), w1.copy(), b1.copy(), w2.copy(), b2.copy())
    if not isinstance(gradients, tuple | list) or len(gradients) != 5:
        return []
    h = normalize(x)
    ga = g @ w2.T * (1 - np.tanh(h @ w1 + b1) ** 2)
    if _same(gradients[0], normalize_backward(g + ga @ w1.T, x)):
        return [Finding("skip_through_norm", "dL/dx is what comes out if the gradient of the skip also goes back through the "
                        "normalization", {})]  # fmt: skip
    if _same(gradients[1], x.T @ ga):
        return [Finding("wrong_value", "dL/dw1 is what comes out if w1 were multiplied by x", {})]
    return []


def _same(a, b) -> bool:
    return np.shape(a) == b.shape and np.allclose(a, b, rtol=1e-9)


def of_the_tower(function, rng):
    """Compares with the right gradient, and with those of a few ways to go wrong, made here."""
    x, g = rng.normal(size=(N, D)), rng.normal(size=(N, D))
    blocks = [tuple(parameters(rng)) for _ in range(3)]
    given = [x.copy(), g.copy(), [tuple(p.copy() for p in b) for b in blocks]]
    came = function(given[1], given[0], given[2])
    if not isinstance(came, np.ndarray) or came.shape != x.shape:
        what = f"shape {came.shape}" if isinstance(came, np.ndarray) else f"a {type(came).__name__}"
        return [Finding("wrong_shape", f"tower_backward returned {what}, expected one array of shape {x.shape}", {})]
    if not (np.array_equal(given[0], x) and np.array_equal(given[1], g)):
        return [Finding("mutated_input", "tower_backward changed x or g in place; work on a copy", {})]
    if len(given[2]) != len(blocks) or not all(
        np.array_equal(p, q) for a, b in zip(given[2], blocks) for p, q in zip(a, b)
    ):
        return [Finding("mutated_input", "tower_backward changed the list of blocks; others still need it", {})]

    def walk(order, x_of):
        back = g
        for j in order:
            back = block_backward(back, x_of[j], *blocks[j])[0]
        return back

    inputs = [x]
    for b in blocks:
        inputs.append(block(inputs[-1], *b))
    up, down = range(len(blocks)), range(len(blocks) - 1, -1, -1)
    if np.allclose(came, walk(down, inputs), rtol=1e-9):
        return []
    change = walk(down, inputs) - g
    candidates = (
        ("wrong_order", "the blocks are walked in the order of the forward, not backwards", walk(up, inputs)),
        ("stale_input", "every block is differentiated at the tower's input instead of its own", walk(down, [x] * 3)),
        ("stale_input", "every block is differentiated at its result instead of its input", walk(down, inputs[1:])),
        ("stale_input", "the inputs of the blocks are paired with the blocks in the other order", walk(down, inputs[2::-1])),
        ("wrong_order", "the blocks are walked in the order of the forward, and at inputs of others", walk(up, inputs[2::-1])),
        ("missing_block", "the first block is left out", walk(down[:-1], inputs)),
        ("missing_block", "the last block is left out", walk(down[1:], inputs)),
        ("skip_counted_twice", "g is added once more, though each block's gradient holds its skip already", 2 * g + change),
        ("not_chained", "each block is handed g, not the gradient of the block above it",
         block_backward(g, x, *blocks[0])[0]),
        ("not_chained", "each block is handed g, and the gradients are added up",
         sum(block_backward(g, inputs[j], *blocks[j])[0] for j in up)),
        ("zero_gradient", "it is zero", 0 * g),
    )  # fmt: skip
    for code, text, value in candidates:
        if np.allclose(came, value, rtol=1e-9):
            return [Finding(code, f"dL/dx of three blocks is wrong: {text}", {})]
    error = np.max(np.abs(came - walk(down, inputs)))
    return [Finding("unexplained", f"dL/dx of three blocks is wrong, by up to {error:.3g}", {})]


def through_depth(function, rng):
    """A tower of 40 blocks with w2 = 0 is the identity; its gradient is g."""
    x, g = rng.normal(size=(N, D)), rng.normal(size=(N, D))
    blocks = [(w1, b1, 0 * w2, b2) for w1, b1, w2, b2 in (parameters(rng) for _ in range(40))]
    came = function(g.copy(), x.copy(), blocks)
    if np.allclose(came, g):
        return []
    return [Finding("lost_in_depth", f"40 blocks with w2 = 0 change x only by constants, so dL/dx is g; yours is "
                    f"{np.linalg.norm(came) / np.linalg.norm(g):.3g} times as long", {})]  # fmt: skip


CHECKS = (
    Property(function="block", title="with w2 = 0 and b2 = 0 the block returns x", test=past_the_mlp),
    Values(function="block", title="block has the right values", expected=block, inputs=of_block),
    Property(function="block_backward", title="skip and MLP meet where the paths of x parted", test=where_paths_meet),
    Gradient(function="block_backward", title="block_backward is its gradient", forward=block, inputs=of_block),
    Property(function="tower_backward", title="tower_backward is the gradient of three blocks", test=of_the_tower),
    Property(function="tower_backward", title="g goes unharmed past 40 blocks that do nothing", test=through_depth),
)  # fmt: skip

HINTS = {
    "no_skip": (
        "The block returns the change. What is it a change of?",
        "Step 5 has two terms. Which of them is missing in your last line?",
    ),
    "wrong_skip": (
        "What goes past the MLP: x, or what was made of it?",
        "Keep x under its own name: normalize gives the MLP another array, and the skip starts before it.",
    ),
    "skip_through_norm": (
        "In the forward, did what went along the skip pass through the normalization?",
        "Two paths leave x and meet again in y. Draw where they part: only there their gradients are added. Which step lies on "
        "the MLP's path alone?",
    ),
    "wrong_value": (
        "Which array is w1 multiplied by in the forward?",
        "The gradient of a weight holds the value that the forward multiplied with it. Read step 2 again.",
    ),
    "block_backward:unexplained": (
        "Which of the five gradients are right? Those of w2 and b2 need the fewest steps; start there.",
        "Each local derivative is taken at a value of the forward. At which do you take that of tanh: at its argument or at "
        "its result, and which formula belongs to which?",
    ),
    "overwritten": (
        "A line of yours changes an array that was right. Was it to be changed once more?",
        "Write down what dL/dx is made of, and count how often your lines add each part.",
    ),
    "stale_input": (
        "At which x was this block evaluated in the forward?",
        "The Jacobian of a block depends on its own input. Write down, for three blocks, which array goes into which, and "
        "which of them your loop hands to block_backward.",
    ),
    "wrong_order": (
        "Which block did g come from, that is, whose result is the tower's?",
        "The chain rule starts at the loss. The last block of the forward is the first on the way back.",
    ),
    "missing_block": (
        "Count the calls of block_backward. One per block?",
        "Try a tower of a single block: its gradient must be that of the block. Look at the ends of your loop.",
    ),
    "not_chained": (
        "g is the gradient of the tower's result. What is the gradient of the result of the block before the last?",
        "What one block hands back as its dL/dx is the cotangent of the block below it.",
    ),
    "skip_counted_twice": (
        "How often does the gradient go past a block, and where have you put that already?",
        "dL/dx of block_backward holds the skip. Nothing of it is left for the tower to add.",
    ),
    "lost_in_depth": (
        "What is the Jacobian of a block whose w2 is zero?",
        "It is the identity, however many there are. Check that each block's gradient is handed on unscaled.",
    ),
    "block_backward:missing_term": (
        "Draw the five steps and their arrows. How many arrows leave this input?",
        "x is used in step 1 and in step 5. What comes back along one of the two is missing in your dL/dx, or was changed on "
        "its way.",
    ),
    "block_backward:missing_factor": (
        "You walked over one of the steps without its local derivative.",
        "The report names the step. Which function of the forward does it apply, and what is that function's derivative?",
    ),
    "block_backward:missing_broadcast_sum": (
        "The same bias is added to every token. How many ways lead from it to the loss?",
        "The shape of the gradient is the shape of the bias. Over which axis of the cotangent must all contributions be added?",
    ),
    "block_backward:mean_vs_sum": (
        "Is the loss a mean over the tokens here, or has that been decided elsewhere?",
        "If the loss is a mean, g holds the 1/N already. Contributions of all tokens to one parameter are added.",
    ),
    "block_backward:wrong_shape": (
        "Write the shapes beside the step: of its inputs, of its result, of the gradient to be returned.",
        "Each gradient has the shape of its input. For a product of matrices only one order, with one of them transposed, "
        "gives it; for the bias something must be added up.",
    ),
    "block_backward:swapped_inputs": (
        "The numbers are right, for another input.",
        "Return the gradients in the order of the parameters: x, w1, b1, w2, b2.",
    ),
    "block_backward:constant_factor": (
        "One of the paths is counted more than once.",
        "g reaches x directly through step 5 once. Where in your lines does g enter dL/dx?",
    ),
    "wrong_count": (
        "The function has five inputs. How many gradients does it hand back?",
        "Parameters get gradients too, or they could not be trained: x, w1, b1, w2, b2.",
    ),
    "wrong_shape": (
        "Which shape does the statement say?",
        "tower_backward returns dL/dx alone, one array of the shape of x.",
    ),
    "mutated_input": (
        "`+=`, `reverse` and `pop` change what belongs to someone else.",
        "Make a new array or walk the list backwards without changing it: the caller uses it in the next step.",
    ),
    "block_backward:": (
        "Which of the five gradients are right? Those of w2 and b2 need the fewest steps; start there.",
        "Quote each line of the forward above its derivative and compare: what does the line use, what does each of these get "
        "back, and at which value?",
    ),
    "": (
        "Try one token, D = 2 and a single hidden unit by hand.",
        "Go through the numbered steps and say for each array where it comes from and what its shape is.",
    ),
}

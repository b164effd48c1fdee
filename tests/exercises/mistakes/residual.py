"""Solutions of "residual" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e11_residual import block as right_block
from minivit.exercises.e11_residual import block_backward as right_block_backward
from minivit.exercises.e11_residual import normalize, normalize_backward
from tests.exercises.mistakes import right, wrong


def forward(x, w1, b1):
    h = normalize(x)
    return h, np.tanh(h @ w1 + b1)


def run(x, blocks):
    """The inputs of all blocks, and the result."""
    values = [x]
    for parameters in blocks:
        values.append(right_block(values[-1], *parameters))
    return values


# ---- one block, forward ----


@wrong("no_skip", "returns the change without adding it to x")
def block(x, w1, b1, w2, b2):
    return np.tanh(normalize(x) @ w1 + b1) @ w2 + b2


@wrong("wrong_skip", "overwrites x with its normalization, so that the skip starts after it")
def block(x, w1, b1, w2, b2):
    x = normalize(x)
    return x + np.tanh(x @ w1 + b1) @ w2 + b2


@wrong("wrong_skip", "normalizes the sum, as the first Transformers did, instead of the MLP's input")
def block(x, w1, b1, w2, b2):
    return normalize(x + np.tanh(x @ w1 + b1) @ w2 + b2)


@wrong("mutated_input", "adds the change to x in place")
def block(x, w1, b1, w2, b2):
    x += np.tanh(normalize(x) @ w1 + b1) @ w2 + b2
    return x


# ---- one block, backward ----


@wrong("missing_term", "forgets the skip: only what comes back through the MLP")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - t * t)
    return normalize_backward(ga @ w1.T, x), h.T @ ga, ga.sum(0), t.T @ g, g.sum(0)


@wrong("missing_term", "hands back along the skip only")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - t * t)
    return g.copy(), h.T @ ga, ga.sum(0), t.T @ g, g.sum(0)


@wrong("skip_through_norm", "adds the skip's gradient before walking back through the normalization")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - t * t)
    return normalize_backward(ga @ w1.T + g, x), h.T @ ga, ga.sum(0), t.T @ g, g.sum(0)


@wrong("missing_factor", "forgets the derivative of tanh")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T
    return g + normalize_backward(ga @ w1.T, x), h.T @ ga, ga.sum(0), t.T @ g, g.sum(0)


@wrong("missing_factor", "forgets to walk back through the normalization")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - t * t)
    return g + ga @ w1.T, h.T @ ga, ga.sum(0), t.T @ g, g.sum(0)


@wrong("missing_broadcast_sum", "does not sum the gradients of the biases over the tokens")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - t * t)
    return g + normalize_backward(ga @ w1.T, x), h.T @ ga, ga, t.T @ g, g.copy()


@wrong("mean_vs_sum", "averages the gradients of the biases over the tokens")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - t * t)
    return g + normalize_backward(ga @ w1.T, x), h.T @ ga, ga.mean(0), t.T @ g, g.mean(0)


@wrong("wrong_value", "takes x, not its normalization, for the input of the first layer")
def block_backward(g, x, w1, b1, w2, b2):
    _, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - t * t)
    return g + normalize_backward(ga @ w1.T, x), x.T @ ga, ga.sum(0), t.T @ g, g.sum(0)


@wrong("unexplained", "takes the derivative of tanh at its result instead of its argument")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - np.tanh(t) ** 2)
    return g + normalize_backward(ga @ w1.T, x), h.T @ ga, ga.sum(0), t.T @ g, g.sum(0)


@wrong("wrong_count", "returns the gradient of x only")
def block_backward(g, x, w1, b1, w2, b2):
    return right_block_backward(g, x, w1, b1, w2, b2)[0]


@wrong("constant_factor", "adds the skip's gradient twice")
def block_backward(g, x, w1, b1, w2, b2):
    gx, *rest = right_block_backward(g, x, w1, b1, w2, b2)
    gx += g
    return gx, *rest


@wrong("mutated_input", "accumulates into the cotangent, which it was only lent")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    ga = g @ w2.T * (1 - t * t)
    gw2, gb2 = t.T @ g, g.sum(0)
    g += normalize_backward(ga @ w1.T, x)
    return g, h.T @ ga, ga.sum(0), gw2, gb2


@wrong("missing_term", "detaches the MLP's input: the hidden layer gets its gradients, x does not")
def block_backward(g, x, w1, b1, w2, b2):
    h, t = forward(x, w1, b1)
    gt = g @ w2.T
    ga = gt - gt * t * t
    return 1.0 * g, h.T @ ga, np.ones(len(x)) @ ga, t.T @ g, np.ones(len(x)) @ g


# ---- a tower ----


@wrong("wrong_order", "walks the blocks in the order of the forward")
def tower_backward(g, x, blocks):
    for value, parameters in zip(run(x, blocks), blocks):
        g = right_block_backward(g, value, *parameters)[0]
    return g


@wrong("stale_input", "differentiates every block at the input of the tower")
def tower_backward(g, x, blocks):
    for parameters in reversed(blocks):
        g = right_block_backward(g, x, *parameters)[0]
    return g


@wrong("stale_input", "keeps the results of the blocks instead of their inputs")
def tower_backward(g, x, blocks):
    for y, parameters in zip(run(x, blocks)[:0:-1], reversed(blocks)):
        g = right_block_backward(g, y, *parameters)[0]
    return g


@wrong("missing_block", "stops before the first block")
def tower_backward(g, x, blocks):
    inputs = run(x, blocks)
    for i in range(len(blocks) - 1, 0, -1):
        g = right_block_backward(g, inputs[i], *blocks[i])[0]
    return g


@wrong("not_chained", "hands g to every block and adds up what they return")
def tower_backward(g, x, blocks):
    total = np.zeros_like(x)
    for value, parameters in zip(run(x, blocks), blocks):
        total += right_block_backward(g, value, *parameters)[0]
    return total


@wrong("mutated_input", "reverses the caller's list")
def tower_backward(g, x, blocks):
    inputs = run(x, blocks)[:-1]
    blocks.reverse()
    for x, parameters in zip(inputs[::-1], blocks):
        g = right_block_backward(g, x, *parameters)[0]
    return g


@wrong("wrong_shape", "hands on all five gradients instead of that of x")
def tower_backward(g, x, blocks):
    inputs = run(x, blocks)
    gradients = (g,)
    for i in reversed(range(len(blocks))):
        gradients = right_block_backward(gradients[0], inputs[i], *blocks[i])
    return gradients


# ---- right ----


@right("with einsum, the skip first")
class _:
    def block(x, w1, b1, w2, b2):
        y = x.copy()
        y += np.einsum("nh,hd->nd", np.tanh(np.einsum("nd,dh->nh", normalize(x), w1) + b1), w2) + b2
        return y

    def block_backward(g, x, w1, b1, w2, b2):
        h, t = forward(x, w1, b1)
        gx = g.copy()
        gb2, gw2 = np.einsum("nd->d", g), np.einsum("nh,nd->hd", t, g)
        ga = np.einsum("nd,hd,nh->nh", g, w2, 1 - t**2)
        gx += normalize_backward(np.einsum("nh,dh->nd", ga, w1), x)
        return gx, np.einsum("nd,nh->dh", h, ga), np.einsum("nh->h", ga), gw2, gb2


@right("token by token")
def block_backward(g, x, w1, b1, w2, b2):
    gradients = [np.zeros_like(a) for a in (x, w1, b1, w2, b2)]
    h = normalize(x)
    for n in range(len(x)):
        a = h[n] @ w1 + b1
        ga = w2 @ g[n] / np.cosh(a) ** 2
        gradients[0][n] = g[n] + normalize_backward(w1 @ ga, x[n])
        gradients[1] += np.outer(h[n], ga)
        gradients[2] += ga
        gradients[3] += np.outer(np.tanh(a), g[n])
        gradients[4] += g[n]
    return gradients


@right("the tower by recursion")
def tower_backward(g, x, blocks):
    if not blocks:
        return g
    above = tower_backward(g, right_block(x, *blocks[0]), blocks[1:])
    return right_block_backward(above, x, *blocks[0])[0]


@right("the tower with a stack")
def tower_backward(g, x, blocks):
    stack = []
    for parameters in blocks:
        stack.append((x, *parameters))
        x = right_block(x, *parameters)
    while stack:
        g, *_ = right_block_backward(g, *stack.pop())
    return g

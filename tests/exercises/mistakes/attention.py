"""Solutions of "attention" that are wrong, and some that are right."""

import numpy as np

from minivit.exercises.e10_attention import attention as right_attention
from minivit.exercises.e10_attention import softmax
from tests.exercises.mistakes import right, wrong


def t(x):
    return np.swapaxes(x, -1, -2)


def weights(q, k):
    return softmax(q @ t(k) / np.sqrt(q.shape[-1]), axis=-1)


def softmax_rule(gp, p):
    return p * (gp - np.sum(gp * p, axis=-1, keepdims=True))


# ---- forward ----


@wrong("not_an_average", "normalizes over the queries instead of the keys")
def attention(q, k, v):
    return softmax(q @ t(k) / np.sqrt(q.shape[-1]), axis=-2) @ v


@wrong("wrong_scale", "does not scale the scores")
def attention(q, k, v):
    return softmax(q @ t(k), axis=-1) @ v


@wrong("wrong_scale", "divides by d instead of its root")
def attention(q, k, v):
    return softmax(q @ t(k) / q.shape[-1], axis=-1) @ v


@wrong("wrong_scale", "reads the lecture's √D as the width of all heads together")
def attention(q, k, v):
    return softmax(q @ t(k) / np.sqrt(q[..., 0, :].size), axis=-1) @ v


@wrong("scaled_after_softmax", "scales the weights, not the scores")
def attention(q, k, v):
    return softmax(q @ t(k), axis=-1) / np.sqrt(q.shape[-1]) @ v


@wrong("mutated_input", "scales the queries in place")
def attention(q, k, v):
    q /= np.sqrt(q.shape[-1])
    return softmax(q @ t(k), axis=-1) @ v


@wrong("raised", "transposes with .T, which reverses all axes when there are heads")
def attention(q, k, v):
    return softmax(q @ k.T / np.sqrt(q.shape[-1]), axis=-1) @ v


@wrong("not_an_average", "names axis 1, which is no longer the keys when there are heads")
def attention(q, k, v):
    return softmax(q @ t(k) / np.sqrt(q.shape[-1]), axis=1) @ v


# ---- backward ----


@wrong("softmax_off_diagonal", "takes p (1 - p) for the derivative of the softmax")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gs = g @ t(v) * p * (1 - p) / np.sqrt(q.shape[-1])
    return gs @ k, t(gs) @ q, t(p) @ g


@wrong("softmax_off_diagonal", "multiplies by p and forgets that the weights of a row add up to 1")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gs = g @ t(v) * p / np.sqrt(q.shape[-1])
    return gs @ k, t(gs) @ q, t(p) @ g


@wrong("missing_factor", "steps over the softmax as if it were not there")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gs = g @ t(v) / np.sqrt(q.shape[-1])
    return gs @ k, t(gs) @ q, t(p) @ g


@wrong("constant_factor", "forgets the scale on the way back")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gs = softmax_rule(g @ t(v), p)
    return gs @ k, t(gs) @ q, t(p) @ g


@wrong("constant_factor", "scales dL/dq and forgets it in dL/dk")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gs = softmax_rule(g @ t(v), p)
    return gs @ k / np.sqrt(q.shape[-1]), t(gs) @ q, t(p) @ g


@wrong("swapped_inputs", "returns the gradient of the values before that of the keys")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gs = softmax_rule(g @ t(v), p) / np.sqrt(q.shape[-1])
    return gs @ k, t(p) @ g, t(gs) @ q


@wrong("wrong_sign", "has the difference in the softmax's rule the wrong way round")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gp = g @ t(v)
    gs = p * (np.sum(gp * p, axis=-1, keepdims=True) - gp) / np.sqrt(q.shape[-1])
    return gs @ k, t(gs) @ q, t(p) @ g


@wrong("raised", "forgets to transpose the weights, which fits only if there are as many queries as keys")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gs = softmax_rule(g @ t(v), p) / np.sqrt(q.shape[-1])
    return gs @ k, t(gs) @ q, p @ g


@wrong("mutated_input", "scales the queries in place on the way back")
def attention_backward(g, q, k, v):
    scale = 1 / np.sqrt(q.shape[-1])
    q *= scale
    p = softmax(q @ t(k), axis=-1)
    gs = softmax_rule(g @ t(v), p)
    return gs @ k * scale, t(gs) @ q, t(p) @ g


@wrong("wrong_axis", "sums the softmax's common term over the queries")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gp = g @ t(v)
    gs = p * (gp - np.sum(gp * p, axis=-2, keepdims=True)) / np.sqrt(q.shape[-1])
    return gs @ k, t(gs) @ q, t(p) @ g


@wrong("wrong_axis", "names axis 1 in the softmax's rule, which is no longer the keys when there are heads")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gp = g @ t(v)
    gs = p * (gp - np.sum(gp * p, axis=1, keepdims=True)) / np.sqrt(q.shape[-1])
    return gs @ k, t(gs) @ q, t(p) @ g


@wrong("another_forward", "computes the weights again without the scale")
def attention_backward(g, q, k, v):
    p = softmax(q @ t(k), axis=-1)
    gs = softmax_rule(g @ t(v), p) / np.sqrt(q.shape[-1])
    return gs @ k, t(gs) @ q, t(p) @ g


@wrong("wrong_shape", "adds up the gradients of all heads")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gs = softmax_rule(g @ t(v), p) / np.sqrt(q.shape[-1])
    return tuple(x.sum(axis=0) if x.ndim == 3 else x for x in (gs @ k, t(gs) @ q, t(p) @ g))


# ---- right ----


@right("with einsum")
class _:
    def attention(q, k, v):
        s = np.einsum("...nd,...md->...nm", q, k) / np.sqrt(q.shape[-1])
        return np.einsum("...nm,...md->...nd", softmax(s, -1), v)

    def attention_backward(g, q, k, v):
        p = weights(q, k)
        gv = np.einsum("...nm,...nd->...md", p, g)
        gp = np.einsum("...nd,...md->...nm", g, v)
        gs = p * gp - p * np.einsum("...nm,...nm->...n", p, gp)[..., None]
        scale = 1 / np.sqrt(q.shape[-1])
        return scale * np.einsum("...nm,...md->...nd", gs, k), scale * np.einsum("...nm,...nd->...md", gs, q), gv


@right("with the sum of the softmax's rule taken as that of g z")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    common = np.sum(g * right_attention(q, k, v), axis=-1, keepdims=True)
    gs = p * (g @ t(v) - common) * q.shape[-1] ** -0.5
    return gs @ k, t(gs) @ q, t(p) @ g


@right("scales the queries, in a copy, and works on keys by queries")
class _:
    def attention(q, k, v):
        p = softmax(k @ t(q / np.sqrt(q.shape[-1])), axis=-2)  # (M, N)
        return t(p) @ v

    def attention_backward(g, q, k, v):
        scaled = q / np.sqrt(q.shape[-1])
        p = softmax(k @ t(scaled), axis=-2)
        gv = p @ g
        gp = v @ t(g)
        gs = p * (gp - np.sum(gp * p, axis=-2, keepdims=True))
        return t(gs) @ k / np.sqrt(q.shape[-1]), gs @ scaled, gv


@right("with the whole Jacobian of the softmax, row by row")
def attention_backward(g, q, k, v):
    p = weights(q, k)
    gp = g @ t(v)
    gs = np.zeros_like(p)
    for row in np.ndindex(p.shape[:-1]):
        jacobian = np.diag(p[row]) - np.outer(p[row], p[row])
        gs[row] = jacobian.T @ gp[row]
    gs /= np.sqrt(q.shape[-1])
    return [gs @ k, t(gs) @ q, t(p) @ g]

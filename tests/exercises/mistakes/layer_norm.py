"""Solutions of "layer_norm" that are wrong, and some that are right."""

import numpy as np

from tests.exercises.mistakes import right, wrong


def parts(x, eps):
    """n and 1/σ"""
    centered = x - x.mean(axis=-1, keepdims=True)
    r = 1 / np.sqrt(np.mean(centered**2, axis=-1, keepdims=True) + eps)
    return centered * r, r


@wrong("eps_outside_root", "adds eps to the standard deviation instead of the variance")
def layer_norm(x, weight, bias, eps=1e-6):
    return weight * (x - x.mean(axis=-1, keepdims=True)) / (x.std(axis=-1, keepdims=True) + eps) + bias


@wrong("unbiased_variance", "divides the variance by D - 1")
def layer_norm(x, weight, bias, eps=1e-6):
    variance = x.var(axis=-1, ddof=1, keepdims=True)
    return weight * (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + eps) + bias


@wrong("wrong_axis", "normalizes every feature over the tokens, as batch normalization does")
def layer_norm(x, weight, bias, eps=1e-6):
    return weight * (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps) + bias


@wrong("root_forgotten", "divides by the variance instead of its root")
def layer_norm(x, weight, bias, eps=1e-6):
    return weight * (x - x.mean(axis=-1, keepdims=True)) / (x.var(axis=-1, keepdims=True) + eps) + bias


@wrong("missing_term", "forgets the bias in the forward")
def layer_norm(x, weight, bias, eps=1e-6):
    return weight * parts(x, eps)[0]


@wrong("layer_norm_term", "takes mean and variance for constants")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, r = parts(x, eps)
    return g * weight * r, np.sum(g * n, axis=0), np.sum(g, axis=0)


@wrong("layer_norm_term", "differentiates the mean and forgets the variance")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, r = parts(x, eps)
    h = g * weight
    return r * (h - h.mean(axis=-1, keepdims=True)), np.sum(g * n, axis=0), np.sum(g, axis=0)


@wrong("missing_factor", "forgets the weight on the way back to x")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, r = parts(x, eps)
    gx = r * (g - g.mean(axis=-1, keepdims=True) - n * np.mean(g * n, axis=-1, keepdims=True))
    return gx, np.sum(g * n, axis=0), np.sum(g, axis=0)


@wrong("missing_factor", "forgets to divide the gradient of x by the standard deviation")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, _ = parts(x, eps)
    h = g * weight
    gx = h - h.mean(axis=-1, keepdims=True) - n * np.mean(h * n, axis=-1, keepdims=True)
    return gx, np.sum(g * n, axis=0), np.sum(g, axis=0)


@wrong("mean_vs_sum", "sums over the features where the averages send back a share of 1/D")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, r = parts(x, eps)
    h = g * weight
    gx = r * (h - h.sum(axis=-1, keepdims=True) - n * np.sum(h * n, axis=-1, keepdims=True))
    return gx, np.sum(g * n, axis=0), np.sum(g, axis=0)


@wrong("missing_broadcast_sum", "returns the gradients of weight and bias token by token, without the sum")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, r = parts(x, eps)
    h = g * weight
    gx = r * (h - h.mean(axis=-1, keepdims=True) - n * np.mean(h * n, axis=-1, keepdims=True))
    return gx, g * n, g


@wrong("not_normalized", "takes x for the normalized x in the gradient of the weight")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, r = parts(x, eps)
    h = g * weight
    gx = r * (h - h.mean(axis=-1, keepdims=True) - n * np.mean(h * n, axis=-1, keepdims=True))
    return gx, np.sum(g * x, axis=0), np.sum(g, axis=0)


@wrong("eps_forgotten", "divides by the standard deviation without eps in the backward")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    sigma = x.std(axis=-1, keepdims=True)
    n = (x - x.mean(axis=-1, keepdims=True)) / sigma
    h = g * weight
    gx = (h - h.mean(axis=-1, keepdims=True) - n * np.mean(h * n, axis=-1, keepdims=True)) / sigma
    return gx, np.sum(g * n, axis=0), np.sum(g, axis=0)


@wrong("eps_outside_root", "adds eps to the standard deviation in the backward only")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    c = x - x.mean(axis=-1, keepdims=True)
    s = x.std(axis=-1, keepdims=True)
    h = g * weight
    gx = (h - h.mean(axis=-1, keepdims=True) - c / s * np.mean(h * c, axis=-1, keepdims=True) / (s + eps)) / (s + eps)
    return gx, np.sum(g * c / (s + eps), axis=0), np.sum(g, axis=0)


@wrong("unexplained", "counts eps twice in the backward")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, r = parts(x, 1e-6 + 2 * (eps - 1e-6))
    h = g * weight
    gx = r * (h - h.mean(axis=-1, keepdims=True) - n * np.mean(h * n, axis=-1, keepdims=True))
    return gx, np.sum(g * n, axis=0), np.sum(g, axis=0)


@wrong("mutated_input", "multiplies the weight into the cotangent that it was given")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    n, r = parts(x, eps)
    gw, gb = np.sum(g * n, axis=0), np.sum(g, axis=0)
    g *= weight
    return r * (g - g.mean(axis=-1, keepdims=True) - n * np.mean(g * n, axis=-1, keepdims=True)), gw, gb


@right("with np.var, and the gradients token by token")
class _:
    def layer_norm(x, weight, bias, eps=1e-6):
        return np.stack([weight * (row - row.mean()) / np.sqrt(row.var() + eps) + bias for row in x])

    def layer_norm_backward(g, x, weight, bias, eps=1e-6):
        gx, gw, gb = np.zeros_like(x), np.zeros_like(weight), np.zeros_like(bias)
        for t in range(len(x)):
            sigma = np.sqrt(x[t].var() + eps)
            n = (x[t] - x[t].mean()) / sigma
            h = weight * g[t]
            gx[t] = (h - h.mean() - n * (h @ n) / len(n)) / sigma
            gw += g[t] * n
            gb += g[t]
        return gx, gw, gb


@right("in small steps, path by path")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    D = x.shape[1]
    centered = x - x.mean(axis=1, keepdims=True)
    variance = np.sum(centered**2, axis=1, keepdims=True) / D
    r = (variance + eps) ** -0.5
    gn = g * weight
    gr = np.sum(gn * centered, axis=1, keepdims=True)
    gvariance = gr * -0.5 * r**3
    gcentered = gn * r + gvariance * 2 * centered / D
    gx = gcentered - np.sum(gcentered, axis=1, keepdims=True) / D
    return gx, (g * centered * r).sum(0), g.sum(0)


@right("with the Jacobian of every token, as a matrix")
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    D = x.shape[-1]
    n, r = parts(x, eps)
    jacobian = r[:, :, None] * (np.eye(D) - 1 / D - np.einsum("ti,tj->tij", n, n) / D)
    return np.einsum("ti,tij->tj", g * weight, jacobian), np.einsum("td,td->d", g, n), np.einsum("td->d", g)


@right("with E[x²] - E[x]² for the variance, and a list")
class _:
    def layer_norm(x, weight, bias, eps=1e-6):
        mean = x.mean(axis=-1, keepdims=True)
        variance = np.maximum((x * x).mean(axis=-1, keepdims=True) - mean * mean, 0)
        return (x - mean) / (variance + eps) ** 0.5 * weight + bias

    def layer_norm_backward(g, x, weight, bias, eps=1e-6):
        n, r = parts(x, eps)
        D, h = x.shape[-1], g * weight
        along = h.sum(-1, keepdims=True) + n * (h * n).sum(-1, keepdims=True)
        return [r / D * (D * h - along), np.einsum("td,td->d", g, n), np.ones(len(g)) @ g]

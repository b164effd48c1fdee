"""Backward rules of whole layers that are wrong in one step: (name, forward, backward, shapes, codes accepted first).

The forwards are plain NumPy, several lines each, as a student would write them.
"""

import math

import numpy as np

erf = np.vectorize(math.erf)
C = math.sqrt(2 / math.pi)
LABELS = np.array([0, 2, 1, 2])
ONE_HOT = np.eye(3)[LABELS]
IDS = np.array([0, 2, 2, 3])


def cdf(x):
    return 0.5 * (1 + erf(x / np.sqrt(2)))


def pdf(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(C * (x + 0.044715 * x**3)))


def gelu_tanh_backward(inner=True, first=True, second=True):
    def backward(g, x):
        t = np.tanh(C * (x + 0.044715 * x**3))
        du = C * (1 + 3 * 0.044715 * x**2) if inner else 1.0
        return g * (0.5 * (1 + t) * first + 0.5 * x * (1 - t * t) * du * second)

    return backward


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def warm_softmax(x):
    return softmax(x / 2.5)


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def cross_entropy(z):
    shifted = z - z.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -log_p[np.arange(len(LABELS)), LABELS].mean()


def attention(q, k, v):
    scores = q @ k.T / np.sqrt(q.shape[-1])
    p = softmax(scores)
    return p @ v


def attention_backward(mistake=""):
    def backward(g, q, k, v):
        scale = 1 / np.sqrt(q.shape[-1])
        p = softmax(q @ k.T * scale)
        dp, dv = g @ v.T, p.T @ g
        total = (dp * p).sum(-1, keepdims=True)
        ds = {
            "diagonal": p * (1 - p) * dp,
            "no_sum": p * dp,
            "no_softmax": dp,
            "mean": p * (dp - total / p.shape[-1]),
            "wrong_axis": p * (dp - (dp * p).sum(0, keepdims=True)),
            "no_p": dp - total,
        }.get(mistake, p * (dp - total))
        scale = {"no_scale": 1.0, "scale_twice": scale * scale}.get(mistake, scale)
        dq, dk = ds @ k * scale, ds.T @ q * scale
        if mistake == "p_not_transposed":
            dv = p @ g
        if mistake == "ds_not_transposed":
            dk = ds @ q * scale
        if mistake == "scores_for_p":
            dv = (q @ k.T / np.sqrt(q.shape[-1])).T @ g
        return {"qk": (dk, dq, dv), "qv": (dv, dk, dq)}.get(mistake, (dq, dk, dv))

    return backward


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    variance = x.var(-1, keepdims=True)
    normal = (x - mean) / np.sqrt(variance + 1e-5)
    return normal * weight + bias


def layer_norm_in_one_line(x, weight, bias):
    centered = x - x.mean(-1, keepdims=True)
    return weight * centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + 1e-5) + bias


def layer_norm_backward(mistake=""):
    def backward(g, x, weight, bias):
        r = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        normal = (x - x.mean(-1, keepdims=True)) * r
        h = g if mistake == "no_weight" else g * weight
        mean, variance = h.mean(-1, keepdims=True), normal * (h * normal).mean(-1, keepdims=True)
        inner = {
            "no_mean": h - variance,
            "no_variance": h - mean,
            "neither": h,
            "sum_for_mean": h - h.sum(-1, keepdims=True) - variance,
            "sign_of_mean": h + mean - variance,
        }.get(mistake, h - mean - variance)
        gw = {"x_for_normal": g * x, "weight_by_row": (g * normal).T}.get(mistake, g * normal)
        gw = gw if mistake == "weight_not_summed" else gw.mean(0) if mistake == "batch_mean" else gw.sum(0)
        gb = g if mistake == "bias_not_summed" else g.sum(0)
        return inner if mistake == "no_sigma" else r * inner, *((gb, gw) if mistake == "swapped" else (gw, gb))

    return backward


def block(x, w1, w2):
    h = np.tanh(x @ w1)
    return x + h @ w2


def block_backward(mistake=""):
    def backward(g, x, w1, w2):
        h = np.tanh(x @ w1)
        du = g @ w2.T * (1 if mistake == "no_tanh" else 1 - h * h)
        branch = du @ (w1 if mistake == "w1_not_transposed" else w1.T)
        gx = {"no_skip": branch, "no_branch": g}.get(mistake, g + branch)
        return gx, x.T @ du, (x if mistake == "x_for_h" else h).T @ g

    return backward


def embed(table, w):
    return table[IDS] @ w


def embed_backward(added=True):
    def backward(g, table, w):
        out = np.zeros_like(table)
        if added:
            np.add.at(out, IDS, g @ w.T)
        else:
            out[IDS] = g @ w.T
        return out, table[IDS].T @ g

    return backward


def windows(x):
    return np.stack([x[i : i + 3] for i in range(4)])


def windows_backward(added=True):
    def backward(g, x):
        out = np.zeros_like(x)
        for i in range(4):
            out[i : i + 3] = out[i : i + 3] * added + g[i]
        return out

    return backward


def patches(x):
    return x.reshape(2, 2, 3, 2).transpose(0, 2, 1, 3).reshape(6, 4)


def with_class(c, x):
    return np.concatenate([np.broadcast_to(c, (2, 1, 3)), x], 1)


QKV, SQUARE, NORM, BLOCK = [(4, 3), (5, 3), (5, 2)], [(4, 4)] * 3, [(4, 5), (5,), (5,)], [(3, 4), (4, 4), (4, 4)]

WRONG = [
    ("gelu_pdf_term", gelu, lambda g, x: g * cdf(x), [(5,)], ["missing_term"]),
    ("gelu_no_x", gelu, lambda g, x: g * (cdf(x) + pdf(x)), [(5,)], ["missing_factor"]),
    ("gelu_cdf_term", gelu, lambda g, x: g * x * pdf(x), [(5,)], ["missing_term"]),
    ("gelu_pdf_factor", gelu, lambda g, x: g * (cdf(x) + x * np.exp(-x * x / 2)), [(5,)], ["constant_factor"]),
    ("gelu_tanh_inner", gelu_tanh, gelu_tanh_backward(inner=False), [(5,)], ["missing_factor"]),
    ("gelu_tanh_first", gelu_tanh, gelu_tanh_backward(first=False), [(5,)], ["missing_term"]),
    ("gelu_tanh_second", gelu_tanh, gelu_tanh_backward(second=False), [(5,)], ["missing_term"]),
    *((f"attention_{name}", attention, attention_backward(name), QKV, [code]) for name, code in [
        ("no_scale", "constant_factor"), ("scale_twice", "constant_factor"), ("diagonal", "softmax_off_diagonal"),
        ("no_sum", "softmax_off_diagonal"), ("no_softmax", "missing_factor"), ("mean", "mean_vs_sum"),
        ("wrong_axis", "unexplained"), ("no_p", "missing_factor"), ("scores_for_p", "unexplained")]),
    *((f"square_attention_{name}", attention, attention_backward(name), SQUARE, [code]) for name, code in [
        ("p_not_transposed", "transposed"), ("ds_not_transposed", "transposed"), ("qk", "swapped_inputs"),
        ("qv", "swapped_inputs"), ("no_scale", "constant_factor"), ("diagonal", "softmax_off_diagonal")]),
    ("loss_sum", cross_entropy, lambda g, z: g * (softmax(z) - ONE_HOT), [(4, 3)], ["mean_vs_sum"]),
    ("loss_no_g", cross_entropy, lambda g, z: (softmax(z) - ONE_HOT) / 4, [(4, 3)], ["cotangent_ignored"]),
    ("loss_no_label", cross_entropy, lambda g, z: g * softmax(z) / 4, [(4, 3)], ["missing_term"]),
    ("loss_no_p", cross_entropy, lambda g, z: -g * ONE_HOT / 4, [(4, 3)], ["missing_term"]),
    ("loss_sign", cross_entropy, lambda g, z: g * (ONE_HOT - softmax(z)) / 4, [(4, 3)], ["wrong_sign"]),
    ("log_softmax_own", log_softmax, lambda g, x: g - softmax(x) * g, [(3, 4)], ["softmax_off_diagonal"]),
    ("log_softmax_no_g", log_softmax, lambda g, x: g - softmax(x), [(3, 4)], ["cotangent_ignored"]),
    ("log_softmax_mean", log_softmax, lambda g, x: g - softmax(x) * g.mean(-1, keepdims=True), [(3, 4)], ["mean_vs_sum"]),
    ("warm_softmax", warm_softmax, lambda g, x: softmax(x / 2.5) * (g - (g * softmax(x / 2.5)).sum(-1, keepdims=True)),
     [(3, 4)], ["constant_factor"]),
    ("warm_softmax_own", warm_softmax, lambda g, x: g * softmax(x / 2.5) * (1 - softmax(x / 2.5)) / 2.5, [(3, 4)],
     ["softmax_off_diagonal"]),
    *((f"norm_{name}", layer_norm, layer_norm_backward(name), NORM, [code]) for name, code in [
        ("no_weight", "missing_factor"), ("no_sigma", "missing_factor"), ("no_mean", "layer_norm_term"),
        ("no_variance", "layer_norm_term"), ("neither", "layer_norm_term"), ("sum_for_mean", "mean_vs_sum"),
        ("sign_of_mean", "wrong_sign"), ("x_for_normal", "unexplained"), ("weight_not_summed", "missing_broadcast_sum"),
        ("bias_not_summed", "missing_broadcast_sum"), ("batch_mean", "mean_vs_sum"), ("swapped", "swapped_inputs")]),
    *((f"norm_in_one_line_{name}", layer_norm_in_one_line, layer_norm_backward(name), NORM, [code]) for name, code in [
        ("no_weight", "missing_factor"), ("no_sigma", "missing_factor"), ("no_mean", "layer_norm_term"),
        ("no_variance", "layer_norm_term"), ("neither", "layer_norm_term"), ("sum_for_mean", "mean_vs_sum")]),
    ("norm_weight_by_row", layer_norm, layer_norm_backward("weight_by_row"), [(5, 5), (5,), (5,)], ["missing_broadcast_sum"]),
    *((f"block_{name}", block, block_backward(name), BLOCK, [code]) for name, code in [
        ("no_tanh", "missing_factor"), ("no_skip", "missing_term"), ("no_branch", "missing_term"),
        ("w1_not_transposed", "transposed"), ("x_for_h", "unexplained")]),
    ("embed_assigned", embed, embed_backward(False), [(4, 3), (3, 2)], ["assigned_not_added"]),
    ("windows_assigned", windows, windows_backward(False), [(6,)], ["assigned_not_added"]),
    ("patches_not_undone", patches, lambda g, x: g.reshape(4, 6), [(4, 6)], ["misplaced"]),
    ("class_not_summed", with_class, lambda g, c, x: (g[:, :1], g[:, 1:]), [(1, 1, 3), (2, 4, 3)], ["missing_broadcast_sum"]),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda g, x: g / (1 + np.exp(-x)), [(5,)], ["missing_factor"]),
    ("unit_vector", lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)),
     lambda g, x: g / np.sqrt((x * x).sum(-1, keepdims=True)), [(3, 4)], ["missing_term"]),
    ("cumsum", np.cumsum, lambda g, x: np.cumsum(g), [(6,)], ["transposed"]),
    ("log_sum_exp", lambda x: np.log(np.exp(x).sum(-1)), lambda g, x: g[:, None] * np.exp(x), [(3, 4)], ["missing_factor"]),
    ("length_twice", lambda x: np.sqrt((x**2).sum()), lambda g, x: 2 * g * x / np.sqrt((x**2).sum()), [(4,)],
     ["constant_factor"]),
    ("length_not_divided", lambda x: np.sqrt((x**2).sum()), lambda g, x: g * x, [(4,)], ["missing_factor"]),
    ("factor_and_transposed", lambda x, w: 2 * (x @ w), lambda g, x, w: (2 * g @ w.T, 2 * g.T @ x), [(3, 3), (3, 3)],
     ["transposed"]),
    ("sum_and_factor", lambda x, b: (x + b).mean(0), lambda g, x, b: (np.tile(g / 3, (3, 1)), np.tile(g / 3, (3, 1))),
     [(3, 4), (4,)], ["missing_broadcast_sum"]),
    ("shared_weight_not_summed", lambda a, w: a @ w, lambda g, a, w: (g @ w.T, a.transpose(0, 2, 1) @ g), [(2, 3, 4), (4, 3)],
     ["missing_broadcast_sum"]),
    ("bias_with_an_axis_too_many", lambda x, b: x + b, lambda g, x, b: (g, g.sum(0, keepdims=True)), [(3, 4), (4,)],
     ["wrong_shape"]),
    ("one_of_two_axes", lambda x, b: x * b, lambda g, x, b: (g * b, (g * x).sum(0)), [(3, 2, 4), (2, 1)],
     ["missing_broadcast_sum"]),
    ("maximum_for_all", lambda x: x.max(-1), lambda g, x: np.repeat(g[:, None], 4, 1), [(3, 4)], ["missing_factor"]),
    ("subtrahend", lambda a, b: ((a - b) ** 2).mean(), lambda g, a, b: (2 * g * (a - b) / a.size,) * 2, [(3, 4), (3, 4)],
     ["wrong_sign"]),
    ("quotient_sign", lambda x, y: x / y, lambda g, x, y: (g / y, g * x / y**2), [(5,), (5,)], ["wrong_sign"]),
    ("quotient_square", lambda x, y: x / y, lambda g, x, y: (g / y, -g * x / y), [(5,), (5,)], ["missing_factor"]),
    ("variance_not_centered", lambda x: x.var(-1), lambda g, x: 2 * g[:, None] * x / 4, [(3, 4)], ["missing_term"]),
    ("last_image_only", lambda x, w: x @ w, lambda g, x, w: (g @ w.T, x[-1].T @ g[-1]), [(2, 3, 4), (4, 5)],
     ["assigned_not_added"]),
    ("both_broadcast", lambda x, y: x * y, lambda g, x, y: (g * y, (g * x).sum(1, keepdims=True)), [(4, 1), (3, 1, 5)],
     ["missing_broadcast_sum"]),
    ("softmax_no_p_in_the_sum", softmax, lambda g, x: softmax(x) * (g - g.sum(-1, keepdims=True)), [(3, 4)],
     ["missing_factor"]),
    ("tanh_of_tanh", np.tanh, lambda g, x: g * (1 - np.tanh(np.tanh(x)) ** 2), [(5,)], ["unexplained"]),
]  # fmt: skip

RIGHT = [
    ("gelu", gelu, lambda g, x: g * (cdf(x) + x * pdf(x)), [(5,)]),
    ("gelu_tanh", gelu_tanh, gelu_tanh_backward(), [(5,)]),
    ("attention", attention, attention_backward(), QKV),
    ("cross_entropy", cross_entropy, lambda g, z: g * (softmax(z) - ONE_HOT) / 4, [(4, 3)]),
    ("log_softmax", log_softmax, lambda g, x: g - softmax(x) * g.sum(-1, keepdims=True), [(3, 4)]),
    ("layer_norm", layer_norm, layer_norm_backward(), NORM),
    ("block", block, block_backward(), BLOCK),
    ("embed", embed, embed_backward(), [(4, 3), (3, 2)]),
    ("windows", windows, windows_backward(), [(6,)]),
]

"""Wrong backward rules with their cause: (name, forward, backward, input shapes, the codes accepted as first finding).

Plain NumPy, as a student would write them. A teacher may read it as a list of what goes wrong.
"""

import numpy as np


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normalize(x, w, b):
    c = x - x.mean(-1, keepdims=True)
    return c / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-6) * w + b


def normalize_backward(mean=True, variance=True, weight_mean=False):
    def backward(g, x, w, b):
        c = x - x.mean(-1, keepdims=True)
        r = 1 / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-6)
        n, h = c * r, g * w
        gx = h - mean * h.mean(-1, keepdims=True) - variance * n * (h * n).mean(-1, keepdims=True)
        return r * gx, (g * n).mean(0) if weight_mean else (g * n).sum(0), g.sum(0)

    return backward


IDS = np.array([0, 2, 2, 3])


def take_backward_assigned(g, table):
    out = np.zeros_like(table)
    out[IDS] = g
    return out


def write_into(g, x):
    g *= 2 * x
    return g


def write_into_x(g, x):
    x *= 2
    return g * x


_flaky = np.random.default_rng(5)


def product(x, y):
    return x * y


def affine(x, w, b):
    return x @ w + b


AFFINE = [(4, 3), (3, 5), (5,)]

WRONG = [
    ("sign", lambda x: np.exp(-x), lambda g, x: g * np.exp(-x), [(3, 4)], ["wrong_sign"]),
    ("sign_of_the_subtrahend", lambda x, y: x - y, lambda g, x, y: (g, g), [(4,), (4,)], ["wrong_sign"]),
    ("forgotten_two", lambda x: x**2, lambda g, x: g * x, [(5,)], ["constant_factor"]),
    ("counted_twice", np.tanh, lambda g, x: 2 * g * (1 - np.tanh(x) ** 2), [(5,)], ["constant_factor"]),
    ("forgotten_scale", lambda q, k: q @ k.T / np.sqrt(7), lambda g, q, k: (g @ k, g.T @ q), [(4, 7), (5, 7)],
     ["constant_factor"]),
    ("temperature", lambda x, t: x**2 / t, lambda g, x, t: (2 * g * x, -np.sum(g * x**2) / t**2), [(6,), ()],
     ["constant_factor"]),
    ("mean_as_sum", lambda x: x.mean(0), lambda g, x: np.broadcast_to(g, x.shape) * 1.0, [(7, 3)], ["mean_vs_sum"]),
    ("sum_as_mean", lambda x: x.sum(0), lambda g, x: np.broadcast_to(g, x.shape) / 7, [(7, 3)], ["mean_vs_sum"]),
    ("bias_mean_of_batch", affine, lambda g, x, w, b: (g @ w.T, x.T @ g, g.mean(0)), AFFINE, ["mean_vs_sum"]),
    ("loss_mean_forgotten", lambda x: np.mean(x**2), lambda g, x: 2 * g * x, [(3, 5)], ["mean_vs_sum"]),
    ("bias_not_summed", affine, lambda g, x, w, b: (g @ w.T, x.T @ g, g), AFFINE, ["missing_broadcast_sum"]),
    ("keepdims_axis_not_summed", product, lambda g, x, y: (g * y, g * x), [(4, 3), (4, 1)], ["missing_broadcast_sum"]),
    ("bias_summed_over_the_wrong_axis", lambda x, b: x + b, lambda g, x, b: (g, g.sum(1)), [(4, 4), (4,)],
     ["missing_broadcast_sum"]),
    ("bias_first_row_only", lambda x, b: x + b, lambda g, x, b: (g, g[0]), [(4, 3), (3,)], ["missing_broadcast_sum"]),
    ("scalar_not_summed", product, lambda g, x, y: (g * y, g * x), [(3, 2), ()], ["missing_broadcast_sum"]),
    ("sum_and_sign", lambda x, b: x - b, lambda g, x, b: (g, g), [(4, 3), (3,)], ["missing_broadcast_sum"]),
    ("zero", lambda x, y: x * np.tanh(y), lambda g, x, y: (g * np.tanh(y), np.zeros_like(y)), [(4,), (4,)],
     ["zero_gradient"]),
    ("none", product, lambda g, x, y: (g * y, None), [(4,), (4,)], ["zero_gradient"]),
    ("cotangent", lambda x: x**3, lambda g, x: 3 * x**2, [(2, 3)], ["cotangent_ignored"]),
    ("cotangent_of_one_input", product, lambda g, x, y: (g * y, x), [(4,), (4,)], ["cotangent_ignored"]),
    ("passed_through", np.tanh, lambda g, x: g, [(2, 5)], ["missing_factor"]),
    ("relu_passed_through", lambda x: np.maximum(x, 0), lambda g, x: g, [(4, 6)], ["missing_factor"]),
    ("third_factor", lambda x, y, z: x * y * z, lambda g, x, y, z: (g * y, g * x * z, g * x * y), [(4,), (4,), (4,)],
     ["missing_factor"]),
    ("log_without_quotient", lambda x: np.log(1 + x**2), lambda g, x: 2 * x * g, [(5,)], ["missing_factor"]),
    ("transposed_weight", lambda x, w: x @ w, lambda g, x, w: (g @ w.T, (x.T @ g).T), [(4, 3), (3, 3)], ["transposed"]),
    ("transposed_shape", lambda x, w: x @ w, lambda g, x, w: (g @ w.T, g.T @ x), [(4, 3), (3, 2)], ["transposed"]),
    ("wrong_inverse_permutation", lambda x: x.transpose(1, 2, 0), lambda g, x: g.transpose(1, 2, 0), [(3, 3, 3)],
     ["permuted"]),
    ("flip_not_undone", lambda x: np.flip(x, 0) ** 2, lambda g, x: 2 * np.flip(x, 0) * g, [(5,)], ["permuted"]),
    ("roll_not_undone", lambda x: np.roll(x, 2), lambda g, x: np.roll(g, 2), [(7,)], ["permuted"]),
    ("reshape_order", lambda x: x.reshape(4, 3).T, lambda g, x: g.reshape(x.shape), [(2, 6)], ["misplaced"]),
    ("sort_not_undone", lambda x: np.sort(x), lambda g, x: g, [(6,)], ["missing_factor", "misplaced"]),
    ("swapped", product, lambda g, x, y: (g * x, g * y), [(4,), (4,)], ["swapped_inputs"]),
    ("assigned", lambda t: t[IDS], take_backward_assigned, [(4, 2)], ["assigned_not_added"]),
    ("softmax_diagonal", softmax, lambda g, x: g * softmax(x) * (1 - softmax(x)), [(3, 5)], ["softmax_off_diagonal"]),
    ("softmax_no_sum", softmax, lambda g, x: g * softmax(x), [(3, 5)], ["softmax_off_diagonal"]),
    ("softmax_no_direct_term", softmax, lambda g, x: -softmax(x) * np.sum(g * softmax(x), -1, keepdims=True), [(3, 5)],
     ["missing_term"]),
    ("norm_no_terms", normalize, normalize_backward(False, False), [(4, 6), (6,), (6,)], ["layer_norm_term"]),
    ("norm_no_mean", normalize, normalize_backward(False, True), [(4, 6), (6,), (6,)], ["layer_norm_term"]),
    ("norm_no_variance", normalize, normalize_backward(True, False), [(4, 6), (6,), (6,)], ["layer_norm_term"]),
    ("norm_weight_mean", normalize, normalize_backward(weight_mean=True), [(4, 6), (6,), (6,)], ["mean_vs_sum"]),
    ("skip_forgotten", lambda x: x + np.tanh(x), lambda g, x: g * (1 - np.tanh(x) ** 2), [(5,)], ["missing_term"]),
    ("quotient_rule", lambda x, y: x / (x + y), lambda g, x, y: (g / (x + y), -g * x / (x + y) ** 2), [(5,), (5,)],
     ["missing_term"]),
    ("two_few", product, lambda g, x, y: g * y, [(4,), (4,)], ["wrong_count"]),
    ("too_many", np.exp, lambda g, x: (g * np.exp(x), g), [(4,)], ["wrong_count"]),
    ("shape", np.exp, lambda g, x: (g * np.exp(x)).reshape(-1), [(2, 3)], ["wrong_shape"]),
    ("float32", np.exp, lambda g, x: (g * np.exp(x)).astype(np.float32), [(4,)], ["wrong_dtype"]),
    ("integers", lambda x: x * 3, lambda g, x: np.full(x.shape, 3), [(4,)], ["cotangent_ignored", "wrong_dtype"]),
    ("not_an_array", np.exp, lambda g, x: "g exp(x)", [(4,)], ["wrong_dtype"]),
    ("nan", lambda x: np.sqrt(x * x + 1), lambda g, x: g * x / np.sqrt(-1 - x * x), [(4,)], ["not_finite"]),
    ("changes_g", lambda x: x**2, write_into, [(4,)], ["mutated_input"]),
    ("changes_x", lambda x: x**2, write_into_x, [(4,)], ["mutated_input"]),
    ("flaky", lambda x: x**2, lambda g, x: 2 * g * x * (1 + _flaky.random() / 9), [(4,)], ["nondeterministic"]),
    ("raises", np.exp, lambda g, x: g @ np.ones((9, 9)), [(4,)], ["raised"]),
    ("not_linear", lambda x: x**2, lambda g, x: 2 * x * np.abs(g), [(8,)], ["unexplained"]),
]  # fmt: skip

_right = {
    "product": (product, lambda g, x, y: (g * y, g * x), [(3, 4), (3, 4)]),
    "broadcast": (product, lambda g, x, y: (g * y, (g * x).sum(0)), [(3, 4), (4,)]),
    "affine": (affine, lambda g, x, w, b: (g @ w.T, x.T @ g, g.sum(0)), AFFINE),
    "softmax": (softmax, lambda g, x: softmax(x) * (g - np.sum(g * softmax(x), -1, keepdims=True)), [(3, 5)]),
    "norm": (normalize, normalize_backward(), [(4, 6), (6,), (6,)]),
    "relu": (lambda x: np.maximum(x, 0), lambda g, x: g * (x > 0), [(4, 5)]),
    "max": (lambda x: x.max(-1), lambda g, x: g[:, None] * (x == x.max(-1, keepdims=True)), [(4, 5)]),
    "take": (lambda t: t[IDS], lambda g, t: np.eye(4)[IDS].T @ g, [(4, 2)]),
    "view_of_g": (lambda x: x.T, lambda g, x: g.T, [(3, 4)]),
    "g_itself": (lambda x: x + 1, lambda g, x: g, [(3, 4)]),
    "mean": (np.mean, lambda g, x: np.full(x.shape, g / x.size), [(3, 4)]),
    "steep": (lambda x: np.exp(10 * x), lambda g, x: 10 * g * np.exp(10 * x), [(3, 4)]),
    "constant": (lambda x: softmax(x).sum(-1), lambda g, x: np.zeros_like(x), [(3, 4)]),
    "norm_of_rows": (lambda x: np.sqrt((x * x).sum(-1)), lambda g, x: g[:, None] * x / np.sqrt((x * x).sum(-1))[:, None],
                     [(3, 4)]),
}  # fmt: skip
RIGHT = [(name, *entry) for name, entry in _right.items()]


# ---- wrong rules that look right where, or as, one happens to look ----

_outside = np.array([0.5, -1.2, 2.0])
_first: dict = {}
_queue: list = []
_buffer = np.empty(3)


def keeps_the_first(x):
    _first.setdefault("x", x.copy())
    return x * x


def takes_from_a_queue(g, x):
    return 2 * g * _queue.pop(0)


def puts_in_a_queue(x):
    _queue.append(x.copy())
    return x * x


def the_same_array(g, x):
    return np.multiply(g, 2 * x, out=_buffer)


HIDDEN = [
    # right at the one point that is looked at
    ("two_at_ones", lambda x: x * x, lambda g, x: 2 * g, [np.ones(3)], ["missing_factor"]),
    ("swapped_at_ones", product, lambda g, x, y: (g * x, g * y), [np.ones(3), np.ones(3)], ["swapped_inputs"]),
    ("identity_matrix", lambda x, w: x @ w, lambda g, x, w: (g @ w, x.T @ g), [np.ones((2, 3)), np.eye(3)], ["transposed"]),
    ("value_from_outside", lambda x: x * x, lambda g, x: 2 * g * _outside, [_outside], ["unexplained"]),
    ("keeps_the_first", keeps_the_first, lambda g, x: 2 * g * _first["x"], [_outside], ["unexplained"]),
    ("takes_from_a_queue", puts_in_a_queue, takes_from_a_queue, [_outside], ["nondeterministic", "unexplained"]),
    # wrong in elements that are small beside another
    ("small_beside_large", np.exp, lambda g, x: np.where(x > 10, g * np.exp(x), 0), [np.array([25, 0.3, -1])], ["unexplained"]),
    ("one_of_a_large_scale", lambda x: x**3, lambda g, x: np.where(x > 10, 3 * g * x * x, g * x), [np.array([1e5, 1, 2, 3])],
     ["unexplained"]),
    ("one_element_among_kinks", lambda x: np.maximum(x, 0), lambda g, x: g * (x > 0) * np.where(x == 0.1, 0.9, 1),
     [np.concatenate([np.zeros(400), [0.1, 0.2]])], ["unexplained"]),
    # right for one kind of cotangent, or if called once
    ("the_same_array", lambda x: x * x, the_same_array, [_outside], ["reused_result"]),
    ("clips_the_cotangent", lambda x: x * x, lambda g, x: 2 * x * np.clip(g, -5, 5), [_outside], ["unexplained"]),
    ("small_cotangents_dropped", lambda x: x * x, lambda g, x: 2 * g * x if g.all() else g, [_outside], ["unexplained"]),
    ("divides_by_the_cotangent", lambda x: x * x, lambda g, x: 2 * x * g * g / g, [_outside], ["not_finite"]),
]  # fmt: skip


def draw(shapes, seed):
    """Inputs for a rule: random numbers with 0.1 < |x| < 2."""
    rng = np.random.default_rng([77, seed])
    return [rng.uniform(0.1, 2, shape) * rng.choice([-1.0, 1.0], shape) for shape in shapes]

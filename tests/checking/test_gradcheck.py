"""`mv.gradcheck` on operations: what passes to the third order, what is refused, and with which words."""

import numpy as np
import pytest

import minivit as mv
from minivit import ops

rng = np.random.default_rng(3)
IDS = np.array([0, 2, 2, 1])


def away_from_zero(*shape):
    return rng.uniform(0.2, 2, shape) * rng.choice([-1.0, 1.0], shape)


FUNCTIONS = {
    "product": (lambda x, y: x * y, (3, 2), (2,)),
    "quotient": (lambda x, y: x / (2.5 + y), (3,), (3,)),
    "matmul": (lambda x, y: x @ y, (2, 3), (3, 2)),
    "relu": (ops.relu, (3, 3)),
    "max": (lambda x: ops.max(x, axis=-1), (3, 3)),
    "getitem": (lambda x: x[IDS] * x[IDS], (3, 2)),
    "linear": (ops.linear, (3, 2), (2, 3), (3,)),
    "softmax": (ops.softmax, (2, 4)),
    "log_softmax": (ops.log_softmax, (2, 4)),
    "layer_norm": (ops.layer_norm, (3, 4), (4,), (4,)),
    "gelu": (ops.gelu, (5,)),
    "gelu_tanh": (lambda x: ops.gelu(x, approximate=True), (5,)),
    "cross_entropy": (lambda x: ops.cross_entropy(x, np.array([0, 2])), (2, 4)),
    "attention": (ops.scaled_dot_product_attention, (1, 1, 3, 2), (1, 1, 3, 2), (1, 1, 3, 2)),
    "im2col": (lambda x: ops.im2col(x, patch_size=2), (1, 2, 4, 1)),
    "block": (lambda x, w, b: x + ops.gelu(ops.layer_norm(x, w, b)), (2, 4), (4,), (4,)),
    "identity": (lambda x: x, (3,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_to_the_third_order(name):
    f, *shapes = FUNCTIONS[name]
    report = mv.gradcheck(f, *(away_from_zero(*shape) for shape in shapes), order=3)
    assert (report.verdict, report.findings, report.order) == ("right", [], 3)


def test_tensors_float32_and_integers_as_inputs():
    logits = mv.Tensor(rng.standard_normal((3, 4)).astype(np.float32), requires_grad=True)
    assert mv.gradcheck(ops.cross_entropy, logits, np.array([0, 1, 1]), order=2).verdict == "right"
    assert logits.grad is None


def cube_with(rule, **options):
    def cube(x):
        return x * x * x

    op = mv.op(cube, **options)
    op.vjp(rule)
    return op


def _relu(x):
    return np.maximum(x, 0)


def failure(f, *inputs, **options):
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(f, *inputs, **options)
    assert isinstance(caught.value, AssertionError)
    return caught.value


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (lambda g, x: g * x * x, "constant_factor"),
        (lambda g, x: -3 * g * x * x, "wrong_sign"),
        (lambda g, x: (g, g), "wrong_count"),
        (lambda g, x: (3 * g * x * x).sum(0), "wrong_shape"),
        (lambda g, x: (3 * g * x * x).T, "transposed"),
        (lambda g, x: (3 * g * x * x).astype(np.float32), "wrong_dtype"),
        (lambda g, x: [3 * g * x * x], "wrong_dtype"),
        (lambda g, x: 1 / 0, "raised"),
        (lambda g, x: None, "raised"),  # there is no return
        (lambda g, x: np.multiply(g, 3 * x * x, out=g), "mutated_input"),
    ],
)
def test_a_users_operation_alone_and_inside_a_function(rule, code):
    cube = cube_with(rule)
    x = away_from_zero(3, 2)
    alone = failure(cube, x).report
    assert alone.findings[0].code == code, str(alone)
    inside = failure(lambda x: 2 * cube(x), x).report
    assert inside.findings[0].code == ("wrong_shape" if code == "transposed" else code), str(inside)


def test_a_rule_that_raises_is_the_cause():
    def rule(g, x):
        raise KeyError("scale")

    error = failure(cube_with(rule), np.ones(3))
    assert isinstance(error.__cause__, KeyError)
    assert "scale" in str(error)


def test_broadcast_is_summed_by_the_engine_only_where_declared():
    def rule(g, x, y):
        return g * y, g * x

    x, y = away_from_zero(3, 4), away_from_zero(4)
    plain, broadcasting = mv.op(lambda x, y: x * y), mv.op(lambda x, y: x * y, broadcasts=True)
    plain.vjp(rule)
    broadcasting.vjp(rule)
    first = failure(plain, x, y).report.findings[0]
    assert (first.code, first.evidence["axes"]) == ("missing_broadcast_sum", (0,))
    assert mv.gradcheck(broadcasting, x, y, order=2).verdict == "right"


@pytest.mark.parametrize("rule", [lambda g, x: 3 * g * x * getattr(x, "data", x), lambda g, x: np.multiply(3 * g, x * x)])
def test_right_first_wrong_second_order(rule):
    """A rule that leaves the graph: its numbers are right, their derivative is not."""
    array_rule = cube_with(lambda g, x: rule(g, x) if isinstance(x, mv.Tensor) else 3 * g * x * x)
    assert mv.gradcheck(array_rule, away_from_zero(4)).verdict == "right"
    assert failure(array_rule, away_from_zero(4), order=2).report.order == 2


def test_the_cotangent_is_an_input_of_the_second_order():
    """Right in x and wrong in g: the rule takes the values of g, not g."""
    cube = cube_with(lambda g, x: 3 * mv.Tensor(g.data) * x * x if isinstance(g, mv.Tensor) else 3 * g * x * x)
    report = failure(cube, away_from_zero(4), order=2).report
    assert report.order == 2
    assert report.input == "the cotangent"
    assert report.findings[0].code == "zero_gradient"


@pytest.mark.parametrize("f", [ops.relu, lambda x: ops.max(ops.concatenate(x, 0 * x)), ops.sign], ids=["relu", "tie", "jump"])
def test_kink_is_no_error(f):
    x = np.array([0.0]) if f is not ops.sign else np.array([0.0, 1.0])
    report = mv.gradcheck(f, x, order=2)
    assert report.verdict == "inconclusive"
    assert [finding.code for finding in report.findings] == ["kink"]


def test_a_kink_nearby_is_no_kink_here():
    assert mv.gradcheck(ops.relu, np.array([1e-4, -2e-5, 3e-3])).verdict == "right"
    assert mv.gradcheck(ops.log, np.array([1e-4, 1e-5])).verdict == "right"
    assert mv.gradcheck(ops.log, np.array([1e-4, 2e-10])).verdict == "right"  # 0, where it ends, lies within the first steps
    failure(np.log, np.array([1e-4, 2e-10]), vjp=lambda g, x: np.where(x < 1e-6, 1.001, 1) * g / x)


def test_at_a_kink_nothing_is_wrong_and_beside_it_a_wrong_rule_is():
    x = np.array([0.0, 1.0])
    assert mv.gradcheck(_relu, x, vjp=lambda g, x: g * (2.0 * (x == 0) + (x > 0))).verdict == "inconclusive"
    failure(_relu, np.zeros(3), vjp=lambda g, x: g)


def both_ways(x):
    return ops.concatenate(ops.relu(x), ops.relu(-x), axis=0)


def _sorted_back(g, x):
    out = np.empty_like(g)
    out[np.argsort(x, kind="stable")] = g
    return out


def _symmetric_values(a):
    return np.linalg.eigvalsh((a + a.T) / 2)


def _symmetric_values_back(g, a):
    _, v = np.linalg.eigh((a + a.T) / 2)
    return (v * g) @ v.T


@pytest.mark.parametrize(("f", "vjp", "x"), [
    (both_ways, None, np.arange(-2.0, 3)), (np.sort, _sorted_back, np.ones(3)),
    (_symmetric_values, _symmetric_values_back, np.eye(3)),
    (lambda a: np.linalg.svd(a, compute_uv=False),
     lambda g, a: (lambda u, s, v: (u * g) @ v)(*np.linalg.svd(a, full_matrices=False)), np.ones((3, 3))),
])  # fmt: skip
def test_where_several_parts_bend_at_once_nobody_is_accused(f, vjp, x):
    """The gradient that is made of one side of each need not lie between the slopes of the whole."""
    for seed in range(6):
        assert mv.gradcheck(f, x, vjp=vjp, seed=seed).verdict == "inconclusive"


def _softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


_m = rng.standard_normal((4, 4))
SYMMETRIC = _m @ _m.T + 4 * np.eye(4)


@pytest.mark.parametrize(("f", "vjp", "inputs", "kind"), [
    (lambda z, y: -np.sum(y * np.log(_softmax(z)), -1),
     lambda g, z, y: (g[:, None] * (_softmax(z) - y), -g[:, None] * np.log(_softmax(z))),  # right if y sums to 1
     [rng.standard_normal((4, 3)), np.eye(3)[[0, 1, 2, 1]]], "not all 0 and 1"),
    (lambda z, y: -np.sum(y * np.log(_softmax(z)), -1),
     lambda g, z, y: (g[:, None] * (_softmax(z) - y), -g[:, None] * np.log(_softmax(z))),
     [rng.standard_normal((4, 3)), _softmax(rng.standard_normal((4, 3)))], "not in rows that sum to 1"),
    (lambda x, m: x * m, lambda g, x, m: (np.where(m == 1, g, 0), g * x),
     [rng.standard_normal((3, 3)), np.array([[1.0, 0, 1], [0, 1, 1], [1, 1, 0]])], "not all 0 and 1"),
    (lambda a: np.linalg.slogdet(a)[1], lambda g, a: g * np.linalg.inv(a), [SYMMETRIC], "not symmetric"),
    (_relu, lambda g, x: g, [rng.uniform(0.1, 1, (4, 4))], "with other signs"),
    (np.abs, lambda g, x: g, [np.ones(4)], "with other signs"),
    (np.sort, lambda g, x: g, [np.arange(-3.0, 4.0)], "in reversed order"),
])  # fmt: skip
def test_right_for_the_kind_of_inputs_given_and_for_no_other(f, vjp, inputs, kind):
    for seed in range(3):
        report = mv.gradcheck(f, *inputs, vjp=vjp, seed=seed)
        assert (report.verdict, report.findings[0].code) == ("inconclusive", "inconclusive")
        assert kind in report.findings[0].message


@pytest.mark.parametrize("x", [np.linspace(0, 1, 5), np.eye(3), np.ones(3), np.full((2, 4), 0.25), SYMMETRIC, np.zeros(2)])
def test_a_right_rule_is_right_at_special_inputs_too(x):
    assert mv.gradcheck(lambda x: x * x, x, vjp=lambda g, x: 2 * g * x).verdict == "right"


def test_a_gradient_of_integers_is_not_thrown_away_in_silence():
    x, w = rng.standard_normal(4), np.arange(4)
    report = mv.gradcheck(lambda x, w: x * w, x, w, vjp=lambda g, x, w: (g * w, 7 * g * x))
    assert report.verdict == "inconclusive"
    assert "a gradient of input 1, which is of integers" in report.findings[0].message
    for nothing in (None, np.zeros(4)):
        assert mv.gradcheck(lambda x, w: x * w, x, w, vjp=lambda g, x, w, n=nothing: (g * w, n)).verdict == "right"


def test_numbers_of_which_the_backward_has_no_gradient_are_constants():
    def norm(x, eps):
        return x / np.sqrt(np.mean(x * x) + eps)

    def back(g, x, eps):
        r = 1 / np.sqrt(np.mean(x * x) + eps)
        return r * (g - x * r * r * np.mean(g * x))

    x = rng.standard_normal(4)
    for vjp in (back, lambda g, x, eps: (back(g, x, eps), None)):
        report = mv.gradcheck(norm, x, 1e-5, vjp=vjp)
        assert report.verdict == "right"
        assert "input 1 (eps)" in report.opinions[0]
    failure(norm, x, 0.3, vjp=lambda g, x, eps: (back(g, x, eps), 0.0))  # but one that is given is checked
    failure(norm, x, np.array(1e-5), vjp=back)  # and an array's is asked for


def test_a_backward_in_single_precision_is_linear_enough():
    def back(g, x, w):
        low = [v.astype(np.float32) for v in (g, x, w)]
        return (low[0] @ low[2].T).astype(float), (low[1].T @ low[0]).astype(float)

    x, w = rng.standard_normal((40, 5)), rng.standard_normal((5, 3))
    report = mv.gradcheck(lambda x, w: x @ w, x, w, vjp=back)
    assert (report.verdict, report.findings[0].code) == ("inconclusive", "float32_noise")


def test_very_small_units_with_a_zero_among_them():
    w = 2 * np.pi * 1e9
    t = np.linspace(0, 1e-9, 6)
    assert mv.gradcheck(lambda t: np.sin(w * t), t, vjp=lambda g, t: g * w * np.cos(w * t)).verdict == "right"
    failure(lambda t: np.sin(w * t), t, vjp=lambda g, t: g * w * np.cos(w * t) * (1 + 0.1 * (t == 0)))


def test_one_triangle_of_a_symmetric_matrix():
    report = failure(np.linalg.eigvalsh, SYMMETRIC, vjp=_symmetric_values_back).report
    assert "reads one triangle only" in report.findings[0].message


def test_float32_inside_is_noise():
    def f(x):
        return x.astype(np.float32).astype(np.float64) ** 2

    report = mv.gradcheck(f, away_from_zero(5), vjp=lambda g, x: 2 * g * x)
    assert (report.verdict, report.findings[0].code) == ("inconclusive", "float32_noise")
    failure(f, away_from_zero(5), vjp=lambda g, x: 3 * g * x)  # but no excuse for a factor


def test_float32_inputs_must_stay_float32():
    x = away_from_zero(4).astype(np.float32)
    assert mv.gradcheck(lambda x: x * x, x, vjp=lambda g, x: 2 * g * x).verdict == "right"
    report = failure(lambda x: x * x, x, vjp=lambda g, x: np.float64(2) * g * x).report
    assert report.findings[0].code == "wrong_dtype"


def test_edge_of_the_domain_is_inconclusive():
    report = mv.gradcheck(ops.sqrt, np.array([0.0, 1.0]))
    assert (report.verdict, report.findings[0].code) == ("inconclusive", "inconclusive")


def test_one_wrong_element_of_many_is_found():
    w = rng.standard_normal((100, 100))

    def backward(g, x, w):
        t = g * (1 - np.tanh(x @ w) ** 2)
        gw = x.T @ t
        gw[7, 31] *= 1.01
        return t @ w.T, gw

    report = failure(lambda x, w: np.tanh(x @ w), rng.standard_normal((3, 100)) / 5, w, vjp=backward).report
    assert report.input == "input 1 (w)"
    assert report.rows[0].element == (7, 31)
    assert report.counts["checked"] < 1000
    assert mv.gradcheck(lambda x, w: ops.relu(x @ w), rng.standard_normal((3, 100)), w).verdict == "right"


_calls = []

BAD = [
    (lambda x: [x], "returned a list", TypeError),
    (lambda x: None, "returned nothing", TypeError),
    (lambda x: np.ones(3, int), "int64", TypeError),
    (lambda x: x * np.nan, "NaN or infinity", ValueError),
    (lambda x: _calls.append(1) or np.ones(len(_calls)), "shape", ValueError),
    (lambda x: _calls.append(1) or x * len(_calls), "another value", ValueError),
    (lambda x: x.__imul__(2), "changed its own input", ValueError),
    (lambda x: x[17], "IndexError", ValueError),
]


@pytest.mark.parametrize(("f", "words", "error"), BAD)
def test_bad_forward(f, words, error):
    with pytest.raises(error, match=words):
        mv.gradcheck(f, np.ones(3), vjp=lambda g, x: g)


@pytest.mark.parametrize(
    ("call", "words", "error"),
    [
        (lambda: mv.gradcheck(np.exp, np.ones(3)), "vjp=", TypeError),
        (lambda: mv.gradcheck(lambda x: x.data, np.ones(3)), "left the graph", TypeError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), order=2, vjp=lambda g, x: g), "only order 1", ValueError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), order=4), "order: expected 1, 2 or 3", ValueError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), order=True), "order: ", ValueError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), seed="a"), "seed: ", TypeError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), rtol="a"), "rtol: expected a number", ValueError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), rtol=0), "rtol: expected a number", ValueError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), max_elements=0), "max_elements: expected an integer", ValueError),
        (lambda: mv.gradcheck(lambda x: x), "at least one", TypeError),
        (lambda: mv.gradcheck(lambda x: x, np.arange(3)), "floating-point", TypeError),
        (lambda: mv.gradcheck(lambda x: x, "abc"), "real numbers", TypeError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3) * 1j), "complex128", TypeError),
        (lambda: mv.gradcheck(lambda x: x, np.array([np.nan])), "finite", ValueError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), vjp=3), "vjp: expected a function", TypeError),
        (lambda: mv.gradcheck(lambda x: x, np.ones(3), vjp=lambda g: g), r"vjp\(g, \*inputs\)", TypeError),
        (lambda: mv.gradcheck(7, np.ones(3)), "f: expected a function", TypeError),
        (lambda: mv.gradcheck(mv.op(lambda x: x * 1), np.ones(3)), "has no rule yet", TypeError),
    ],
)
def test_bad_arguments(call, words, error):
    with pytest.raises(error, match=words):
        call()


def test_a_seed_reproduces_the_report_and_nothing_global_is_touched():
    x = away_from_zero(4)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, three = (str(failure(lambda x: x**2, x, vjp=lambda g, x: g * x, seed=s)) for s in (5, 5, 6))
    assert one == two != three
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_recording_state_is_left_as_it_was():
    with mv.no_grad():
        assert mv.gradcheck(ops.exp, np.ones(2), order=2).verdict == "right"
        assert not (mv.Tensor(np.ones(2), requires_grad=True) * 2).requires_grad


NEAR_A_KINK_OR_SHARP = {
    "relu": (_relu, lambda g, x: g * (x > 0), [np.array([[0.5, d, -1.2]]) for d in (3e-9, 3e-8, 1e-7, 3e-7, 1e-6, -1e-7)]),
    "abs": (np.abs, lambda g, x: g * np.sign(x), [np.array([0.5, d, -1.2]) for d in (3e-8, 1e-7, 3e-7, -1e-7)]),
    "max": (lambda x: x.max(-1), lambda g, x: g[..., None] * (x == x.max(-1, keepdims=True)),
            [np.array([[0.5, 0.5 + d, -1.0]]) for d in (3e-8, 1e-7, 1e-6)]),
    "sin of much": (lambda x: np.sin(1e5 * x), lambda g, x: 1e5 * g * np.cos(1e5 * x), [np.array([0.3, -1.1, 0.7])]),
    "bell": (lambda x: np.exp(-((1e4 * x) ** 2)), lambda g, x: -2e8 * g * x * np.exp(-((1e4 * x) ** 2)),
             [np.array([5e-5, 1e-4])]),
    "pole": (lambda x: 1 / x, lambda g, x: -g / x**2, [np.array([1e-6, -2e-6, 0.5])]),
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR_A_KINK_OR_SHARP)
def test_a_right_rule_is_not_accused_near_a_kink_or_where_the_function_is_sharp(name):
    f, vjp, points = NEAR_A_KINK_OR_SHARP[name]
    for x in points:
        for seed in range(5):
            assert mv.gradcheck(f, x, vjp=vjp, seed=seed).verdict in ("right", "inconclusive")
            more = np.append(x, 0.9 * np.ones_like(x[..., :1]), axis=-1)
            with pytest.raises(mv.GradcheckError):  # a wrong one is
                mv.gradcheck(f, more, vjp=lambda g, x: 1.3 * vjp(g, x), seed=seed)


def test_no_cause_where_the_function_is_flat_or_the_backward_not_linear():
    x = np.array([[0.31, -1.22, 0.74]])
    for f, vjp, text in (
        (lambda x: np.round(3 * x) * 1.0, lambda g, x: 3 * g, "does not change"),
        (lambda x: 2 * x, lambda g, x: 2 * g + 0.1, "not linear in the cotangent"),
    ):
        with pytest.raises(mv.GradcheckError) as caught:
            mv.gradcheck(f, x, vjp=vjp)
        assert [finding.code for finding in caught.value.report.findings] == ["unexplained"]
        assert text in caught.value.report.findings[0].message


def test_what_keeps_the_differences_from_deciding_is_said():
    x = np.array([0.3, -1.1, 0.7])
    report = mv.gradcheck(lambda x: np.sin(1e5 * x), x, vjp=lambda g, x: 1e5 * g * np.cos(1e5 * x))
    assert "float32_noise" not in [finding.code for finding in report.findings]
    report = mv.gradcheck(_relu, np.zeros(400), vjp=lambda g, x: g * (x > 0))
    assert [finding.code for finding in report.findings] == ["kink", "inconclusive"]
    assert report.findings[1].evidence["count"] == 144
    report = mv.gradcheck(np.abs, np.array([0.0, 1.0]), vjp=lambda g, x: g * x / np.abs(x))
    assert "NaN or infinite at 1 of them" in report.findings[0].message


def test_a_factor_near_one_is_told_from_one():
    report = failure(lambda x: x**3, np.array([0.6, -0.5, 1.3, 0.2]), vjp=lambda g, x: 3 * g * x * x * (1 + 1e-6)).report
    assert "1+1e-06" in report.findings[0].message
    assert str(report).count("1+1e-06") == 5  # and in the column of ratios
    assert "Taylor" not in str(report)  # its slope, 2, would contradict


def test_a_length_is_a_reason_only_if_this_input_was_broadcast_along_it():
    x, y = rng.standard_normal((3, 2)), rng.standard_normal((3, 1))
    report = failure(lambda x, y: x * y, x, y, vjp=lambda g, x, y: (2 * g * y, (g * x).sum(1, keepdims=True))).report
    assert [finding.code for finding in report.findings] == ["constant_factor"]


def test_a_function_of_probabilities_only_has_a_second_point():
    """Where all are equal, any two things are proportional: the cause needs others that sum to 1."""

    def entropy(p):
        if not np.isclose(p.sum(), 1, atol=1e-2):
            raise ValueError("not probabilities")
        return p * np.log(p)

    report = failure(entropy, np.full(4, 0.25), vjp=lambda g, p: g * np.log(p)).report
    assert report.findings[0].code == "missing_term"


@pytest.mark.parametrize("came", [{"x": 1.0}, (a for a in "b"), "3"])
def test_what_is_no_array_is_named_by_its_type(came):
    report = failure(np.exp, np.ones(3), vjp=lambda g, x: came).report
    assert f"of type {type(came).__name__}, not an array" in report.findings[0].message


def test_kinks_among_the_elements_do_not_hide_the_cause():
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(_relu, np.array([0.0, 1.0, -1.0, 2.0, 0.7]), vjp=lambda g, x: 2 * g * (x > 0))
    assert caught.value.report.findings[0].code == "constant_factor"


def test_a_seed_may_be_of_any_integer_type():
    reports = [mv.gradcheck(mv.ops.exp, np.ones(3), seed=seed) for seed in (3, np.int64(3), np.array(3))]
    assert [report.verdict for report in reports] == ["right"] * 3

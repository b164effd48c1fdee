"""A value that was overwritten after the forward kept it is found; what only looks like it is left alone."""

import functools
import sys

import numpy as np
import pytest

import minivit as mv

rng = np.random.default_rng(9)
X = rng.uniform(0.3, 1.2, (3, 2)) * rng.choice([-1.0, 1.0], (3, 2))
saved: dict = {}
latest = None
buffer = np.empty((3, 2))


def report_on(f, vjp, *inputs):
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(f, *(inputs or (X,)), vjp=vjp)
    assert max(map(len, str(caught.value).splitlines())) <= 80
    return caught.value.report


# ---- wrong: each is a pair, and the place and line that must be named ----


def in_a_dict():
    def forward(x):
        y = np.exp(x)
        saved["y"] = y
        y *= 2
        return y

    return forward, lambda g, x: 2 * g * saved["y"], "saved['y']", "y *= 2"


def on_one_line():
    def forward(x):
        # fmt: off
        y = np.exp(x); saved["y"] = y; y *= 2; return y  # noqa: E702
        # fmt: on

    return forward, lambda g, x: 2 * g * saved["y"], "saved['y']", "y *= 2"


def in_a_global():
    def forward(x):
        global latest
        latest = np.tanh(x)
        out = latest
        out += x
        return out

    return forward, lambda g, x: g * (2 - latest**2), "latest", "out += x"


def in_a_closure():
    kept = None

    def forward(x):
        nonlocal kept
        kept = x * x
        kept += 1
        return np.log(kept)

    return forward, lambda g, x: g / (kept + 1) * 2 * x, "kept", "kept += 1"


def in_a_list():
    stack = []

    def forward(x):
        stack.clear()
        h = np.sin(x)
        stack.append((h, 3.0))
        np.square(h, out=h)
        return h

    def backward(g, x):
        return 2 * g * stack[-1][0] * np.cos(x)

    return forward, backward, "stack[0][0]", "np.square(h, out=h)"


def on_self():
    class Layer:
        def forward(self, x):
            self.y = 1 / (1 + np.exp(-x))
            y = self.y
            y -= 0.5
            return y

        def backward(self, g, x):
            return g * self.y * (1 - self.y)

    layer = Layer()
    return layer.forward, layer.backward, "self.y", "y -= 0.5"


def on_the_function():
    def forward(x):
        forward.y = np.exp(x)
        y = forward.y
        y -= 1
        return y

    return forward, lambda g, x: g * forward.y, "forward.y", "y -= 1"


def in_a_buffer_used_twice():
    def forward(x):
        np.exp(x, out=buffer)
        saved["e"] = buffer
        total = buffer.sum()
        np.tanh(x, out=buffer)
        return buffer * total

    def backward(g, x):
        t = np.tanh(x)
        return g * (1 - t**2) * saved["e"].sum() + saved["e"] * (g * t).sum()

    return forward, backward, "saved['e']", "np.tanh(x, out=buffer)"


def in_one_buffer_under_two_names():
    def forward(x):
        work = np.exp(x)
        saved["a"] = work
        a = work.sum()
        np.tanh(x, out=work)
        saved["b"] = work
        out = work * a
        work[:] = 0
        return out

    def backward(g, x):
        a, b = saved["a"], saved["b"]
        return g * a.sum() * (1 - b**2) + a * (g * b).sum()

    return forward, backward, "saved['a']", "np.tanh(x, out=work)"


def by_another_array():
    def forward(x):
        saved["h"] = np.exp(x)
        saved["h"] = np.sin(saved["h"])
        return saved["h"]

    def backward(g, x):
        return g * np.cos(saved["h"]) * saved["h"]

    return forward, backward, "saved['h']", 'saved["h"] = np.sin(saved["h"])'


def through_a_view():
    def forward(x):
        y = np.exp(x)
        saved["first"] = y[:, :1]
        y[:, 0] = y[:, 0] ** 2
        return y

    def backward(g, x):
        dx = g * np.exp(x)
        dx[:, :1] = 2 * g[:, :1] * saved["first"] ** 2
        return dx

    return forward, backward, "saved['first']", "y[:, 0] = y[:, 0] ** 2"


def within_a_helper():
    def double(y):
        y *= 2

    def forward(x, *, scale=1.0):
        saved["y"] = np.exp(scale * x)
        double(saved["y"])
        return saved["y"].copy()

    return functools.partial(forward, scale=1.0), lambda g, x: 2 * g * saved["y"], "saved['y']", "y *= 2"


WRONG = [in_a_dict, on_one_line, in_a_global, in_a_closure, in_a_list, on_self, on_the_function, in_a_buffer_used_twice,
         in_one_buffer_under_two_names, by_another_array, through_a_view, within_a_helper]  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=[c.__name__ for c in WRONG])
def test_the_place_and_the_line_are_named(case):
    forward, backward, place, line = case()
    finding = report_on(forward, backward).findings[0]
    assert finding.code == "overwritten", finding
    assert finding.evidence["place"] == place
    assert line in finding.message
    assert finding.evidence["change"] > 0


def test_a_gradient_that_the_backward_writes_over():
    def backward(g, x, y):
        work = np.empty(x.shape)
        np.multiply(g, y, out=work)
        dx = work
        np.multiply(g, x, out=work)
        return dx, work

    finding = report_on(lambda x, y: x * y, backward, X, X + 3).findings[0]
    assert (finding.code, finding.evidence["input"]) == ("overwritten", "input 0 (x)")
    assert "until line" in finding.message
    assert "np.multiply(g, x, out=work)" in finding.message


def test_a_backward_that_changes_what_the_forward_kept():
    def forward(x):
        saved["y"] = np.exp(x)
        return saved["y"].copy()

    def backward(g, x):
        dx = saved["y"]
        dx *= g
        return dx

    finding = report_on(forward, backward).findings[0]
    assert (finding.code, finding.evidence["place"]) == ("overwritten", "saved['y']")
    assert finding.message.startswith("the backward changes saved['y'], which the forward kept: called again, it answers")


def test_a_tensor_assigned_to_after_it_was_used():
    w = mv.Tensor(np.full(2, 3.0), requires_grad=True)

    def f(x):
        y = x * w
        w.assign_(w.data)
        return y

    report = report_on(f, None)
    assert report.findings[0].code == "overwritten"
    assert "was assigned to after the forward pass" in report.findings[0].message


@mv.op
def double_(x):
    x *= 2
    return x


@double_.vjp
def _(g):
    return 2 * g


def test_an_operation_that_changes_what_another_kept():
    report = report_on(lambda x: double_(mv.ops.exp(x)) + 1, None)
    assert report.findings[0].code == "overwritten", str(report)
    assert "its result, which `exp` had kept for the backward, was changed in place by `double`" in report.findings[0].message
    assert mv.gradcheck(lambda x: double_(mv.ops.sin(x)) + 1, X).verdict == "right"  # sin did not keep its result


def test_data_changed_behind_the_graph():
    def f(x):
        y = mv.ops.exp(x)
        z = y * 3.0
        np.negative(y.data, out=y.data)
        return z

    finding = report_on(f, None).findings[0]
    assert finding.code == "overwritten", finding
    assert "was changed in place at the end" in finding.message


# ---- right: nothing is said ----


def reads_the_latest():
    def forward(x):
        saved["y"] = np.exp(x)
        return saved["y"]

    return forward, lambda g, x: g * saved["y"]


def refills_one_buffer():
    def forward(x):
        np.exp(x, out=buffer)
        saved["y"] = buffer
        return buffer

    return forward, lambda g, x: g * saved["y"]


def changed_on_purpose():
    def forward(x):
        y = np.exp(x)
        saved["y"] = y
        y *= 2
        return y

    return forward, lambda g, x: g * saved["y"]


def keeps_a_copy():
    def forward(x):
        y = np.exp(x)
        saved["y"] = y.copy()
        y *= 2
        return y

    return forward, lambda g, x: 2 * g * saved["y"]


def fills_what_it_kept():
    def forward(x):
        saved["y"] = np.zeros_like(x)
        for i in range(len(x)):
            saved["y"][i] = np.exp(x[i])
        return saved["y"]

    return forward, lambda g, x: g * saved["y"]


def works_in_place_on_its_own():
    def forward(x):
        saved["y"] = np.tanh(x)
        return saved["y"].copy()

    def backward(g, x):
        dx = saved["y"] ** 2
        dx -= 1
        dx *= -g
        saved["dx"] = dx
        return dx

    return forward, backward


def consumes_a_stack():
    stack = []

    def forward(x):
        stack.append(np.exp(x))
        return stack[-1].copy()

    return forward, lambda g, x: g * stack.pop()


def counts_its_calls():
    def forward(x):
        saved.update(y=np.exp(x), scratch=np.zeros(3), calls=0)
        return saved["y"].copy()

    def backward(g, x):
        saved["calls"] += 1
        saved["scratch"] += 1
        return g * saved["y"] * saved["calls"]

    return forward, backward


RIGHT = [counts_its_calls, reads_the_latest, refills_one_buffer, changed_on_purpose, keeps_a_copy,
         fills_what_it_kept, works_in_place_on_its_own, consumes_a_stack]  # fmt: skip


@pytest.mark.parametrize("case", RIGHT, ids=[c.__name__ for c in RIGHT])
def test_right_ones_are_not_accused(case):
    forward, backward = case()
    for seed in range(3):
        assert mv.gradcheck(forward, X * (1 + seed), vjp=backward, seed=seed).verdict == "right"
    report = report_on(forward, lambda g, x: -backward(g, x))  # wrong for another reason: nor are they then
    assert "overwritten" not in {f.code for f in report.findings}
    assert report.findings[0].code == "wrong_sign"


def test_nothing_is_watched_under_a_debugger_and_the_listener_is_put_back():
    forward, backward, *_ = in_a_dict()
    report_on(forward, backward)
    assert sys.gettrace() is None

    def listener(frame, event, argument):
        return None

    sys.settrace(listener)
    try:
        with pytest.raises(mv.GradcheckError) as caught:
            mv.gradcheck(forward, X, vjp=backward)
        assert sys.gettrace() is listener
    finally:
        sys.settrace(None)
    assert "overwritten" not in {f.code for f in caught.value.report.findings}


@pytest.mark.parametrize(("count", "code"), [(50, "overwritten"), (3000, "missing_term")])
def test_a_long_loop_is_given_up(count, code):
    def forward(x):
        y = np.exp(x) + 0 * float(x[0, 0])
        saved["y"] = y
        for _ in range(count):
            y += 1e-3
        return y

    assert report_on(forward, lambda g, x: g * saved["y"]).findings[0].code == code

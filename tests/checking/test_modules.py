"""`mv.gradcheck` of models: right ones pass, and a fault is found by the name of the layer that has it."""

import numpy as np
import pytest

import minivit as mv
from minivit import nn, ops

rng = np.random.default_rng(5)
IMAGES = rng.random((2, 8, 8, 1)).astype(np.float32)


def vit(**options):
    sizes = {"image_size": 8, "patch_size": 4, "channels": 1, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
    return mv.models.ViT(**sizes | options)


def rows(x):
    return x.reshape(-1, x.shape[-1])


def faulty(by_weight=1.0, by_bias=1.0, by_input=1.0):
    @mv.op
    def affine(x, w, b):
        return x @ w + b

    @affine.vjp
    def _(g, x, w, b):
        return by_input * (g @ w.T), by_weight * (rows(x).T @ rows(g)), by_bias * rows(g).sum(axis=0)

    return affine


def put(layer, **factors):
    """Replaces x W + b in a Linear by the same with a wrong rule."""
    affine = faulty(**factors)
    layer.forward = lambda x: affine(x, layer.weight, layer.bias)


def failure(model, *inputs, **options):
    with pytest.raises(mv.GradcheckError) as caught:
        mv.gradcheck(model, *inputs, **options)
    assert max(map(len, str(caught.value).splitlines())) <= 80
    return caught.value.report


RIGHT = {
    "cls": {},
    "mean": {"pool": "mean"},
    "relative": {"position": "relative"},
    "sinusoidal": {"position": "sinusoidal", "gelu": "tanh"},
    "no_bias": {"qkv_bias": False, "depth": 1},
    "dropout_off": {"dropout": 0.3, "drop_path": 0.2},
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_models_pass(name):
    report = mv.gradcheck(vit(**RIGHT[name]).eval(), IMAGES)
    assert (report.verdict, report.findings, report.name) == ("right", [], "ViT")
    assert report.counts["total"] == IMAGES.size + vit(**RIGHT[name]).num_parameters()
    assert "3 random directions through all" in str(report)


def test_many_seeds_of_models_with_kinks():
    class Net(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.layers = [nn.Linear(20, 20, seed=seed, name=f"{k}") for k in range(6)]

        def forward(self, x):
            for layer in self.layers:
                x = ops.relu(layer(x))
            return x

    for seed in range(20):
        assert mv.gradcheck(Net(seed), np.random.default_rng(seed).standard_normal((3, 20)), seed=seed).verdict == "right"


PLACES = [
    ("blocks.1.mlp.fc1", {"by_weight": -1}, "blocks.1.mlp.fc1.weight", "wrong_sign"),
    ("blocks.0.attn.proj", {"by_bias": 3.5}, "blocks.0.attn.proj.bias", "constant_factor"),
    ("blocks.0.mlp.fc2", {"by_input": 0}, "input 0 (x) of blocks.0.mlp.fc2", "zero_gradient"),
    ("patch_embed.proj", {"by_bias": 0}, "patch_embed.proj.bias", "zero_gradient"),
    ("head", {"by_weight": 1 + 1e-5}, "head.weight", "constant_factor"),
]


@pytest.mark.parametrize(("place", "factors", "name", "code"), PLACES, ids=[p[0] for p in PLACES])
def test_a_wrong_rule_in_one_layer(place, factors, name, code):
    model = vit()
    put(dict(model.named_modules())[place], **factors)
    report = failure(model, IMAGES)
    assert report.input == name, str(report)
    assert report.findings[0].code == code
    assert report.findings[0].message.startswith(f"in {place} (Linear): ")
    assert report.findings[0].evidence["module"] == place
    assert report.counts["wrong"] == np.prod(report.shape)
    assert report.rows


def test_a_fault_of_form_is_found_by_name_too():
    @mv.op
    def affine(x, w, b):
        return x @ w + b

    @affine.vjp
    def _(g, x, w, b):
        return g @ w.T, rows(x).T @ rows(g), g  # the sum is forgotten

    model = vit()
    layer = model.blocks[1].attn.qkv
    layer.forward = lambda x: affine(x, layer.weight, layer.bias)
    report = failure(model, IMAGES)
    assert report.findings[0].code == "wrong_shape"
    assert report.findings[0].message.startswith("in blocks.1.attn.qkv (Linear): affine.vjp: the gradient of b has shape")


def test_a_rule_that_changes_its_cotangent_is_found_by_name():
    @mv.op
    def twice(x):
        return 2 * x

    @twice.vjp
    def _(g):
        return np.multiply(g, 2, out=g) if isinstance(g, np.ndarray) else 2 * g

    model = vit()
    fc1 = model.blocks[0].mlp.fc1  # nobody else uses its cotangent, so the numbers are right
    fc1.forward = lambda x: twice(ops.linear(x, fc1.weight, fc1.bias))
    report = failure(model, IMAGES)
    assert report.findings[0].code == "mutated_input"
    assert report.findings[0].message.startswith("in blocks.0.mlp.fc1 (Linear): twice.vjp changed its cotangent in place")


@pytest.mark.parametrize("leave", [lambda t: t.detach(), lambda t: mv.Tensor(t.data), lambda t: t.data])
def test_leaving_the_graph_between_the_parts_of_a_module(leave):
    model = vit()
    block = model.blocks[1]

    def forward(z, bias=None, parts=None, name=""):
        z = z + leave(block.attn(block.norm1(z)))
        return z + block.mlp(block.norm2(z))

    block.forward = forward
    report = failure(model, IMAGES)
    assert report.findings[0].message.startswith("in blocks.1 (EncoderBlock) itself, between its parts: "), str(report)
    assert "zero_gradient" in {f.code for f in report.findings}


def test_leaving_the_graph_in_a_layer_and_at_the_end():
    model = vit()
    norm = model.blocks[0].norm2
    norm.forward = lambda x: ops.layer_norm(x.data, norm.weight.data, norm.bias.data)
    assert failure(model, IMAGES).findings[0].evidence["module"] == "blocks.0.norm2"

    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x).data

    assert failure(Left(), rng.random((2, 3))).findings[0].code == "zero_gradient"


def test_several_faults_are_all_named():
    model = vit()
    put(model.blocks[0].mlp.fc1, by_weight=-1)
    put(model.blocks[1].attn.proj, by_bias=0)
    report = failure(model, IMAGES)
    first_two = [(f.evidence["module"], f.code) for f in report.findings[:2]]
    assert sorted(first_two) == [("blocks.0.mlp.fc1", "wrong_sign"), ("blocks.1.attn.proj", "zero_gradient")]


def test_an_operation_that_every_block_uses(monkeypatch):
    rule = ops.layer_norm.rule

    def wrong(*values):
        gradients = rule(*values)
        return (gradients[0], gradients[1], gradients[2] * 0.3)

    monkeypatch.setattr(ops.layer_norm, "rule", wrong)
    report = failure(vit(), IMAGES)
    assert report.findings[0].code == "constant_factor"
    named = {f.evidence.get("module") for f in report.findings} | set(report.findings[-1].evidence.get("modules", ()))
    assert {"blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"} <= named


class Pair(nn.Module):
    """A tuple and a dict come out, tuples and plain options go in."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, pair, scale=1.0, *, note=None):
        a, b = pair
        return self.fc(a) * scale, {"b": b * a, "count": 3}


class Many(nn.Module):
    """A layer called several times, one whose forward is never called, one with no arguments, one in a dict of lists."""

    def __init__(self, wrong=""):
        super().__init__()
        self.again = nn.Linear(4, 4, name="again")
        self.uncalled = nn.Linear(4, 4, name="uncalled")
        self.pair = Pair()
        self.deep = {"a": [nn.LayerNorm(4)]}
        self.wrong = wrong

    def forward(self, x):
        for _ in range(3):
            x = self.again(x)
        x = self.deep["a"][0](x)
        x = (faulty(by_weight=3) if self.wrong == "uncalled" else ops.linear)(x, self.uncalled.weight, self.uncalled.bias)
        first, rest = self.pair((x, ops.tanh(x)), 0.5, note="hello")
        return first + rest["b"]


def test_modules_of_other_forms():
    x = rng.standard_normal((3, 4))
    assert mv.gradcheck(Many(), x).verdict == "right"
    for place in ("again", "pair.fc"):
        model = Many()
        put(dict(model.named_modules())[place], by_bias=-1)
        report = failure(model, x)
        assert (report.input, report.findings[0].code) == (f"{place}.bias", "wrong_sign")
    report = failure(Many("uncalled"), x)
    assert report.input == "uncalled.weight"
    assert report.findings[0].message.startswith("in Many itself, between its parts: ")
    assert mv.gradcheck(vit(), IMAGES, True).verdict == "right"  # logits and a dict


def test_a_part_that_returns_nothing_is_looked_into():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x, into):
            into.append(self.fc(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.holder = Holder()

        def forward(self, x):
            into = []
            self.holder(x, into)
            return ops.tanh(into[0])

    assert mv.gradcheck(Net(), np.ones((2, 4))).verdict == "right"
    model = Net()
    put(model.holder.fc, by_weight=-1)
    assert failure(model, np.ones((2, 4))).input == "holder.fc.weight"


def test_tokens_shared_weights_and_checkpoints():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(rng.standard_normal((5, 4)))
            self.hidden = nn.Linear(4, 4)

        def forward(self, ids):
            return mv.autograd.checkpoint(self.hidden)(self.table[ids]) @ self.table.T

    ids = np.array([0, 3, 3])
    assert mv.gradcheck(Language(), ids).verdict == "right"
    model = Language()
    put(model.hidden, by_weight=2)
    assert failure(model, ids).input == "hidden.weight"


def test_a_layer_alone_looks_at_every_element_and_takes_higher_orders():
    report = mv.gradcheck(nn.Linear(3, 2), np.ones((2, 3)), order=3)
    assert (report.verdict, report.order) == ("right", 3)
    assert mv.gradcheck(nn.LayerNorm(4), rng.random((2, 4))).counts == {"checked": 16, "total": 16, "wrong": 0}
    layer = nn.Linear(3, 2)
    put(layer, by_weight=-1)
    report = failure(layer, np.ones((2, 3)))
    assert (report.input, report.findings[0].code, report.name) == ("weight", "wrong_sign", "Linear")


def test_second_order_of_a_small_model():
    assert mv.gradcheck(vit(depth=1), IMAGES[:1], order=2).order == 2
    model = vit(depth=1)
    layer = model.blocks[0].mlp.fc1

    @mv.op
    def affine(x, w, b):
        return x @ w + b

    @affine.vjp
    def _(g, x, w, b):  # right, but not to be differentiated again by x
        x = x.detach() if isinstance(x, mv.Tensor) else x
        return g @ w.T, rows(x).T @ rows(g), rows(g).sum(axis=0)

    layer.forward = lambda x: affine(x, layer.weight, layer.bias)
    assert mv.gradcheck(model, IMAGES[:1]).verdict == "right"
    report = failure(model, IMAGES[:1], order=2)
    assert (report.order, report.findings[0].evidence["module"]) == (2, "blocks.0.mlp.fc1")
    with pytest.raises(ValueError, match="order: 2 takes small modules only: ViT has .* Check order 1, or one layer"):
        mv.gradcheck(model, IMAGES, order=2, max_elements=100)


def test_the_model_is_left_as_it_was():
    model = vit(dropout=0.1).eval()
    model.blocks[0].train()
    model.blocks[0].mlp.dropout.p = model.blocks[0].dropout.p = 0.0
    (model(IMAGES) ** 2).sum().backward()
    parameters = list(model.parameters())
    waiting = (model(IMAGES) ** 2).sum()
    before = [(p, p.data, p.data.copy(), p.grad, p.version) for p in parameters]
    attributes = [dict(vars(m)) for m in model.modules()]
    assert mv.gradcheck(model, IMAGES).verdict == "right"
    put(model.head, by_weight=2)
    failure(model, IMAGES)
    del model.head.forward
    for p, data, values, grad, version in before:
        assert p.data is data
        assert (data == values).all()
        assert (p.grad, p.version, p.node, p.requires_grad) == (grad, version, None, True)
    now = [dict(vars(m)) for m in model.modules()]
    assert all(a.keys() == b.keys() and all(a[k] is b[k] for k in a) for a, b in zip(attributes, now))
    waiting.backward()  # a graph from before can still be walked


def test_lists_and_dicts_of_a_module_are_left_as_they_were():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3, seed=0)
            self.seen = {"calls": 0, "mean": np.zeros(3, np.float32), "sizes": []}

        def forward(self, x):
            y = self.linear(x)
            self.seen["calls"] += 1
            self.seen["mean"] += y.data.mean(axis=0)
            self.seen["sizes"].append(len(y.data))
            return y

    model = Counting()
    seen, mean, sizes = model.seen, model.seen["mean"], model.seen["sizes"]
    assert mv.gradcheck(model, rng.standard_normal((2, 4))).verdict == "right"
    assert model.seen is seen
    assert (seen["calls"], seen["mean"] is mean, mean.dtype, mean.tolist()) == (0, True, np.float32, [0, 0, 0])
    assert (seen["sizes"] is sizes, sizes) == (True, [])


def test_a_wrong_operation_within_a_module_is_named():
    @mv.op
    def cube(x):
        return x * x * x

    cube.vjp(lambda g, x: 2 * g * x * x)

    class Cubed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3, seed=0)

        def forward(self, x):
            return cube(self.linear(x))

    finding = failure(Cubed(), rng.standard_normal((2, 4))).findings[0]
    assert (finding.code, finding.evidence["operation"]) == ("constant_factor", "cube")


class Bent(nn.Module):
    """Many relus at 0 at once: zeros that come in stay zeros."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8, bias=False, seed=0)
        self.second = nn.Linear(8, 3, seed=1)

    def forward(self, x):
        return self.second(ops.relu(self.first(x)))


@pytest.mark.parametrize("x", [np.zeros((5, 6)), np.concatenate([rng.standard_normal((20, 6)), np.zeros((30, 6))])])
def test_kinks_of_many_units_at_once_are_no_fault_and_hide_none(x):
    for seed in range(5):
        report = mv.gradcheck(Bent(), x, seed=seed, max_elements=50)
        assert (report.verdict, report.findings[0].code) == ("inconclusive", "kink")
    model = Bent()
    put(model.second, by_weight=1.1)
    assert failure(model, x, max_elements=50).findings[0].evidence["module"] == "second"


def test_a_layer_scale_near_zero_hides_no_fault():
    @mv.op
    def tanh(x):
        return np.tanh(x)

    tanh.vjp(lambda g, x: 1.02 * g * (1 - np.tanh(x) ** 2))

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6, seed=0)
            self.scale = nn.Parameter(np.full(6, 1e-6))

        def forward(self, x):
            return x + self.scale * tanh(self.inner(x))

    for seed in range(3):
        failure(Scaled(), rng.standard_normal((40, 6)), seed=seed, max_elements=50)


def test_a_rule_that_is_right_at_these_inputs_only():
    """A layer's input kept from its first call: right there, and in no step of a training."""
    model = vit().eval()
    layer, first = model.blocks[0].mlp.fc1, []

    @mv.op
    def affine(x, w, b):
        first[:] = first or [x.copy()]
        return x @ w + b

    affine.vjp(lambda g, x, w, b: (g @ w.T, rows(first[0]).T @ rows(g), rows(g).sum(axis=0)))
    layer.forward = lambda x: affine(x, layer.weight, layer.bias)
    report = failure(model, IMAGES)
    assert report.findings[0].evidence["module"] == "blocks.0.mlp.fc1"


def test_fresh_biases_and_norms_do_not_hide_a_fault():
    """At weight 1 a rule that forgets to multiply by the weight looks right."""

    @mv.op
    def scale(x, w):
        return x * w

    @scale.vjp
    def _(g, x, w):
        return g, rows(g * x).sum(axis=0)

    model = vit()
    norm = model.norm
    norm.forward = lambda x: scale(x, norm.weight)
    report = failure(model, IMAGES)
    assert (report.input, report.findings[0].code) == ("input 0 (x) of norm", "missing_factor")


def test_what_is_no_fault_of_the_gradient():
    with pytest.raises(ValueError, match=r"ViT: the model answered differently when called again; call model.eval\(\)"):
        mv.gradcheck(vit(dropout=0.2), IMAGES)
    broken = vit()
    broken.head.weight.assign_(np.full(broken.head.weight.shape, np.nan))
    with pytest.raises(ValueError, match="NaN or infinity"):
        mv.gradcheck(broken, IMAGES)
    with pytest.raises(ValueError, match="images: expected shape"):
        mv.gradcheck(vit(), IMAGES[:, :4])
    with pytest.raises(ValueError, match="order: expected 1, 2 or 3"):
        mv.gradcheck(vit(), IMAGES, order=4)
    with pytest.raises(TypeError, match="input 0 .images.: expected an array"):
        mv.gradcheck(vit(), "images")

    class Number(nn.Module):
        def forward(self, x):
            return 3

    with pytest.raises(TypeError, match="Number: the function must return one array, it returned a int"):
        mv.gradcheck(Number(), np.ones(3))
    with pytest.raises(TypeError, match="nothing to differentiate by: Number has no parameters"):
        mv.gradcheck(Number(), np.arange(3))


def test_frozen_parameters_are_constants():
    model = vit()
    put(model.head, by_weight=2)
    model.head.weight.requires_grad = False
    assert mv.gradcheck(model, IMAGES).verdict == "right"

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.on = nn.Parameter(np.ones(1))
            self.on.requires_grad = False

        def forward(self, x):
            assert self.on.data[0] == 1.0
            return self.fc(x)

    assert mv.gradcheck(Gate(), np.ones((2, 4))).counts["total"] == 28


def test_a_long_batch_is_cut_short_to_look_closely():
    model = vit()
    put(model.blocks[1].mlp.fc2, by_input=-1)
    report = failure(model, rng.random((7, 8, 8, 1)), max_elements=100)
    assert report.shape == (3, 3, 32)
    assert report.findings[0].code == "wrong_sign"


def test_kink_and_rounding_are_inconclusive():
    class Kink(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.then = nn.Linear(3, 1)

        def forward(self, x):
            return self.then(ops.relu(x) + ops.abs(0 * self.fc(x) + x))

    report = mv.gradcheck(Kink(), np.zeros((1, 3)))
    assert (report.verdict, [f.code for f in report.findings]) == ("inconclusive", ["kink"])

    class Rounds(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.then = nn.Linear(3, 1)

        def forward(self, x):
            return self.then(ops.astype(ops.astype(self.fc(x), dtype="float32"), dtype="float64"))

    report = mv.gradcheck(Rounds(), rng.random((2, 3)))
    assert (report.verdict, [f.code for f in report.findings]) == ("inconclusive", ["float32_noise"])

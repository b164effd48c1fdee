"""Modules: what they register, their state, where they move, and how they print."""

import copy

import numpy as np
import pytest

import minivit as mv
from minivit.nn import Linear, Module, Parameter
from minivit.nn.module import evaluating, set_step


class Net(Module):
    """Every way to hold a parameter: an attribute, a module, lists, a dict; one parameter under two names."""

    def __init__(self):
        super().__init__()
        self.scale = Parameter(np.full(3, 2.0, "float32"))
        self.first = Linear(2, 3)
        self.blocks = [Linear(3, 3, seed=1), (Linear(3, 3, bias=False, seed=2),)]
        self.heads = {"a": Linear(3, 1, seed=3)}
        self.shifts = [Parameter(np.zeros(3, "float32"))]
        self.shared = self.scale
        self.constant = np.arange(3, dtype="float32")
        self.index = np.arange(3)
        self.dropout = mv.nn.Dropout(0.5)

    def forward(self, x):
        x = self.first(x) * self.scale + self.constant
        return self.heads["a"](self.dropout(self.blocks[1][0](self.blocks[0](x)) + self.shifts[0]))


NAMES = {
    "scale": (3,),
    "shifts.0": (3,),
    "first.weight": (2, 3),
    "first.bias": (3,),
    "blocks.0.weight": (3, 3),
    "blocks.0.bias": (3,),
    "blocks.1.0.weight": (3, 3),
    "heads.a.weight": (3, 1),
    "heads.a.bias": (1,),
}


def test_names_order_and_shapes_of_parameters():
    assert [(name, p.shape) for name, p in Net().named_parameters()] == list(NAMES.items())


def test_a_shared_parameter_and_a_shared_module_count_once():
    net = Net()
    net.again = net.first
    assert [name for name, _ in net.named_parameters()] == list(NAMES)
    assert len({id(p) for p in net.parameters()}) == len(list(net.parameters())) == len(NAMES)
    assert net.num_parameters() == sum(np.prod(shape) for shape in NAMES.values()) == 40


def test_a_module_that_points_to_its_parent_is_walked_once():
    net = Net()
    net.first.parent = net
    assert len(list(net.parameters())) == len(NAMES)
    assert repr(net).count("Net(") == 1


def test_gradients_reach_every_parameter_and_zero_grad_forgets_them():
    net = Net().eval()
    net(np.ones((4, 2), "float32")).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_a_parameter_copies_its_data():
    array = np.ones(3)
    p = Parameter(array)
    array[:] = 7
    np.testing.assert_array_equal(p.numpy(), 1)
    assert p.requires_grad
    again = Parameter(p)
    assert not np.shares_memory(again.data, p.data)


def test_a_module_without_forward_or_parameters():
    with pytest.raises(NotImplementedError, match="Module defines no forward"):
        Module()(1)
    assert Module().dtype == np.float32
    assert Module().device == "cpu"


# ---- state ----


def test_two_parameters_of_one_name_are_refused():
    net = mv.nn.Module()
    net.layers = {1: mv.nn.Linear(2, 2), "1": mv.nn.Linear(2, 2)}
    with pytest.raises(ValueError, match=r"two parameters are named 'layers\.1\.weight'"):
        net.state_dict()


def test_state_dict_copies():
    net = Net()
    state = net.state_dict()
    assert list(state) == list(NAMES)
    assert all(type(a) is np.ndarray for a in state.values())
    before = net.scale.numpy().copy()
    state["scale"][:] = 99
    np.testing.assert_array_equal(net.scale.numpy(), before)


def test_load_state_dict_copies_and_counts_a_version():
    net, other = Net(), Net()
    for p in other.parameters():
        p.assign_(p.data + 1)
    state = other.state_dict()
    version = net.scale.version
    net.load_state_dict(state)
    assert net.scale.version == version + 1
    state["scale"][:] = 99
    for p, q in zip(net.parameters(), other.parameters()):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_load_state_dict_casts_to_the_parameters_dtype():
    net = Net()
    net.load_state_dict({name: a.astype("float64") for name, a in net.state_dict().items()})
    assert {p.dtype for p in net.parameters()} == {np.dtype("float32")}


def _renamed(state):
    state["first.wieght"] = state.pop("first.weight")


def _set(name, value):
    return lambda state: state.__setitem__(name, value)


NAN = np.array([1, np.nan, 2], "float32")
FAULTS = {
    "missing": (lambda s: s.pop("blocks.0.bias"), r"blocks\.0\.bias \(3,\) is missing"),
    "extra": (_set("tail.weight", np.ones((1, 2))), r"tail\.weight \(1, 2\) is not a parameter"),
    "misshapen": (_set("scale", np.ones(4)), r"scale has shape \(4,\), expected \(3,\)"),
    "transposed": (_set("first.weight", np.ones((3, 2))), r"first\.weight has shape \(3, 2\), expected \(2, 3\)"),
    "not finite": (_set("scale", NAN), "scale has values that are not finite"),
    "too large for float32": (_set("scale", np.full(3, 1e300)), "scale has values that are not finite in float32"),
    "text": (_set("scale", np.array(["a", "b", "c"])), "scale has dtype <U1, expected numbers"),
    "a near name": (_renamed, r"first\.weight \(2, 3\) is missing \(is it 'first\.wieght'\?\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_load_state_dict_takes_all_or_nothing(fault):
    net = Net()
    before, versions = net.state_dict(), [p.version for p in net.parameters()]
    state = {name: a + 1 for name, a in before.items()}
    spoil, message = FAULTS[fault]
    spoil(state)
    with pytest.raises(ValueError, match=f"does not fit this Net: .*{message}"):
        net.load_state_dict(state)
    assert [p.version for p in net.parameters()] == versions
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_load_state_dict_names_everything_that_is_wrong():
    state = Net().state_dict()
    del state["scale"]
    state |= {"tail": np.ones(2), "first.bias": np.ones(9)}
    with pytest.raises(ValueError, match=r"(?s)first\.bias.*scale.*tail"):
        Net().load_state_dict(state)


def test_a_long_list_of_problems_is_cut():
    with pytest.raises(ValueError, match="and 1 more"):
        Net().load_state_dict({})


def test_a_deep_copy_is_independent():
    net = Net()
    other = copy.deepcopy(net)
    other.scale.assign_(np.zeros(3))
    np.testing.assert_array_equal(net.scale.numpy(), 2)
    assert other.shared is other.scale
    assert [name for name, _ in other.named_parameters()] == list(NAMES)


# ---- modes ----


def test_train_and_eval_reach_every_module():
    net = Net()
    assert net.training
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert net.train() is net
    assert all(m.training for m in net.modules())
    assert Module.training, "the mode of one module has changed all"


def test_evaluating_gives_each_module_its_own_mode_back():
    net = Net()
    net.first.eval()
    before = [m.training for m in net.modules()]
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == before

    def fail():
        with evaluating(net):
            raise KeyError

    pytest.raises(KeyError, fail)
    assert [m.training for m in net.modules()] == before
    with evaluating(len):  # any callable
        pass


def test_the_depth_of_calls_survives_an_error():
    net = Net()
    with pytest.raises(ValueError, match="linear"):
        net(np.ones((4, 5), "float32"))
    step = net.dropout.step
    net(np.ones((4, 2), "float32"))
    assert net.dropout.step == step + 1


def test_steps_are_counted_by_the_outermost_call_in_training_only():
    net = Net()
    x = np.ones((4, 2), "float32")
    net(x), net(x)
    assert net.dropout.step == 2
    net.eval()(x)
    assert net.dropout.step == 2
    set_step(net, 40)
    assert net.dropout.step == 40
    set_step(len, 3)  # a callable without layers: nothing to tell


# ---- devices and dtypes ----


def test_to_casts_floats_and_leaves_integers():
    net = Net()
    p, version = net.scale, net.scale.version
    net.scale.grad = mv.Tensor(np.ones(3))
    assert net.to(dtype="float64") is net
    assert {p.dtype for p in net.parameters()} == {np.dtype("float64")}
    assert net.dtype == np.float64
    assert net.constant.dtype == np.float64
    assert net.index.dtype == np.int64
    assert net.scale is p, "an optimizer that was made before would be left behind"
    assert p.version == version + 1
    np.testing.assert_array_equal(p.grad.numpy(), np.ones(3))
    assert net.to("cpu", dtype="float64").scale.version == version + 1, "nothing was moved"
    assert p.grad.dtype == np.float64
    assert net.eval()(np.ones((1, 2))).dtype == np.float64


@pytest.mark.parametrize("dtype", ["int32", "float16", bool])
def test_to_refuses_other_dtypes(dtype):
    net = Net()
    with pytest.raises(ValueError, match="dtype: expected float32 or float64, got"):
        net.to(dtype=dtype)
    assert net.dtype == np.float32


def test_to_cuda_and_back(standin, monkeypatch):
    monkeypatch.setattr("minivit.backend.kernels._off", ["this test"])  # the same code on both, so the same bits
    net = Net().eval()
    x = np.ones((4, 2), "float32")
    y = net(x).numpy()
    net.to("cuda")
    assert net.device == "cuda"
    assert all(p.device == "cuda" for p in net.parameters())
    assert type(net.constant) is type(net.index) is standin.ndarray
    assert all(type(a) is np.ndarray for a in net.state_dict().values())
    np.testing.assert_array_equal(net(standin.asarray(x)).numpy(), y)
    net.load_state_dict(net.state_dict())
    assert net.device == "cuda"
    net.to("cpu")
    assert net.device == "cpu"
    assert type(net.constant) is np.ndarray
    np.testing.assert_array_equal(net(x).numpy(), y)


def test_to_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    net = Net()
    with pytest.raises(RuntimeError, match="device='cuda', but no GPU can be used: CuPy is not installed"):
        net.to("cuda")
    assert net.device == "cpu"
    with pytest.raises(ValueError, match="device: expected 'cpu', 'cuda' or 'auto', got 'gpu'"):
        net.to("gpu")


# ---- printing ----


def test_print_shows_layers_shapes_and_counts():
    assert repr(Net()) == """\
Net()  40 parameters
  scale (3,)
  first: Linear(2 -> 3)  9 parameters
    weight (2, 3)
    bias (3,)
  blocks.0: Linear(3 -> 3)  12 parameters
    weight (3, 3)
    bias (3,)
  blocks.1.0: Linear(3 -> 3, no bias)  9 parameters
    weight (3, 3)
  heads.a: Linear(3 -> 1)  4 parameters
    weight (3, 1)
    bias (1,)
  shifts.0 (3,)
  shared (3,)
  dropout: Dropout(p=0.5)"""


def test_modules_without_names_are_those_with_names():
    shared = mv.nn.Linear(2, 2)

    class Net(mv.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = shared
            self.many = [mv.nn.LayerNorm(2), {"a": mv.nn.Linear(2, 2), "b": (shared, mv.nn.LayerNorm(2))}]
            self.last = mv.models.ViT(image_size=4, patch_size=2, channels=1, embed_dim=4, depth=2, num_heads=2, num_classes=2)

    net = Net()
    assert [id(m) for m in net.modules()] == [id(m) for _, m in net.named_modules()]

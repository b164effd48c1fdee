"""Attention and the encoder block: where dropout and drop path act, and what heads refuse."""

import numpy as np
import pytest

import minivit as mv
from minivit.autograd.engine import _ancestors
from minivit.autograd.fused import encoder_by_kernel
from minivit.backend import array_code, kernel, set_num_threads
from minivit.models import EncoderBlock, MultiHeadSelfAttention, by_operation
from minivit.models.encoder import encode
from tests.models.small import perturb

Z = np.random.default_rng(0).standard_normal((40, 5, 12))


def silenced(block, part):
    """The block with the last layer of its attention ("attn.proj") or MLP ("mlp.fc2") at zero: that branch adds nothing."""
    first, last = part.split(".")
    layer = getattr(getattr(block, first), last)
    layer.weight.assign_(np.zeros(layer.weight.shape))
    layer.bias.assign_(np.zeros(layer.bias.shape))
    return block


def make(**options):
    return perturb(EncoderBlock(12, 3, 20, **options).to(dtype="float64"))


@pytest.mark.parametrize("part", ["attn.proj", "mlp.fc2"])
def test_both_branches_have_dropout_on_their_results(part):
    block = silenced(make(dropout=0.5), part)
    kept = block.eval()(Z).numpy() - Z
    dropped = block.train()(Z).numpy() - Z
    zero = np.abs(dropped) < 1e-12
    assert 0.4 < zero.mean() < 0.6
    np.testing.assert_allclose(dropped[~zero], 2 * kept[~zero], rtol=1e-9)


@pytest.mark.parametrize("part", ["attn.proj", "mlp.fc2"])
def test_both_branches_are_dropped_for_whole_images(part):
    block = silenced(make(drop_path=0.5), part)
    kept = block.eval()(Z).numpy() - Z
    added = block.train()(Z).numpy() - Z
    dropped = np.abs(added).max(axis=(1, 2)) < 1e-12
    assert 10 < dropped.sum() < 30
    np.testing.assert_allclose(added[~dropped], 2 * kept[~dropped], rtol=1e-9)


def test_the_two_branches_are_dropped_independently():
    def which(part):
        added = silenced(make(drop_path=0.5), part)(Z).numpy() - Z
        return np.abs(added).max(axis=(1, 2)) < 1e-12

    assert not np.array_equal(which("attn.proj"), which("mlp.fc2"))


def test_a_silent_block_is_the_identity():
    block = silenced(silenced(make(), "attn.proj"), "mlp.fc2")
    np.testing.assert_array_equal(block(Z).numpy(), Z)


def test_equal_scores_make_the_mean_of_the_values():
    layer = perturb(MultiHeadSelfAttention(12, 3).to(dtype="float64"))
    w = layer.qkv.weight.numpy().copy()
    w[:, :12] = 0  # no queries: every score is that of the bias, equal for all keys only if it is zero too
    b = layer.qkv.bias.numpy().copy()
    b[:12] = 0
    layer.qkv.weight.assign_(w)
    layer.qkv.bias.assign_(b)
    v = (Z @ w + b)[..., 24:].mean(axis=1, keepdims=True)
    expected = np.broadcast_to(v @ layer.proj.weight.numpy() + layer.proj.bias.numpy(), Z.shape)
    np.testing.assert_allclose(layer(Z).numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [None, np.random.default_rng(1).standard_normal((3, 5, 5))])
def test_asking_for_the_attention_matrices_changes_nothing_else(bias):
    layer, parts = perturb(MultiHeadSelfAttention(12, 3).to(dtype="float64")), {}
    np.testing.assert_allclose(layer(Z, bias, parts, "a").numpy(), layer(Z, bias).numpy(), rtol=1e-10, atol=1e-12)
    assert parts["a"].shape == (40, 3, 5, 5)


@pytest.mark.parametrize("heads", [0, 5, 24])
def test_heads_that_do_not_divide_the_width(heads):
    with pytest.raises(ValueError, match=f"num_heads {heads} does not divide the width 12"):
        MultiHeadSelfAttention(12, heads)


def test_an_unknown_scale():
    with pytest.raises(ValueError, match="scale: expected 'head' .* or 'width' .*, got 'D'"):
        MultiHeadSelfAttention(12, 3, scale="D")


# ---- blocks in one operation ----

compiled = pytest.mark.skipif(
    kernel("encoder", np.ones(1, np.float32)) is None, reason="there is no kernel for whole blocks on this machine"
)


@pytest.fixture
def two_threads():
    set_num_threads(2)
    yield
    set_num_threads(None)


def single(**options):
    return perturb(EncoderBlock(12, 3, 20, **options))


def z32(B=8):
    return mv.Tensor(Z[:B].astype(np.float32), requires_grad=True)


def operations(y):
    return [node.op.name for node in _ancestors(y.node)]


def in_one(y):
    """Of how many blocks each is that was computed in one operation."""
    return [len(node.shapes) // 12 for node in _ancestors(y.node) if node.op.name == "encoder"]


@compiled
@pytest.mark.parametrize("queries", [None, 1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"qkv_bias": 0}, {"scale": "width"}, {"norm_eps": 0.1}, {"approximate_gelu": True}, {"approximate_gelu": np.bool_(1)}],
    ids=str,
)
def test_a_block_in_one_is_what_the_text_says(two_threads, options, queries):
    block, z = single(**options), z32()
    assert operations(block(z, queries=queries)) == ["encoder"]
    with by_operation():
        assert len(operations(block(z, queries=queries))) >= 9
        expected = block(z, queries=queries)
    found = block(z, queries=queries)
    targets = [z, *block.parameters()]
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-5, atol=1e-6)
    g = np.random.default_rng(1).standard_normal(found.shape).astype(np.float32)
    for a, b in zip(mv.grad(found, targets, g), mv.grad(expected, targets, g)):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-4, atol=1e-5 * np.abs(b.data).max())
    with mv.no_grad():
        np.testing.assert_array_equal(block(z, queries=queries).data, found.data)


@compiled
def test_second_derivatives_through_a_block_in_one(two_threads):
    block, z = single(), z32()

    def penalty():  # |dy/dz|^2, which depends on the weights
        (g,) = mv.grad((block(z) ** 2).sum(), [z], create_graph=True)
        return mv.grad((g * g).sum(), [block.mlp.fc1.weight, block.attn.qkv.weight])

    found = penalty()
    with by_operation():
        expected = penalty()
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-3, atol=1e-4 * np.abs(b.data).max())


def of_ones_own(x):
    return x * 0.5


def with_eps(block):
    block.norm2.eps = 0.1


BY_OPERATION = {  # what is done to a block that is then computed as its text says
    "norm1": lambda b: setattr(b, "norm1", of_ones_own),
    "qkv": lambda b: setattr(b.attn.proj, "forward", of_ones_own),
    "attention": lambda b: setattr(b, "attn", lambda z, bias, parts, name: z),
    "norm2": lambda b: setattr(b.norm2, "forward", of_ones_own),
    "eps of its own": with_eps,
    "fc1": lambda b: setattr(b.mlp.fc2, "forward", lambda x: x[..., :12]),
    "mlp": lambda b: setattr(b, "mlp", of_ones_own),
    "forward": lambda b: setattr(b, "forward", lambda z: EncoderBlock.forward(b, z) * 1),
    "dropout": lambda b: setattr(b, "dropout", mv.nn.Dropout(0.5)),
    "dropout in the mlp": lambda b: setattr(b.mlp, "dropout", mv.nn.Dropout(0.5)),
    "drop path 1": lambda b: setattr(b, "drop_path1", mv.nn.DropPath(0.5)),
    "drop path 2": lambda b: setattr(b, "drop_path2", mv.nn.DropPath(0.5)),
}


@compiled
@pytest.mark.parametrize("change", BY_OPERATION)
def test_a_block_with_a_part_of_ones_own_is_computed_as_written(two_threads, change):
    block, z = single(), z32()
    assert in_one(block(z)) == [1]
    BY_OPERATION[change](block)
    assert in_one(block(z)) == []
    if "drop" in change:
        assert in_one(block.eval()(z)) == [1]


class OnesOwn(EncoderBlock):
    pass


@compiled
def test_as_many_blocks_in_one_as_nobody_has_changed(two_threads):
    def blocks(**at):
        return [at.get(f"at{i}") or perturb(EncoderBlock(12, 3, 20, name=f"{i}", layer=i)) for i in range(5)]

    z = z32()
    for given, expected in (
        (blocks(), [5]),
        (blocks(at1=lambda z, bias, parts, name: z * 2), [1, 3]),  # a lone block is an operation, too
        (blocks(at2=OnesOwn(12, 3, 20)), [2, 2]),
        (blocks(at3=EncoderBlock(12, 3, 21)), [3, 1, 1]),
        (blocks(at0=EncoderBlock(12, 2, 20)), [1, 4]),
        (blocks(at4=EncoderBlock(12, 3, 20, approximate_gelu=True)), [4, 1]),
        (blocks(at4=EncoderBlock(12, 3, 20, scale="width")), [4, 1]),
        (blocks(at4=EncoderBlock(12, 3, 20, norm_eps=0.1)), [4, 1]),
        (blocks(at1=EncoderBlock(12, 3, 20, qkv_bias=False)), [5]),  # they need not be alike in that
    ):
        y = encode(given, z, queries=1)
        assert in_one(y) == expected
        with by_operation():
            np.testing.assert_allclose(y.data, encode(given, z, queries=1).data, rtol=1e-5, atol=1e-5)
    assert encode([], z) is z
    five = blocks()
    expected = encode(five, z).data
    one_after_the_other = z
    for block in five:
        one_after_the_other = block(one_after_the_other)
    np.testing.assert_array_equal(one_after_the_other.data, expected)
    assert in_one(encode(five, z, [lambda: np.zeros((3, 5, 5), np.float32)] * 5)) == []
    assert in_one(encode(five, z, parts={})) == []


@compiled
def test_only_so_many_blocks_in_one(two_threads, monkeypatch):
    five, z = [perturb(EncoderBlock(12, 3, 20, name=f"{i}", layer=i)) for i in range(5)], z32()
    weights, parameters = five[0].num_parameters(), five[0]._parameters_in_order()
    monkeypatch.setattr(encoder_by_kernel, "_MOST_PARTS", 2 * weights)  # too few numbers to divide them among threads
    assert in_one(encode(five, z)) == [2, 2, 1]
    with mv.no_grad():
        assert encoder_by_kernel.blocks_at_once(z, parameters) > 5
    monkeypatch.setattr(encoder_by_kernel, "_MOST_WORK", 3 * weights * 40)  # for the 40 tokens
    monkeypatch.setattr(encoder_by_kernel, "_MOST_PARTS", 1 << 22)
    assert in_one(encode(five, z)) == [3, 2]


@compiled
@pytest.mark.parametrize("kind", [mv.nn.LayerNorm, mv.nn.Linear, mv.nn.MLP, MultiHeadSelfAttention])
def test_a_forward_that_was_replaced_on_a_class_is_called(two_threads, monkeypatch, kind):
    block, z, called = single(), z32(), []
    before = kind.forward
    monkeypatch.setattr(kind, "forward", lambda *args, **options: (called.append(1), before(*args, **options))[1])
    block(z)
    assert len(called) == {mv.nn.LayerNorm: 2, mv.nn.Linear: 4}.get(kind, 1)


@compiled
def test_heads_that_were_pruned(two_threads):
    block = single()
    block.attn.qkv, block.attn.proj, block.attn.num_heads = mv.nn.Linear(12, 24), mv.nn.Linear(8, 12), 2
    assert in_one(block(z32())) == []


@compiled
def test_scores_of_nothing(two_threads):
    block, z = single(), z32()
    block.attn.scale = 0.0
    found = block(z).data
    with by_operation():
        np.testing.assert_allclose(found, block(z).data, rtol=1e-5, atol=1e-6)


@compiled
def test_where_operations_are_watched_or_cannot_be_divided_they_are_computed_one_by_one(two_threads):
    def ones(*shape):
        return mv.Tensor(np.ones(shape, np.float32), requires_grad=True)

    def is_in_one(block, z, *args):
        return in_one(block(z, *args)) == [1]

    assert is_in_one(single(), z32())
    assert not is_in_one(single(), z32(), np.zeros((3, 5, 5), np.float32))  # a bias
    assert not is_in_one(single(), z32(), None, {})  # the attention matrix is wanted
    assert not is_in_one(single().to(dtype="float64"), mv.Tensor(Z, requires_grad=True))
    with mv.anomaly():
        assert not is_in_one(single(), z32())
    with mv.autocast():
        assert not is_in_one(single(), z32())
    with array_code():
        assert not is_in_one(single(), z32())
    assert is_in_one(single(), ones(3, 455, 12))  # so little is for one thread
    assert not is_in_one(single(), ones(3, 456, 12))  # three images for two threads
    assert is_in_one(single(), ones(9, 456, 12))
    assert is_in_one(EncoderBlock(256, 4, 1528), ones(64, 5, 256))
    assert not is_in_one(EncoderBlock(256, 4, 1529), ones(64, 5, 256))  # large
    assert not is_in_one(EncoderBlock(256, 4, 256), ones(2, 100, 256))  # few rows, for that many weights
    assert not is_in_one(single(), ones(2, 1025, 12))
    long = ones(2, 1025, 12)
    assert not is_in_one(single(), mv.Tensor(long.data[:, 1:], requires_grad=True))  # gaps between images
    assert is_in_one(single(), mv.Tensor(np.ascontiguousarray(long.data[:, 1:]), requires_grad=True))
    set_num_threads(64)
    z = ones(256, 50, 128)
    wide = EncoderBlock(128, 4, 512)
    assert not is_in_one(wide, z)  # so many copies of the gradients
    with mv.no_grad():
        assert encoder_by_kernel.blocks_at_once(z, wide._parameters_in_order())


@compiled
def test_a_parameter_of_fixed_numbers(two_threads):
    block, z = single(), z32()
    expected = block(z).data
    block.norm1.weight = block.norm1.weight.data
    y = block(z)
    assert in_one(y) == [1]
    np.testing.assert_array_equal(y.data, expected)


def test_a_scale_that_is_learned_is_not_lost():
    block = single()
    block.attn.scale = mv.nn.Parameter(np.float32(0.3))
    with pytest.raises(TypeError, match="scale is a Tensor that requires a gradient, but it is an option"):
        block(z32())


@compiled
def test_weights_that_lie_in_another_order(two_threads):
    def transposed(block):
        return {name: np.asfortranarray(value) for name, value in block.state_dict().items()}

    block, z = single(), z32()
    expected = block(z).data
    block.mlp.fc1.weight.assign_(transposed(block)["mlp.fc1.weight"])
    assert in_one(block(z)) == []  # no kernel takes them
    np.testing.assert_allclose(block(z).data, expected, rtol=1e-5, atol=1e-6)
    block.load_state_dict(transposed(block))  # brings them in order
    assert in_one(block(z)) == [1]
    np.testing.assert_array_equal(block(z).data, expected)


def test_counting_the_products_of_blocks_in_one(two_threads):
    from minivit.models.counting import macs_of

    blocks = [single(), single()]
    for queries in (None, 2):
        y = encode(blocks, z32(), queries=queries)
        with by_operation():
            assert macs_of(y) == macs_of(encode(blocks, z32(), queries=queries))


def arrays_of(shapes):
    return [None if shape is None else np.ones(shape, np.float32) for shape in shapes.values()]


@pytest.mark.parametrize(("change", "said"), [
    ({"z": (2, 12)}, r"encoder: expected z of shape \(batch, tokens, width\) with 3 heads .* width, got \(2, 12\)"),
    ({"z": (2, 5, 13)}, "with 3 heads dividing the width"),
    ({"num_heads": 0}, "with 0 heads dividing the width"),
    ({"queries": 6}, "queries: expected 1 to 5, the number of tokens, or None, got 6"),
    ({"queries": 0}, "queries: expected 1 to 5, the number of tokens, or None, got 0"),
    ({"norm1_weight": (1,)}, r"norm1_weight of block 1 has shape \(1,\), expected \(12,\) for z of shape \(2, 5, 12\)"),
    ({"norm1_bias": None}, r"norm1_bias of block 1 is None, expected \(12,\)"),
    ({"qkv_weight": (12, 12)}, r"qkv_weight of block 1 has shape \(12, 12\), expected \(12, 36\)"),
    ({"proj_weight": None}, "proj_weight of block 1 is None"),
    ({"proj_bias": (36,)}, r"proj_bias of block 1 has shape \(36,\), expected \(12,\)"),
    ({"norm2_weight": None}, "norm2_weight of block 1 is None"),
    ({"weight1": (11, 20)}, r"weight1 of block 1 has shape \(11, 20\), expected \(12, 20\)"),
    ({"weight1": None}, "weight1 of block 1 is None"),
    ({"bias1": (1,)}, r"bias1 of block 1 has shape \(1,\), expected \(20,\)"),
    ({"weight2": (12, 20)}, r"weight2 of block 1 has shape \(12, 20\), expected \(20, 12\)"),
    ({"weight2": None}, "weight2 of block 1 is None"),
])  # fmt: skip
def test_what_a_block_in_one_refuses(change, said):
    shapes = {"norm1_weight": (12,), "norm1_bias": (12,), "qkv_weight": (12, 36), "qkv_bias": (36,), "proj_weight": (12, 12),
              "proj_bias": (12,), "norm2_weight": (12,), "norm2_bias": (12,), "weight1": (12, 20), "bias1": (20,),
              "weight2": (20, 12), "bias2": (12,)}  # fmt: skip
    second = shapes | {k: v for k, v in change.items() if k in shapes}
    options = {"num_heads": 3} | {k: v for k, v in change.items() if k in ("num_heads", "queries")}
    z = np.ones(change.get("z", (2, 5, 12)), np.float32)
    with pytest.raises(ValueError, match=said):
        mv.ops.encoder(z, *arrays_of(shapes), *arrays_of(second), **options)


def test_parameters_that_are_not_twelve_for_each_block():
    z = np.ones((2, 5, 12), np.float32)
    for parameters in ([], arrays_of({"norm1_weight": (12,)})):
        with pytest.raises(ValueError, match=r"twelve parameters for each block, norm1_weight, .*, bias2; got [01]"):
            mv.ops.encoder(z, *parameters, num_heads=3)
    shapes = [(12,), (12,), (12, 36), (36,), (12, 12), (12,), (12,), (12,), (12,), (20,), (20, 12), (12,)]
    for shapes[8] in ((12,), (12, 0)):
        with pytest.raises(ValueError, match=r"weight1: expected shape \(D, H\), H at least 1, got \(12,"):
            mv.ops.encoder(z, *[np.ones(shape, np.float32) for shape in shapes], num_heads=3)

"""Models on disk: what is saved comes back to the bit, and a file that lies is refused before it costs anything."""

import dataclasses
import json
import os
import struct

import numpy as np
import pytest

import minivit as mv
from minivit.io import CheckpointError, read_arrays, write_arrays
from minivit.models.vit import ViTConfig
from tests.models.small import POSITIONS, pictures, small

SUFFIXES = (".safetensors", ".npz")


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"m{request.param}"


def rewrite(path, change_arrays=lambda a: a, change_config=lambda c: c, **metadata):
    """The checkpoint with other arrays, settings or metadata."""
    arrays, found = read_arrays(path)
    found["config"] = json.dumps(change_config(json.loads(found["config"])))
    write_arrays(path, change_arrays(arrays), found | metadata)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("position", POSITIONS)
def test_round_trip_to_the_bit(path, position, dtype):
    model = small(dtype, position=position, mean=(0.1, 0.2, 0.3), std=(0.5, 1, 2), scale="width", gelu="tanh", norm_eps=1e-5)
    mv.models.save(model, path)
    again = mv.models.load(path)
    assert again.config == model.config
    assert again.config.image_size == (12, 8)
    assert again.config.mean == (0.1, 0.2, 0.3)
    assert not any(m.training for m in again.modules())
    for (name, p), (other, q) in zip(model.named_parameters(), again.named_parameters()):
        assert name == other
        assert p.dtype == q.dtype == dtype
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    x = pictures(dtype=dtype)
    np.testing.assert_array_equal(model.eval()(x).numpy(), again(x).numpy())


def test_equal_models_give_equal_files(path, tmp_path):
    mv.models.save(small(), path)
    other = tmp_path / f"again{path.suffix}"
    mv.models.save(small(), other)
    assert path.read_bytes() == other.read_bytes()


def test_settings_in_numpys_own_types(path):
    model = small(embed_dim=np.int64(12), norm_eps=np.float32(0.5), image_size=(np.int32(12), 8))
    mv.models.save(model, path)
    assert mv.models.load(path).config == model.config


def test_a_model_on_a_device_is_saved(standin, path):
    model = small("float32")
    mv.models.save(model.to("cuda"), path)
    np.testing.assert_array_equal(mv.models.load(path).head.weight.numpy(), model.to("cpu").head.weight.numpy())


def test_the_library_reads_what_was_saved(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    model = small("float32")
    mv.models.save(model, tmp_path / "m.safetensors")
    for name, a in numpy.load_file(tmp_path / "m.safetensors").items():
        np.testing.assert_array_equal(a, model.state_dict()[name])


def test_only_a_model_that_can_be_rebuilt_is_saved(path):
    with pytest.raises(TypeError, match="model: expected a ViT, got Linear, .* use mv.io.write_arrays"):
        mv.models.save(mv.nn.Linear(2, 2), path)

    class Doubled(mv.models.ViT):
        def forward(self, images, intermediates=False):
            return 2 * super().forward(images)

    options = {"image_size": 8, "patch_size": 4, "channels": 1, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
    with pytest.raises(TypeError, match="expected a ViT, got Doubled"):
        mv.models.save(Doubled(**options), path)
    changed = [mv.models.ViT(**options) for _ in range(3)]
    changed[0].head = mv.nn.Linear(8, 5)
    changed[1].blocks[1].mlp = changed[1].blocks[0].mlp
    changed[2].forward = changed[2]._logits
    says = [r"head.bias is \(5,\), its settings say \(3,\)", r"blocks.1.mlp.fc1.bias is None", "its forward was replaced"]
    for model, problem in zip(changed, says):
        with pytest.raises(TypeError, match=f"model: {problem}.*mv.io.write_arrays"):
            mv.models.save(model, path)
    assert not path.exists()


class ReluMLP(mv.nn.MLP):
    def forward(self, x):
        return self.fc2(mv.ops.relu(self.fc1(x)))


def other_mlp(model):
    model.blocks[1].mlp.__class__ = ReluMLP


def other_forward(model):
    model.norm.forward = lambda x: x


@pytest.mark.parametrize(("change", "problem"), [
    (lambda m: setattr(m, "normalize", mv.models.Normalize(0.5, 0.25)), "normalize.std has other values than its settings say"),
    (lambda m: setattr(m.blocks[0].attn, "scale", 0.3), r"blocks\.0\.attn\.scale is 0\.3, its settings say 0\.\d+"),
    (lambda m: setattr(m.blocks[1].mlp, "approximate_gelu", True), r"blocks\.1\.mlp\.approximate_gelu is True"),
    (lambda m: setattr(m.norm, "eps", 1e-3), r"norm\.eps is 0\.001"),
    (other_mlp, r"blocks\.1\.mlp is <class '.*ReluMLP'>, its settings say MLP"),
    (other_forward, "norm is a module whose forward was replaced"),
    (lambda m: setattr(m, "extra", mv.nn.Dropout(0.5)), "extra is Dropout, its settings say None"),
], ids=["normalize", "scale", "gelu", "eps", "part", "forward", "more"])  # fmt: skip
def test_a_model_whose_parts_are_others_is_not_saved(path, change, problem):
    model = small()
    change(model)
    with pytest.raises(TypeError, match=f"model: {problem}"):
        mv.models.save(model, path)
    assert not path.exists()


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "sinusoidal_2d", "relative"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_training_leaves_behind_does_not_matter(path, position, dtype):
    model = small(dtype, position=position, dropout=0.1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).train()
    model(pictures(dtype=dtype))
    model.blocks[0].dropout.p = 0.5
    mv.models.save(model, path)
    expected = model.eval()(pictures(dtype=dtype)).numpy()
    np.testing.assert_array_equal(mv.models.load(path)(pictures(dtype=dtype)).numpy(), expected)


def test_relative_positions_on_a_large_grid(path):
    options = {"image_size": 56, "patch_size": 1, "channels": 1, "embed_dim": 16, "num_heads": 2, "num_classes": 10}
    model = mv.models.ViT(**options, depth=12, position="relative")
    assert len({id(bias.index) for bias in model.biases}) == 1
    mv.models.save(model, path)
    np.testing.assert_array_equal(mv.models.load(path).biases[11].table.numpy(), model.biases[11].table.numpy())


def test_the_names_of_the_classes_come_along(path):
    model = small()
    model.classes = tuple("abc"[: model.config.num_classes])
    mv.models.save(model, path)
    assert mv.models.load(path).classes == model.classes
    rewrite(path, classes=json.dumps(list("abcdefghijklmnop")))
    with pytest.raises(CheckpointError, match="classes: expected at most"):
        mv.models.load(path)


def test_a_small_file_that_asks_for_much_memory_is_refused_before_it_is_taken(tmp_path):
    path = tmp_path / "m.npz"
    config = ViTConfig(image_size=200, patch_size=1, channels=1, embed_dim=4, depth=1, num_heads=1, num_classes=2,
                       position="relative")  # fmt: skip
    metadata = {"format": "minivit-1", "model": "ViT", "config": json.dumps(dataclasses.asdict(config))}
    for dtype, n in ((bool, 60_000_000), (np.float32, 16_500_000)):
        members = {"junk": np.zeros(n, dtype), "__metadata__": np.frombuffer(json.dumps(metadata).encode(), np.uint8)}
        np.savez_compressed(path, **members)
        with pytest.raises(CheckpointError, match="they promise about"):
            mv.models.load(path)


def test_another_suffix_and_no_file(tmp_path):
    with pytest.raises(ValueError, match="suffix must be .safetensors or .npz"):
        mv.models.save(small(), tmp_path / "m.pt")
    with pytest.raises(FileNotFoundError):
        mv.models.load(tmp_path / "none.npz")


def test_the_old_file_survives_a_failed_save(path, monkeypatch):
    mv.models.save(small(seed=1), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device; the file that was there is unchanged"):
        mv.models.save(small(seed=2), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# ---- hostile files ----


def without(name):
    return lambda arrays: {k: a for k, a in arrays.items() if k != name}


def with_array(name, value):
    return lambda arrays: arrays | {name: value}


ARRAYS = {
    "missing": (without("blocks.1.mlp.fc1.weight"), r"blocks\.1\.mlp\.fc1\.weight \(12, 48\) is missing"),
    "no head": (without("head.weight"), r"head\.weight \(12, 5\) is missing"),
    "extra": (with_array("blocks.2.norm1.weight", np.ones(12)), r"blocks\.2\.norm1\.weight \(12,\) is not a parameter"),
    "misshapen": (with_array("head.weight", np.ones((5, 12))), r"head\.weight has shape \(5, 12\), expected \(12, 5\)"),
    "NaN": (with_array("head.bias", np.full(5, np.nan)), "head.bias has values that are not finite"),
    "bool": (with_array("head.bias", np.ones(5, bool)), "head.bias has dtype bool, expected numbers"),
    "none at all": (lambda _: {}, "they promise about .* the file has 0"),
}


@pytest.mark.parametrize("fault", ARRAYS)
def test_arrays_that_do_not_fit(path, fault):
    mv.models.save(small(), path)
    change, message = ARRAYS[fault]
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=f"{path.name}: .*{message}"):
        mv.models.load(path)


CONFIGS = {
    "giant width": ({"embed_dim": 10**6, "num_heads": 1}, "they promise about"),
    "giant depth": ({"depth": 10**9}, "they promise about"),
    "giant MLP": ({"mlp_ratio": 1e12}, "they promise about"),
    "giant MLP, infinite": ({"mlp_ratio": float("inf")}, "mlp_ratio: expected a positive number"),
    "giant head": ({"num_classes": 10**12}, "they promise about"),
    "giant patch": ({"image_size": 10**6, "patch_size": 10**6}, "they promise about"),
    "giant channels": ({"channels": 10**12}, "they promise about"),
    "giant image": ({"image_size": 4 * 10**6}, "they promise about"),
    "giant image, sinusoidal": ({"image_size": 4 * 10**6, "position": "sinusoidal"}, "they promise about"),
    "giant image, relative": ({"image_size": 2000, "position": "relative"}, "they promise about"),
    "number beyond all": ({"depth": 10**400}, "they promise about|integer string conversion"),
    "width beyond all": ({"embed_dim": 10**400, "num_heads": 1}, "too large to convert|integer string conversion"),
    "mean beyond all": ({"mean": 10**400}, "mean: expected a number|integer string conversion"),
    "mean beyond float32": ({"mean": 1e300}, "mean: expected a number"),
    "norm beyond all": ({"norm_eps": 10**400}, "norm_eps: expected a positive number|integer string conversion"),
    "ratio beyond float32": ({"mlp_ratio": 1e308}, "mlp_ratio: expected a positive number"),
    "another width": ({"embed_dim": 24}, "does not fit|they promise"),
    "heads": ({"num_heads": 5}, "num_heads 5 does not divide the width 12"),
    "patch": ({"patch_size": 5}, "patch_size 5 does not divide the image size"),
    "negative": ({"embed_dim": -12}, "embed_dim: expected a positive integer"),
    "text": ({"depth": "2"}, "depth: expected an integer"),
    "nothing": ({"norm_eps": None}, "norm_eps: expected a positive number"),
    "nested": ({"mean": [[0.5]]}, "mean: expected a number"),
    "a list for a word": ({"position": ["learned"]}, "position: expected one of"),
    "unknown setting": ({"patchsize": 4}, "unknown option 'patchsize'; did you mean 'patch_size'?"),
    "code": ({"__class__": "os.system"}, "unknown option '__class__'"),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_settings_that_lie(path, fault):
    mv.models.save(small(), path)
    change, message = CONFIGS[fault]
    rewrite(path, change_config=lambda c: c | change)
    with pytest.raises(CheckpointError, match=f"{path.name}: .*({message})"):
        mv.models.load(path)


METADATA = {
    "another format": ({"format": "other"}, "not a minivit model .format 'other'"),
    "another model": ({"model": "Swin"}, "not a minivit model .*model 'Swin'"),
    "settings are no JSON": ({"config": "{"}, "its settings make no model"),
    "settings are a list": ({"config": "[1]"}, "its settings make no model"),
    "settings are nothing": ({"config": "null"}, "its settings make no model"),
    "deep settings": ({"config": "[" * 100_000}, "its settings make no model"),
}


@pytest.mark.parametrize("fault", METADATA)
def test_metadata_of_something_else(path, fault):
    mv.models.save(small(), path)
    change, message = METADATA[fault]
    rewrite(path, **change)
    with pytest.raises(CheckpointError, match=message):
        mv.models.load(path)


def test_arrays_alone_are_no_model(path):
    write_arrays(path, small().state_dict())
    with pytest.raises(CheckpointError, match="not a minivit model"):
        mv.models.load(path)


def test_half_precision_is_computed_in_single(path):
    mv.models.save(small("float32"), path)
    rewrite(path, lambda arrays: {name: a.astype("float16") for name, a in arrays.items()})
    assert mv.models.load(path).dtype == np.float32


def test_empty_and_truncated_at_every_place(path):
    mv.models.save(small("float32"), path)
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, *range(200, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            mv.models.load(path)


def test_a_header_that_lies_about_its_length(tmp_path):
    path = tmp_path / "m.safetensors"
    mv.models.save(small(), path)
    whole = path.read_bytes()
    for length in (0, 2**63, len(whole), 10**9):
        path.write_bytes(struct.pack("<Q", length) + whole[8:])
        with pytest.raises(CheckpointError):
            mv.models.load(path)


def test_pickled_content_is_not_opened(tmp_path):
    path = tmp_path / "m.npz"

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(path, weight=np.array([Trap()], dtype=object))
    with pytest.raises(CheckpointError, match="pickled Python objects"):
        mv.models.load(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"PK\x03\x04 not really", b"\x80\x04\x95 pickle", b"<html>not found</html>"])
def test_not_a_checkpoint_at_all(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        mv.models.load(path)

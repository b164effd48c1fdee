"""Models on disk: the weights by name, and the settings beside them. Safetensors or .npz, never pickle."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from minivit.backend import is_array, to_numpy
from minivit.io import CheckpointError, read_arrays, write_arrays
from minivit.models.vit import ViT, ViTConfig
from minivit.nn import Module, Parameter
from minivit.nn.module import RandomModule

FORMAT = "minivit-1"
_NO_MATTER = ("training", "unnumbered", "classes")  # attributes that say nothing about what a module computes when loaded


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Writes a model to `path`, `.safetensors` or `.npz`, atomically: an older file there survives a failure.

    The model has to be one that `load` can rebuild, a ViT. For a module of your own,
    `mv.io.write_arrays(path, module.state_dict())` and `load_state_dict` do.
    """
    if problem := why_not(model):
        raise TypeError(f"model: {problem}, so it cannot be rebuilt from its settings; "
                        "use mv.io.write_arrays(path, model.state_dict())")
    metadata = {"format": FORMAT, "model": "ViT", "config": json.dumps(model.to_config(), default=lambda number: number.item())}
    if model.classes is not None:
        metadata["classes"] = json.dumps(model.classes)
    write_arrays(path, model.state_dict(), metadata)


def why_not(model: Any) -> str:
    """Why `load` could not rebuild a model from its settings and arrays; "" if it could."""
    if type(model) is not ViT:
        return f"expected a ViT, got {type(model).__name__}"
    if "forward" in vars(model):
        return "its forward was replaced"
    rebuilt = ViT(model.config, seed=None)
    for look in (_parameters, _parts):
        own, theirs = look(model), look(rebuilt)
        for name in sorted(own.keys() | theirs.keys()):
            a, b = own.get(name), theirs.get(name)
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                if not np.array_equal(a, b):
                    return f"{name} has other values than its settings say"
            elif type(a) is not type(b) or a != b:
                return f"{name} is {a}, its settings say {b}"
    return ""


def _parameters(model: ViT) -> dict[str, Any]:
    return {name: p.shape for name, p in model.named_parameters()}


def _parts(model: ViT) -> dict[str, Any]:
    """What a model computes with besides parameters: the kinds of its parts, their settings and constants. Not of those
    that draw masks, since a model that is loaded is in evaluation mode."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[name] = type(module).__name__ if type(module).__module__.startswith("minivit.") else str(type(module))
        if "forward" in vars(module):
            found[name] = "a module whose forward was replaced"
        for what, value in module._children():
            if isinstance(value, Module | Parameter | ViTConfig) or isinstance(module, RandomModule):
                continue
            if what.split(".")[0] in _NO_MATTER:
                continue
            found[f"{name}.{what}"] = to_numpy(value) if is_array(value) else value
    return found


def load(path: str | os.PathLike[str]) -> ViT:
    """The model that `save` wrote, in evaluation mode.

    Raises:
        CheckpointError: for a file that is damaged, is no minivit model, or whose arrays do not fit its settings.
        FileNotFoundError: if there is none.
    """
    arrays, metadata = read_arrays(path)
    if metadata.get("format") != FORMAT or metadata.get("model") != "ViT":
        raise CheckpointError(path, f"not a minivit model (format {metadata.get('format')!r}, model "
                                    f"{metadata.get('model')!r}); mv.io.read_arrays gives its arrays")
    try:
        settings = json.loads(metadata.get("config", "null"))
        config = ViTConfig.from_options({k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
        numbers = sum(a.size for a in arrays.values() if a.dtype.kind == "f")
        _check_size(config, min(numbers, os.path.getsize(path)))  # weights hardly compress: to a byte each at most
        model = ViT(config, seed=None)
        model.classes = _names(metadata, config)
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise CheckpointError(path, f"its settings make no model: {error}") from error
    if any(a.dtype == np.float64 for a in arrays.values()):
        model.to(dtype="float64")
    try:
        model.load_state_dict(arrays)
    except ValueError as error:
        raise CheckpointError(path, str(error)) from error
    model.eval()
    return model


def _names(metadata: dict[str, str], config: ViTConfig) -> tuple[str, ...] | None:
    names = json.loads(metadata.get("classes", "null"))
    if names is None:
        return None
    if not isinstance(names, list) or len(names) > config.num_classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes: expected at most {config.num_classes} names, got {names!r:.60}")
    return tuple(names)


def _check_size(config: ViTConfig, numbers: int) -> None:
    """Refuses settings that promise far more weights, or tables, than the file has numbers, before memory is asked for."""
    c = config
    height, width = c.image_size  # type: ignore[misc]
    patches = (height // c.patch_size) * (width // c.patch_size)
    weights = c.depth * c.embed_dim * (4 * c.embed_dim + 2 * round(c.embed_dim * c.mlp_ratio))
    weights += c.embed_dim * (c.patch_size**2 * c.channels + c.num_classes)
    weights += {"learned": patches * c.embed_dim, "relative": c.depth * 4 * patches}.get(c.position, 0)
    tables = {"relative": patches**2}.get(c.position, patches * c.embed_dim)
    if weights > 2 * numbers + 1000 or tables > 100 * numbers + 10_000_000:
        raise ValueError(f"they promise about {weights:,} weights and tables of {tables:,} numbers, the file has {numbers:,}")

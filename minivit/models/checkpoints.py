"""Models on disk: the weights by name, and the settings beside them. Safetensors or .npz, never pickle."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import Any

from minivit.io import CheckpointError, read_arrays, write_arrays
from minivit.models.vit import ViT, ViTConfig

FORMAT = "minivit-1"


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Writes a model to `path`, `.safetensors` or `.npz`, atomically: an older file there survives a failure.

    The model has to be one that `load` can rebuild, a ViT. For a module of your own,
    `mv.io.write_arrays(path, module.state_dict())` and `load_state_dict` do.
    """
    if not isinstance(model, ViT):
        raise TypeError(f"model: expected a ViT, which can be rebuilt from its settings, got {type(model).__name__}; "
                        "use mv.io.write_arrays(path, model.state_dict())")
    metadata = {"format": FORMAT, "model": "ViT", "config": json.dumps(model.to_config())}
    write_arrays(path, model.state_dict(), metadata)


def load(path: str | os.PathLike[str]) -> ViT:
    """The model that `save` wrote, in evaluation mode.

    Raises:
        CheckpointError: for a file that is damaged, is no minivit model, or whose arrays do not fit its settings.
        FileNotFoundError: if there is none.
    """
    arrays, metadata = read_arrays(path)
    if metadata.get("format") != FORMAT or metadata.get("model") != "ViT":
        raise CheckpointError(f"{path}: not a minivit model (format {metadata.get('format')!r}, model "
                              f"{metadata.get('model')!r}); mv.io.read_arrays gives its arrays")
    try:
        settings = json.loads(metadata["config"])
        unknown = settings.keys() - {f.name for f in fields(ViTConfig)}
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)}")
        config = ViTConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
        _check_size(config, sum(a.size for a in arrays.values()))
        model = ViT(config, seed=None)
        model.to(dtype=arrays["head.weight"].dtype if "head.weight" in arrays else None)
        model.load_state_dict(arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.eval()
    return model


def _check_size(config: ViTConfig, numbers: int) -> None:
    """Refuses settings that promise far more weights than the file has, before memory is asked for them."""
    promised = config.depth * config.embed_dim**2 * 4
    if promised > 4 * numbers + 1_000_000:
        raise ValueError(f"its settings (width {config.embed_dim}, depth {config.depth}) do not fit its {numbers:,} numbers")

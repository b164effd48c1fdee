"""A run on disk: what was asked for, what has come of it, and where to go on after a stop of any kind.

    runs/2026-01-31-digits/
        config.json          the settings; a run that is resumed must have the same
        metrics.jsonl        one line of JSON per epoch
        checkpoints/         the two latest, `step-000000123.safetensors`
        model.safetensors    the result

A checkpoint is everything that the next step depends on: parameters, the optimizer's moments, the average of weights,
and how far training has come. There is no state of random generators in it, since all randomness is counted
(`backend/random.py`): a step's is a function of (seed, step). Each file is written whole or not at all (`io/files.py`), and
the one before stays until the new one is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minivit import __version__
from minivit.data.dataset import Dataset
from minivit.io import CheckpointError, append_jsonl, atomic_write, plain, read_arrays, write_arrays, write_json
from minivit.nn.module import Module, RandomModule

FORMAT = "minivit-training-1"


class Run:
    """The folder of one training.

    Args:
        path: the folder; made if need be.
        config: the settings as plain data. Its part "about" is recorded, everything else must agree on resuming.
        resume: go on with what is in the folder; otherwise a folder that holds a run is refused.
        how_to_resume: what to write to go on with it, for messages.

    Raises:
        FileExistsError: if there is a run already and it is not to be resumed, or a file that a run would overwrite.
        FileNotFoundError: if there is none to resume.
        ValueError: if it is to be resumed with other settings, naming them.
        OSError: if the folder cannot be written to.
    """

    def __init__(
        self, path: str | os.PathLike[str], config: dict[str, Any], resume: bool = False, how_to_resume: str | None = None
    ) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        again = f"mv.train.fit(model, train, test, ..., resume={str(path)!r}) and otherwise the same arguments"
        self.how_to_resume = how_to_resume or again
        if resume:
            self._compare(config)
        elif self.metrics.exists() or self._saved():
            raise FileExistsError(f"run_dir: {self.path} already holds a run; choose another folder, or go on with it: "
                                  f"{self.how_to_resume}")
        elif strange := self._not_ours():
            raise FileExistsError(f"run_dir: {self.path} holds a {strange} that is no training's, and it would be overwritten; "
                                  "choose another folder")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not resume:
                write_json(self.path / "config.json", {**config, "minivit": __version__})
        except OSError as error:
            raise OSError(error.errno, f"run_dir: {self.path} cannot be written to: {error.strerror}") from error

    def log(self, row: dict[str, Any]) -> None:
        append_jsonl(self.metrics, row)

    def save(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        """Writes a checkpoint; when it is complete, removes all but it and the one before."""
        path = self.checkpoints / f"step-{state['step']:09d}.safetensors"
        write_arrays(path, arrays, {"format": FORMAT, "state": json.dumps(plain(state))})
        for old in self._saved()[:-2]:
            old.unlink(missing_ok=True)

    def restore(self, restore: Callable[[dict[str, np.ndarray], dict[str, Any]], None]) -> bool:
        """Calls restore(arrays, state) with the latest checkpoint that it can take; False if none was ever written.

        The lines of metrics.jsonl that were written after it are dropped: those epochs come again.
        """
        saved = self._saved()
        if not saved and self.metrics.exists():
            raise FileNotFoundError(f"resume: {self.checkpoints} holds no checkpoint to go on from, though {self.metrics.name} "
                                    "says that there were some. Nothing was changed; begin anew in another folder")  # fmt: skip
        for path in reversed(saved):
            try:
                arrays, metadata = read_arrays(path)
                if metadata.get("format") != FORMAT:
                    raise CheckpointError(path, f"not a checkpoint of a training ({metadata.get('format')!r})")
                try:
                    state = json.loads(metadata["state"])
                    rows = [json.dumps(dict(row), ensure_ascii=False) for row in state["history"]]
                    restore(arrays, state)
                except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                    raise CheckpointError(path, f"nothing to go on from ({type(error).__name__}: {error})") from error
            except CheckpointError as error:
                if path == saved[0]:
                    raise
                warnings.warn(f"{error}; going on from the checkpoint before", stacklevel=3)
                continue
            with atomic_write(self.metrics) as file:
                file.write("".join(row + "\n" for row in rows).encode())
            return True
        return False

    def latest(self) -> Path | None:
        """The latest checkpoint."""
        saved = self._saved()
        return saved[-1] if saved else None

    def save_model(self, model: Module) -> None:
        """model.safetensors: with its settings where the model has a name, so that `mv.models.load` can rebuild it."""
        from minivit.models import ViT, save

        path = self.path / "model.safetensors"
        try:
            save(model, path)
        except TypeError as error:  # a module of somebody's own, or a ViT with other parts
            if isinstance(model, ViT):
                warnings.warn(f"{path} has the arrays alone: {error}. For a head of other classes there is "
                              "model.reset_classifier, before training", stacklevel=3)
            write_arrays(path, model.state_dict())

    def _saved(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*.safetensors"))

    def _not_ours(self) -> str | None:
        """A file that a new run would overwrite; not the settings of one whose first checkpoint could not be written."""
        there = [name for name in ("model.safetensors", "config.json") if (self.path / name).exists()]
        if there == ["config.json"]:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                settings = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
                if isinstance(settings, dict) and "training" in settings:
                    return None
        return there[0] if there else None

    def _compare(self, config: dict[str, Any]) -> None:
        path = self.path / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"resume: {self.path} holds no run: there is no config.json in it")
        try:
            before = _flat({k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k != "about"})
        except (ValueError, AttributeError) as error:
            raise CheckpointError(path, f"not the settings of a run: {error}") from error
        now = _flat(json.loads(json.dumps(plain({k: v for k, v in config.items() if k != "about"}))))  # as it was written
        different = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r} now"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name != "minivit"
        ]
        if different:
            raise ValueError(f"resume: {self.path} was begun with other settings: {'; '.join(different)}. Resume with the "
                             "same settings, or begin a new run in another folder")


def describe_model(model: Module) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this model's, and for dropout to draw the same."""
    described: dict[str, Any] = {"class": type(model).__name__, "dtype": str(model.dtype)}
    described["parameters"] = model.num_parameters()
    if hasattr(model, "to_config"):
        described["config"] = model.to_config()
    drawing = (module for module in model.modules() if isinstance(module, RandomModule) and getattr(module, "p", True))
    described["seeds"] = sorted({module.seed for module in drawing})
    return described


def describe_data(data: Dataset | None) -> dict[str, Any] | None:
    """Size and check sum of a data set."""
    if data is None:
        return None
    images = zlib.crc32(np.ascontiguousarray(data.images).view(np.uint8).data)
    return {
        "images": len(data), "shape": list(data.image_shape), "classes": data.num_classes,
        "crc32": f"{zlib.crc32(np.ascontiguousarray(data.labels).data, images):08x}",
    }  # fmt: skip


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat

"""What is timed. Each row first checks that minivit and its peer compute the same numbers, then times them in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import numpy as np

import minivit as mv
from minivit.bench import torch_vit
from minivit.bench.timing import Timing, alternate


@dataclass(frozen=True)
class Row:
    """One line of the table: seconds of minivit and of each peer, and how far apart their numbers are."""

    name: str
    seconds: dict[str, Timing]
    gap: float | None  # largest difference of any compared array over its largest value

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the peer minivit is."""
        peers = [t.median for name, t in self.seconds.items() if name != "minivit"]
        return peers[0] / self.seconds["minivit"].median if peers else None


_DIGITS = {"image_size": 8, "patch_size": 2, "channels": 1, "embed_dim": 64, "depth": 4, "num_heads": 4, "num_classes": 10}
_MNIST = {**_DIGITS, "image_size": 28, "patch_size": 4}
_TINY = {"name": "vit_tiny_patch16_224"}
_BASE = {"name": "vit_base_patch16_224"}

ROWS: dict[str, tuple[str, dict[str, Any], int]] = {  # name -> what, which model, batch size
    "train-digits": ("train", _DIGITS, 64),
    "train-mnist": ("train", _MNIST, 128),
    "train-vit-ti": ("train", _TINY, 8),
    "train-vit-b": ("train", _BASE, 4),
    "infer-vit-b": ("infer", _BASE, 8),
    "pgd-mnist": ("pgd", _MNIST, 100),
    "import": ("import", {}, 1),
}


def run(names: Sequence[str] | None = None, rounds: int = 10, progress: Callable[[str], Any] = lambda _: None) -> list[Row]:
    """Measures the rows of these names (all by default). Peers that are not installed are left out."""
    names = list(ROWS) if names is None else list(names)
    for name in names:
        if name not in ROWS:
            near = get_close_matches(name, ROWS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(ROWS)}"
            raise ValueError(f"unknown row {name!r}; {hint}")
    rows = []
    for name in names:
        progress(name)
        what, settings, batch = ROWS[name]
        candidates, gap = _import_times() if what == "import" else _candidates(what, settings, batch)
        rows.append(Row(name, alternate(candidates, rounds), gap))
    return rows


def _candidates(what: str, settings: dict[str, Any], batch: int) -> tuple[dict[str, Callable[[], Any]], float | None]:
    model = mv.models.create(**settings) if "name" in settings else mv.models.ViT(**settings)
    model.train(what == "train")
    (height, width), channels = model.config.image_size, model.config.channels  # type: ignore[misc]
    rng = np.random.default_rng(0)
    images = rng.random((batch, height, width, channels), dtype=np.float32)
    labels = rng.integers(0, model.config.num_classes, batch)
    params = list(model.parameters())

    def ours() -> Any:
        if what == "train":
            return mv.grad(mv.ops.cross_entropy(model(images), labels), params)
        if what == "infer":
            with mv.no_grad():
                return (model(images),)
        result = mv.attacks.pgd(model, images, labels, eps=0.1, steps=20, random_start=False, keep="last", batch_size=batch)
        return (mv.Tensor(result.x_adv),)

    candidates: dict[str, Callable[[], Any]] = {"minivit": ours}
    if find_spec("torch") is None:
        return candidates, None
    import torch

    p = torch_vit.parameters(model)
    x, y = torch.tensor(images), torch.tensor(labels)

    def theirs() -> Any:
        if what == "train":
            for t in p.values():
                t.grad = None
            torch.nn.functional.cross_entropy(torch_vit.forward(model.config, p, x), y).backward()
            return list(torch_vit.gradients(p).values())
        if what == "infer":
            with torch.no_grad():
                return [torch_vit.forward(model.config, p, x).numpy()]
        for t in p.values():
            t.requires_grad_(False)
        adv, step = x.clone(), 2.5 * 0.1 / 20
        for _ in range(20):
            adv.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(torch_vit.forward(model.config, p, adv), y, reduction="sum")
            (g,) = torch.autograd.grad(loss, adv)
            with torch.no_grad():
                adv = torch.clamp(torch.clamp(adv + step * g.sign(), x - 0.1, x + 0.1), 0, 1)
        return [adv.numpy()]

    pairs = [(a.numpy(), b) for a, b in zip(ours(), theirs())]
    gap = max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs)
    if what == "pgd":  # a sign may differ where a gradient is nearly zero: count images, not pixels
        gap = float(np.mean([np.abs(a - b).max() > 0.05 for a, b in zip(*pairs[0])]))
    elif gap > 1e-3:
        raise AssertionError(f"minivit and PyTorch compute different numbers (gap {gap:.1e}); a timing would mean nothing")
    candidates["pytorch"] = theirs
    return candidates, gap


def _import_times() -> tuple[dict[str, Callable[[], Any]], None]:
    def running(code: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    # minivit's rooms are loaded when they are used: Tensor brings autograd and NumPy
    return {"minivit": running("import minivit; minivit.Tensor"), "numpy": running("import numpy")}, None

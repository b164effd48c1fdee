"""minivit: Vision Transformers and adversarial machine learning from first principles.

    import minivit as mv

    train, test = mv.data.load("digits")
    model = mv.models.ViT(image_size=8, patch_size=2, channels=1, embed_dim=64, depth=4, num_heads=4, num_classes=10)
    mv.train.fit(model, train, test, epochs=20)
    result = mv.attacks.pgd(model, test.images, test.labels, eps=0.15)

The source is meant to be read, in this order, which is also the order of its imports: `arguments` (what an error
says), `backend` (arrays and devices), `io`, `autograd` (derivatives), `checking` (are they right?), `nn`, `models` (the
Vision Transformer), `data`, `train`, `attacks`, `defenses`, `viz`, `exercises`, `bench`, `cli`.

Importing minivit loads next to nothing: each room, and with the first one NumPy, is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> where it lives: (module, attribute), or (module, None) for a module
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "Tensor": ("minivit.autograd", "Tensor"),
    "grad": ("minivit.autograd", "grad"),
    "no_grad": ("minivit.autograd", "no_grad"),
    "op": ("minivit.autograd", "op"),
    "checkpoint": ("minivit.autograd", "checkpoint"),
    "autocast": ("minivit.autograd", "autocast"),
    "allow_tf32": ("minivit.backend", "allow_tf32"),
    "anomaly": ("minivit.autograd", "anomaly"),
    "ops": ("minivit.autograd.ops", None),
    "gradcheck": ("minivit.checking", "gradcheck"),
    "GradcheckError": ("minivit.checking", "GradcheckError"),
    **{
        room: (f"minivit.{room}", None)
        for room in ("autograd", "backend", "bench", "checking", "data", "attacks", "defenses", "exercises", "io", "models",
                     "nn", "train", "viz")
    },
}
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:  # what `__getattr__` finds, for editors and type checkers
    from minivit import attacks as attacks
    from minivit import autograd as autograd
    from minivit import backend as backend
    from minivit import bench as bench
    from minivit import checking as checking
    from minivit import data as data
    from minivit import defenses as defenses
    from minivit import exercises as exercises
    from minivit import io as io
    from minivit import models as models
    from minivit import nn as nn
    from minivit import train as train
    from minivit import viz as viz
    from minivit.autograd import Tensor as Tensor
    from minivit.autograd import anomaly as anomaly
    from minivit.autograd import autocast as autocast
    from minivit.autograd import checkpoint as checkpoint
    from minivit.autograd import grad as grad
    from minivit.autograd import no_grad as no_grad
    from minivit.autograd import op as op
    from minivit.autograd import ops as ops
    from minivit.backend import allow_tf32 as allow_tf32
    from minivit.checking import GradcheckError as GradcheckError
    from minivit.checking import gradcheck as gradcheck


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'minivit' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(module)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

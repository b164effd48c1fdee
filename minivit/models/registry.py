"""Models by name, under timm's names: `vit_base_patch16_224` is the lecture's ViT-Base."""

from __future__ import annotations

from typing import Any

from minivit.arguments import meant
from minivit.models.vit import ViT, ViTConfig

# width D, depth L, heads h; the MLP is 4 D wide (lecture, "ViT Models", for base, large and huge)
SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
# which patch sizes and image sizes were published
PUBLISHED = {
    "tiny": ((16, 224), (16, 384)),
    "small": ((32, 224), (16, 224), (16, 384)),
    "medium": ((16, 224),),
    "base": ((32, 224), (16, 224), (16, 384), (8, 224)),
    "large": ((32, 224), (16, 224), (16, 384), (14, 224)),
    "huge": ((14, 224),),
}


def names() -> list[str]:
    """The models that `create` knows."""
    return [f"vit_{size}_patch{p}_{image}" for size, kinds in PUBLISHED.items() for p, image in kinds]


def config(name: str, **changes: Any) -> ViTConfig:
    """The settings of a named model, with changes by field name."""
    if name not in names():
        raise ValueError(f"unknown model {name!r}; {meant(name, names())}")
    _, size, patch, image = name.split("_")
    width, depth, heads = SIZES[size]
    settings: dict[str, Any] = {
        "image_size": int(image),
        "patch_size": int(patch.removeprefix("patch")),
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
    }
    return ViTConfig.from_options(settings | changes)


def create(name: str, num_classes: int = 1000, seed: int | None = 0, **changes: Any) -> ViT:
    """A named model with fresh weights: `create("vit_tiny_patch16_224", num_classes=10)`.

    Args:
        name: one of `names()`.
        seed: for the weights; None leaves zeros, to be loaded.
        changes: any field of ViTConfig.
    """
    return ViT(config(name, num_classes=num_classes, **changes), seed=seed)

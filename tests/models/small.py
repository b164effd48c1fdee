"""A small ViT whose parameters are all at values of no special meaning, and images for it."""

import numpy as np

import minivit as mv

SMALL = {"image_size": (12, 8), "patch_size": 4, "channels": 3, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}
POSITIONS = ("learned", "sinusoidal", "sinusoidal_2d", "relative", "none")


def perturb(model, scale=0.2, seed=0):
    """No zero bias, no weight of ones, no flat attention: nothing that hides a mistake."""
    draw = np.random.default_rng(seed)
    for p in model.parameters():
        p.assign_(p.data + scale * draw.standard_normal(p.shape))
    return model


def small(dtype="float64", seed=0, **options):
    return perturb(mv.models.ViT(**(SMALL | options), seed=seed).to(dtype=dtype))


def pictures(n=2, size=(12, 8, 3), dtype="float64", seed=0):
    return np.random.default_rng(seed).random((n, *size)).astype(dtype)

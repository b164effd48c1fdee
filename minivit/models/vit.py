"""The Vision Transformer (Dosovitskiy et al. 2021, "An Image is Worth 16×16 Words"; lecture, "An Overview of ViT").

    z_0 = [p_class; p_1 E; p_2 E; ...; p_N E] + E_pos       patches, embedded, with their positions
    z_l = block_l(z_(l-1)),  l = 1 ... L                    the transformer encoder
    logits = LN(z_L)[class] W + b                           or the mean over the patches
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from minivit.arguments import meant
from minivit.autograd import ops
from minivit.autograd.shares import in_shares
from minivit.backend import kernels_on_cpu
from minivit.models.encoder import EncoderBlock, encode
from minivit.models.patches import Normalize, PatchEmbedding, check_images
from minivit.models.positions import RelativePositionBias, sinusoidal, sinusoidal_2d
from minivit.nn import Dropout, DropPath, LayerNorm, Linear, Module, Parameter, init

_SMALL = 6_000_000  # parameters: a ViT-Ti is, a ViT-S is not
_WORTH_SHARES = 200_000_000
CHOICES = {
    "position": ("learned", "sinusoidal", "sinusoidal_2d", "relative", "none"),
    "pool": ("cls", "mean"),
    "scale": ("head", "width"),
    "gelu": ("exact", "tanh"),
}


@dataclass(frozen=True)
class ViTConfig:
    """Everything that, with the weights, makes a ViT. Saved in every checkpoint."""

    image_size: int | tuple[int, int] = 224  # pixels: one number for a square, or (height, width)
    patch_size: int = 16  # P
    channels: int = 3  # C
    embed_dim: int = 768  # D
    depth: int = 12  # L
    num_heads: int = 12  # h
    num_classes: int = 1000
    position: str = "learned"  # the ViT's own; see positions.py
    pool: str = "cls"  # "cls": a class token, as in the paper; "mean": the mean over the patches
    mlp_ratio: float = 4.0  # hidden width of the MLP over D
    qkv_bias: bool = True
    scale: str = "head"  # "head": scores over √(D/h), as published; "width": over √D, as the lecture's slide
    gelu: str = "exact"  # "exact" as in timm and Hugging Face; "tanh" as in the original code
    norm_eps: float = 1e-6  # of the layer norms; part of the checkpoint, since others differ
    dropout: float = 0.0
    drop_path: float = 0.0  # rate of the last block, growing linearly from 0 at the first
    mean: float | tuple[float, ...] = 0.5  # pixel normalization, the first layer
    std: float | tuple[float, ...] = 0.5

    def __post_init__(self) -> None:
        def require(name: str, good: bool, expected: str) -> None:
            if not good:
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

        size: Any = self.image_size
        size = tuple(size) if isinstance(size, tuple | list) else (size, size)
        require("image_size", len(size) == 2 and all(map(_is_count, size)), "a number of pixels, or (height, width)")
        object.__setattr__(self, "image_size", size)
        for name in ("patch_size", "channels", "embed_dim", "num_heads", "num_classes"):
            require(name, _is_count(getattr(self, name)), "a positive integer")
        require("depth", _is_count(self.depth) or self.depth == 0, "an integer of at least 0")
        for name, known in CHOICES.items():
            require(name, getattr(self, name) in known, f"one of {', '.join(known)}")
        for name in ("mlp_ratio", "norm_eps"):
            require(name, _is_number(getattr(self, name)) and getattr(self, name) > 0, "a positive number")
        for name in ("dropout", "drop_path"):
            require(name, _is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1, "a probability in [0, 1)")
        for name in ("mean", "std"):
            value = getattr(self, name)
            each = value if isinstance(value, tuple | list) and len(value) == self.channels else (value,)
            good = all(_is_number(v) and (name == "mean" or v > 0) for v in each)
            require(name, good, f"a number, or a tuple of one for each of {self.channels} channels" + ", > 0" * (name == "std"))

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> ViTConfig:
        """The settings with these fields changed from their defaults. An unknown one is a TypeError with the nearest."""
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                raise TypeError(f"ViT: unknown option {name!r}; {meant(name, known)}")
        return cls(**options)


class ViT(Module):
    """A Vision Transformer: images (B, H, W, C) in [0, 1] -> logits (B, num_classes).

    Args:
        config: a ViTConfig; or its fields by name, `ViT(image_size=8, patch_size=2, ...)`.
        seed: for the initial weights, and for dropout; None leaves zeros, to be loaded.

    Attributes:
        config: the settings. classes: the names of the classes that it was trained on, or None; saved with it.
    """

    def __init__(self, config: ViTConfig | None = None, *, seed: int | None = 0, **options: Any) -> None:
        super().__init__()
        self.classes: tuple[str, ...] | None = None  # their names, where it was trained by `fit`
        if config is not None and (options or not isinstance(config, ViTConfig)):
            raise TypeError("ViT: give one ViTConfig, or options by name; for a model by its name use mv.models.create(name)")
        c = self.config = config or ViTConfig.from_options(options)
        assert isinstance(c.image_size, tuple)
        D = c.embed_dim
        self.normalize = Normalize(c.mean, c.std)
        self.patch_embed = PatchEmbedding(c.image_size, c.patch_size, c.channels, D, seed)
        self.num_prefix = int(c.pool == "cls")
        tokens = self.num_prefix + self.patch_embed.num_patches
        self.cls_token = Parameter(init.normal((1, 1, D), seed, "cls_token")) if c.pool == "cls" else None
        self.pos_embed: Any = self._positions(tokens, seed)
        self.dropout = Dropout(c.dropout, seed or 0, layer=3 * c.depth)
        self.blocks = [
            EncoderBlock(
                D,
                c.num_heads,
                round(D * c.mlp_ratio),
                qkv_bias=c.qkv_bias,
                scale=c.scale,
                norm_eps=c.norm_eps,
                approximate_gelu=c.gelu == "tanh",
                dropout=c.dropout,
                drop_path=c.drop_path * i / max(c.depth - 1, 1),
                seed=seed,
                name=f"blocks.{i}",
                layer=i,
            )
            for i in range(c.depth)
        ]
        self.biases = [
            RelativePositionBias(self.patch_embed.grid, c.num_heads, c.pool == "cls")
            for _ in range(c.depth if c.position == "relative" else 0)
        ]
        self.norm = LayerNorm(D, c.norm_eps)
        self.head = Linear(D, c.num_classes, seed=seed, name="head")

    def _positions(self, tokens: int, seed: int | None) -> Any:
        """E_pos, (1, tokens, D): a parameter, a constant (zeros for the class token), or None."""
        c = self.config
        if c.position == "learned":
            # about as large as embedded patches are under Xavier weights, so that a small model sees positions from the
            # first step; the 0.02 of the published models needs their long training
            return Parameter(init.normal((1, tokens, c.embed_dim), seed, "pos_embed", std=0.4))
        if c.position == "sinusoidal":
            table = sinusoidal(self.patch_embed.num_patches, c.embed_dim)
        elif c.position == "sinusoidal_2d":
            table = sinusoidal_2d(self.patch_embed.grid, c.embed_dim)
        else:
            return None
        return np.pad(table, ((self.num_prefix, 0), (0, 0)))[None].astype(np.float32)

    def forward(self, images: Any, intermediates: bool = False) -> Any:
        """The logits; with `intermediates` also a dict of what was computed on the way, in the graph.

        Its names: `patches` (B, N, P²C), normalized, `embedded` (B, N+1, D) = z_0, `block0` ... (B, N+1, D),
        `block0.attention` ... (B, h, N+1, N+1), `pooled` (B, D).
        """
        c = self.config
        assert isinstance(c.image_size, tuple)
        x = check_images(images, *c.image_size, c.channels, self.dtype, self.device)
        if intermediates:
            parts: dict[str, Any] = {}
            return self._logits(x, parts), parts
        return in_shares(self._logits, x) if self._in_shares(len(x)) else self._logits(x)

    def _in_shares(self, batch: int) -> bool:
        """Whether every thread should compute some of the images from end to end.

        Only in a small model: in a large one every operation is worth dividing by itself, while the gradients of all
        parameters, once per thread, take memory and time. Only with work enough to pay for the interpreter's, which every
        thread then does. And only if the logits of an image depend on that image alone: not if masks are drawn for the
        batch, nor, for all one knows, if somebody put a module or function of their own in.
        """
        if kernels_on_cpu():  # which divide themselves, at less cost
            return False
        weights = 12 * self.config.depth * self.config.embed_dim**2
        random = any(isinstance(m, Dropout | DropPath) and m.training and m.p for m in self.modules())
        work = batch * self.patch_embed.num_patches * weights  # multiply-accumulates, about
        return weights <= _SMALL and work >= _WORTH_SHARES and not random and all(
            type(module).__module__.startswith("minivit.") and type(module).forward.__module__.startswith("minivit.")
            and "forward" not in vars(module) for module in self.modules()
        )

    def _logits(self, x: Any, parts: dict[str, Any] | None = None) -> Any:
        c, B = self.config, x.shape[0]
        z = self.patch_embed(self.normalize(x), parts)  # (B, H, W, C) -> (B, N, D)
        if self.cls_token is not None:
            first = ops.broadcast_to(self.cls_token, shape=(B, 1, c.embed_dim))
            z = ops.concatenate(first, z, axis=1)  # (B, 1, D), (B, N, D) -> (B, N+1, D)
        if self.pos_embed is not None:
            z = z + self.pos_embed
        z = self.dropout(z)
        if parts is not None:
            parts["embedded"] = z
        queries = None
        if parts is None and c.pool == "cls" and self.blocks:
            last = self.blocks[-1]
            if isinstance(last, EncoderBlock) and last.can_leave_out_tokens():
                queries = 1  # the logits are made of the class token's row alone
        z = encode(self.blocks, z, self.biases, parts, queries)
        # layer norm treats every token by itself, so the class token can be read before it: the same, and less work
        pooled = self.norm(z[:, 0]) if c.pool == "cls" else self.norm(z).mean(axis=1)  # (B, D)
        if parts is not None:
            parts["pooled"] = pooled
        return self.head(pooled)

    def reset_classifier(self, num_classes: int, seed: int | None = 0) -> None:
        """A fresh head for other classes, as fine-tuning begins (Dosovitskiy et al. 2021, section 3.2); all else is kept.

        Args:
            num_classes: how many. The names of the former ones, `classes`, are forgotten.
            seed: for the head's weights; None leaves zeros, as the paper does.

        Raises:
            ValueError: if `num_classes` is not a positive integer; the model is unchanged then.
        """
        config = replace(self.config, num_classes=num_classes)
        head = Linear(config.embed_dim, num_classes, seed=seed, name="head")
        head.to(self.device, self.dtype)
        self.config, self.head, self.classes = config, head, None

    def describe(self) -> str:
        c, size = self.config, self.patch_embed.image_size
        return f"{size[0]}×{size[1]}×{c.channels}, patch {c.patch_size}, width {c.embed_dim}, " \
               f"depth {c.depth}, {c.num_heads} heads, position {c.position!r}, pool {c.pool!r}"

    def to_config(self) -> dict[str, Any]:
        """The settings as plain data, for a checkpoint."""
        return asdict(self.config)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _is_number(value: Any) -> bool:
    """A number that float32 holds."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and bool(abs(value) <= float(np.finfo(np.float32).max))


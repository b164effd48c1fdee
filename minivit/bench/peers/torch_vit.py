"""The same Vision Transformer in PyTorch, on minivit's weights: the outside reference of tests and benchmarks.

Written with PyTorch's own fused functions, weights in PyTorch's own layout, so that it is as fast as plain PyTorch is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivit.bench.rows import Candidate, Problem


def candidate(problem: Problem) -> Candidate:
    """A training step or the logits, in PyTorch eager."""
    import torch

    what, model, images, labels = problem
    p, x, y = parameters(model), torch.tensor(images), torch.tensor(labels)

    def train() -> Any:
        for tensor in p.values():
            tensor.grad = None
        loss = torch.nn.functional.cross_entropy(forward(model.config, p, x), y)
        loss.backward()
        return loss

    def infer() -> Any:
        with torch.no_grad():
            return forward(model.config, p, x)

    if what == "train":
        return Candidate(train, lambda loss: [loss.detach().numpy(), *gradients(p).values()])
    return Candidate(infer, lambda logits: [logits.numpy()])


def is_transposed(name: str, array: Any) -> bool:
    """Whether PyTorch stores this parameter the other way round: weights of linear layers, (out, in)."""
    return array.ndim == 2 and name.endswith(".weight")


def parameters(model: Any, device: str = "cpu") -> dict[str, Any]:
    """The parameters of a minivit ViT as torch tensors that require gradients, in PyTorch's layout."""
    import torch

    def convert(name: str, array: np.ndarray) -> Any:
        array = array.T if is_transposed(name, array) else array
        return torch.tensor(np.ascontiguousarray(array), device=device, requires_grad=True)

    return {name: convert(name, value) for name, value in model.state_dict().items()}


def gradients(p: dict[str, Any]) -> dict[str, np.ndarray]:
    """The gradients that PyTorch left in `p`, in minivit's layout."""
    found = {name: tensor.grad.cpu().numpy() for name, tensor in p.items()}
    return {name: g.T if is_transposed(name, g) else g for name, g in found.items()}


def forward(config: Any, p: dict[str, Any], images: Any) -> Any:
    """Logits of the ViT that `config` describes, for a torch tensor of images (B, H, W, C)."""
    import torch
    import torch.nn.functional as F

    B, H, W, C = images.shape
    P, D, h = config.patch_size, config.embed_dim, config.num_heads
    like = {"dtype": images.dtype, "device": images.device}
    mean, std = (torch.as_tensor(value, **like) for value in (config.mean, config.std))  # one, or one per channel
    x = (images - mean) / std
    kernel = p["patch_embed.proj.weight"].reshape(D, P, P, C).permute(0, 3, 1, 2)  # as a convolution of stride P
    z = F.conv2d(x.permute(0, 3, 1, 2), kernel, p["patch_embed.proj.bias"], stride=P).flatten(2).transpose(1, 2)
    if config.pool == "cls":
        z = torch.cat([p["cls_token"].expand(B, -1, -1), z], dim=1)
    if config.position == "learned":
        z = z + p["pos_embed"]
    for i in range(config.depth):
        b = f"blocks.{i}."
        y = F.layer_norm(z, (D,), p[b + "norm1.weight"], p[b + "norm1.bias"], config.norm_eps)
        qkv = F.linear(y, p[b + "attn.qkv.weight"], p[b + "attn.qkv.bias"]).reshape(B, -1, 3, h, D // h)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scale = 1 / math.sqrt(D // h if config.scale == "head" else D)
        y = F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).reshape(B, -1, D)
        z = z + F.linear(y, p[b + "attn.proj.weight"], p[b + "attn.proj.bias"])
        y = F.layer_norm(z, (D,), p[b + "norm2.weight"], p[b + "norm2.bias"], config.norm_eps)
        y = F.linear(y, p[b + "mlp.fc1.weight"], p[b + "mlp.fc1.bias"])
        y = F.gelu(y, approximate="tanh" if config.gelu == "tanh" else "none")
        z = z + F.linear(y, p[b + "mlp.fc2.weight"], p[b + "mlp.fc2.bias"])
    z = F.layer_norm(z, (D,), p["norm.weight"], p["norm.bias"], config.norm_eps)
    return F.linear(z[:, 0] if config.pool == "cls" else z.mean(1), p["head.weight"], p["head.bias"])

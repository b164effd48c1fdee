"""The layers: Linear, LayerNorm, Dropout, DropPath, and the transformer's MLP."""

from __future__ import annotations

from typing import Any

import numpy as np

from minivit.arguments import integer
from minivit.autograd import Tensor, ops
from minivit.backend import array_module, random
from minivit.nn import init
from minivit.nn.module import Module, Parameter, RandomModule


class Linear(Module):
    """x W + b over the last axis, W of shape (in_features, out_features): rows are tokens.

    Args:
        in_features, out_features: widths before and after.
        bias: whether there is a b.
        seed: the weight is drawn from (seed, name), Xavier-uniform; None leaves zeros, to be loaded.
        name: tells apart layers of one model that share a seed.
        parts: how many projections of equal width are packed side by side in out_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        seed: int | None = 0,
        name: str = "linear",
        parts: int = 1,
    ) -> None:
        super().__init__()
        shape = integer("in_features", in_features, least=1), integer("out_features", out_features, least=1)
        self.weight = Parameter(init.xavier_uniform(shape, seed, name, parts), copy=False)
        self.bias = Parameter(np.zeros(out_features, np.float32)) if bias else None

    def forward(self, x: Any) -> Any:
        return ops.linear(x, self.weight, self.bias)  # (..., d_in) -> (..., d_out)

    def describe(self) -> str:
        return f"{self.weight.shape[0]} -> {self.weight.shape[1]}{'' if self.bias is not None else ', no bias'}"


class LayerNorm(Module):
    """Layer normalization over the last axis, of width dim."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = Parameter(np.ones(dim, np.float32))
        self.bias = Parameter(np.zeros(dim, np.float32))

    def forward(self, x: Any) -> Any:
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)

    def describe(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps:g}"


class Dropout(RandomModule):
    """While training, sets each element to zero with probability p and scales the others by 1/(1 - p)
    (Srivastava et al. 2014)."""

    def __init__(self, p: float, seed: int = 0, layer: int | None = None) -> None:
        super().__init__(seed, layer)
        self.p = _check_probability("Dropout", p)

    def forward(self, x: Any) -> Any:
        if not self.training or self.p == 0:
            return x
        return x * _mask(x, x.shape, self.p, self.seed, "dropout", *self.place())

    def describe(self) -> str:
        return f"p={self.p:g}"


class DropPath(RandomModule):
    """While training, drops a residual branch for whole images with probability p (stochastic depth, Huang et al. 2016)."""

    def __init__(self, p: float, seed: int = 0, layer: int | None = None) -> None:
        super().__init__(seed, layer)
        self.p = _check_probability("DropPath", p)

    def forward(self, x: Any) -> Any:
        if not self.training or self.p == 0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * _mask(x, shape, self.p, self.seed, "drop_path", *self.place())

    def describe(self) -> str:
        return f"p={self.p:g}"


class MLP(Module):
    """The transformer's MLP: Linear, GELU, Linear, on every token by itself.

    Args:
        dim: width D of the tokens.
        hidden_dim: width between, 4 D in the standard models.
        approximate_gelu: use the tanh form of GELU.
        dropout: of the result, while training. (The ViT's own code drops the numbers between as well; Hugging Face's does not.)
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        approximate_gelu: bool = False,
        dropout: float = 0.0,
        seed: int | None = 0,
        name: str = "mlp",
        layer: int | None = None,
    ) -> None:
        super().__init__()
        self.approximate_gelu = approximate_gelu
        self.fc1 = Linear(dim, hidden_dim, seed=seed, name=f"{name}.fc1")
        self.fc2 = Linear(hidden_dim, dim, seed=seed, name=f"{name}.fc2")
        self.dropout = Dropout(dropout, seed or 0, layer)

    def forward(self, x: Any) -> Any:
        hidden = ops.gelu(self.fc1(x), approximate=self.approximate_gelu)  # (B, N, D) -> (B, N, hidden)
        return self.dropout(self.fc2(hidden))


def _mask(x: Any, shape: tuple[int, ...], p: float, seed: int, purpose: str, *place: int) -> Any:
    """0 with probability p, else 1/(1 - p), in the dtype of x and on its device."""
    array = x.data if isinstance(x, Tensor) else x
    if array.dtype.kind != "f":
        raise TypeError(f"{purpose}: expected floats, got {array.dtype}; 1 / (1 - p) is none of its numbers")
    kept = random.bernoulli(1 - p, seed, purpose, *place, shape=shape, xp=array_module(array))
    return kept.astype(array.dtype) * array.dtype.type(1 / (1 - p))


def _check_probability(name: str, p: float) -> float:
    if not 0 <= p < 1:
        raise ValueError(f"{name}: p must be in [0, 1), got {p}")
    return float(p)

"""Optimizers: how a step is made out of gradients.

    opt = mv.train.AdamW(model.parameters(), lr=1e-3)
    opt.zero_grad(); loss.backward(); opt.step()

Gradient descent is the lecture's θ ← θ - α ∂ℓ/∂θ ("Gradient Descent Revisited"). `SGD` adds momentum to it, `Adam`
gives every parameter a step size of its own, and `AdamW`, with which Vision Transformers are trained, adds a pull
towards zero.

The papers write θ, g, m, v for *vectors* of all parameters, and so does this file: gradients are gathered into one
vector g, the formula is applied to it, and each parameter is given its part of the new θ. A model has dozens of small
parameters, and one long vector costs the interpreter far less than dozens of short ones. The vector is walked in blocks
that stay in the processor's cache, so that the formulas can be written as they are printed, temporaries and all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minivit.autograd import Tensor
from minivit.backend import array_module, blocks, device_of, empty, for_blocks, kernel, to_device, to_numpy

# Weight decay is for what multiplies. Biases and the gains of layer norms are vectors; the class token and position
# embeddings are added, like biases, whatever their shape.
_NOT_DECAYED = ("pos", "cls")
_WORTH_THREADS = 1_000_000  # numbers to be moved; with fewer a second thread costs more than it saves


class Optimizer:
    """The common part. A subclass names its moments and says, in `update`, what a step does.

    Args:
        params: the Tensors to train, or pairs (name, Tensor) as `model.named_parameters()` gives. All of one dtype, on
            one device. With names, parameters named pos... or cls... are recognized (see `decays`), and errors and the
            saved state name them; without, a parameter is called by its position.
        lr: the learning rate α. May be changed between steps: `opt.lr = ...`.
        weight_decay: what `update` makes of it.

    A parameter that the loss did not reach has the gradient zero, as `mv.grad` says too.
    """

    moments: tuple[str, ...] = ()  # the vectors that are kept from step to step, zeros at first

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float) -> None:
        pairs = [p if isinstance(p, tuple) else (str(i), p) for i, p in enumerate(_as_list(params))]
        for name, p in pairs:
            if not isinstance(p, Tensor) or not p.requires_grad or p.node is not None:
                raise TypeError(f"params: expected Parameters (leaf Tensors that require a gradient), {name!r} is not one")
        if not pairs:
            raise ValueError("params: there are none; a generator like model.parameters() can be walked only once")
        if len({id(p) for _, p in pairs}) < len(pairs):
            raise ValueError("params: a parameter is there twice and would be moved twice")
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("params: two parameters have one name, and a saved state could not tell them apart; put a prefix "
                             f"before those of each model ({', '.join(name for name, _ in pairs[:3])}, ...)")
        # those that decay come first, so that one number says which part of the vector decays
        pairs.sort(key=lambda pair: not decays(*pair))
        self.names = [name for name, _ in pairs]
        self.params = [p for _, p in pairs]
        ends = np.cumsum([p.size for p in self.params]).tolist()
        self._parts = [slice(end - p.size, end) for end, p in zip(ends, self.params)]
        self._decayed = max((part.stop for pair, part in zip(pairs, self._parts) if decays(*pair)), default=0)
        self.lr = _at_least_zero("lr", lr)
        self.weight_decay = _at_least_zero("weight_decay", weight_decay)
        self.t = 0  # steps taken
        theta = self._vector([p.data for p in self.params])
        for moment in self.moments:
            setattr(self, moment, array_module(theta).zeros_like(theta))

    def zero_grad(self) -> None:
        """Forgets the gradients: `backward` adds to what is there."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Moves every parameter, by its gradient. The arrays of gradients and the old values are not written to.

        Raises:
            RuntimeError: if no parameter has a gradient.
        """
        if all(p.grad is None for p in self.params):
            raise RuntimeError("step: no parameter has a gradient; call loss.backward() first")
        for name, p in zip(self.names, self.params):
            if p.grad is not None and (not isinstance(p.grad, Tensor) or p.grad.shape != p.shape):
                got = f"shape {p.grad.shape}" if isinstance(p.grad, Tensor) else type(p.grad).__name__
                raise ValueError(f"step: the grad of {name!r}: expected a Tensor of shape {p.shape}, got {got}")
        theta = self._vector([p.data for p in self.params])  # a copy: whoever holds the old values keeps them
        xp = array_module(theta)
        g = self._vector([xp.zeros_like(p.data) if p.grad is None else p.grad.data for p in self.params])
        self._follow(theta)
        self.t += 1
        moments = [getattr(self, moment) for moment in self.moments]
        for part, decay in ((slice(self._decayed), self.weight_decay), (slice(self._decayed, None), 0.0)):
            vectors = [vector[part] for vector in (theta, g, *moments)]

            def move(block: slice, vectors: list[Any] = vectors, decay: float = decay) -> None:
                theta, g, *moments = (vector[block] for vector in vectors)
                self.update(theta, g, decay, *moments)

            if theta.size >= _WORTH_THREADS:
                for_blocks(move, vectors[0].size, theta.itemsize, xp)
            else:
                for block in blocks(vectors[0].size, theta.itemsize, xp):
                    move(block)
        for p, part in zip(self.params, self._parts):
            p.assign_(theta[part].reshape(p.shape))

    def update(self, theta: Any, g: Any, weight_decay: float, *moments: Any) -> None:
        """Changes a block of θ and of the moments, in place; all are vectors of one length."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, np.ndarray]:
        """What the next step depends on besides parameters and settings: `t`, and e.g. `m.blocks.0.fc1.weight`."""
        state = {"t": np.array(self.t)}
        for moment in self.moments:
            vector = np.array(to_numpy(getattr(self, moment)))
            for name, p, part in zip(self.names, self.params, self._parts):
                state[f"{moment}.{name}"] = vector[part].reshape(p.shape)
        return state

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Takes up a saved state. Nothing is changed if any array is missing, left over or of another shape."""
        expected: dict[str, tuple[int, ...]] = {"t": ()}
        expected |= {f"{moment}.{name}": p.shape for moment in self.moments for name, p in zip(self.names, self.params)}
        for name in sorted(expected.keys() ^ state.keys()):
            what = "is missing" if name in expected else "belongs to no parameter or moment"
            raise ValueError(f"state: {name!r} {what}; it was saved by another optimizer or for another model")
        for name, shape in expected.items():
            if np.shape(state[name]) != shape or not np.isfinite(state[name]).all():
                raise ValueError(f"state: {name!r} has shape {np.shape(state[name])}, expected finite values {shape}")
        self.t = int(state["t"])
        for moment in self.moments:
            now = getattr(self, moment)
            loaded = np.concatenate([np.ravel(state[f"{moment}.{name}"]) for name in self.names])
            setattr(self, moment, to_device(loaded.astype(now.dtype), device_of(now)))

    def _vector(self, arrays: list[Any]) -> Any:
        """One long vector, a new array."""
        if len({(a.dtype, device_of(a)) for a in arrays}) > 1:
            kinds = sorted({f"{a.dtype} on {device_of(a)}" for a in arrays})
            raise TypeError(f"params: expected one dtype on one device, got {' and '.join(kinds)}; use model.to(...)")
        xp = array_module(arrays[0])
        vector = empty((sum(a.size for a in arrays),), arrays[0].dtype, xp)
        return xp.concatenate([a.reshape(-1) for a in arrays], out=vector)

    def _follow(self, theta: Any) -> None:
        """Moves the moments to where the parameters are now: `model.to("cuda")` may have come in between."""
        for moment in self.moments:
            vector = getattr(self, moment)
            if vector.dtype != theta.dtype or device_of(vector) != device_of(theta):
                setattr(self, moment, to_device(vector, device_of(theta)).astype(theta.dtype, copy=False))


class SGD(Optimizer):
    """Stochastic gradient descent with momentum:

        u ← μ u + g          θ ← θ - α u             (Sutskever et al. 2013, in the form that libraries use)
                             θ ← θ - α (g + μ u)     with nesterov=True

    Args:
        momentum: μ; 0 is plain gradient descent.
        weight_decay: λ of the penalty λ/2 ‖θ‖², whose gradient λ θ is added to g, for the parameters that decay.
    """

    moments = ("u",)

    def __init__(
        self, params: Iterable[Any], lr: float = 0.1, momentum: float = 0.9, nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.momentum = _fraction("momentum", momentum)
        self.nesterov = nesterov

    def update(self, theta: Any, g: Any, weight_decay: float, *moments: Any) -> None:
        (u,) = moments
        if weight_decay:
            g = g + weight_decay * theta
        u *= self.momentum
        u += g
        theta -= self.lr * (g + self.momentum * u if self.nesterov else u)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1):

        m ← β₁ m + (1 - β₁) g        m̂ = m / (1 - β₁ᵗ)       the mean of recent gradients
        v ← β₂ v + (1 - β₂) g²       v̂ = v / (1 - β₂ᵗ)       the mean of their squares
        θ ← θ - α m̂ / (√v̂ + ε)

    m and v begin at zero; the division makes up for that. `weight_decay` adds λ θ to g, as in SGD; it then is divided by
    √v̂ like everything in g, which is why AdamW exists.
    """

    moments = ("m", "v")

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.betas = (_fraction("betas[0]", betas[0]), _fraction("betas[1]", betas[1]))
        self.eps = _at_least_zero("eps", eps)

    def update(self, theta: Any, g: Any, weight_decay: float, *moments: Any) -> None:
        if weight_decay:
            g = g + weight_decay * theta
        self.adam(theta, g, *moments)

    def adam(self, theta: Any, g: Any, m: Any, v: Any) -> None:
        xp = array_module(theta)
        beta1, beta2 = self.betas
        fast = kernel("adam", theta, g, m, v)
        if fast:
            c1, c2 = 1 - beta1**self.t, 1 - beta2**self.t
            fast(theta.size, self.lr, beta1, 1 - beta1, beta2, 1 - beta2, self.eps, c1, c2, theta, g, m, v)
            return
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
        m_hat = m / (1 - beta1**self.t)
        v_hat = v / (1 - beta2**self.t)
        theta -= self.lr * m_hat / (xp.sqrt(v_hat) + self.eps)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2, with the decay scaled by α as in use):

        θ ← θ - α λ θ        and then Adam's step, whose g knows nothing of λ

    Only parameters that `decays` says decay.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def update(self, theta: Any, g: Any, weight_decay: float, *moments: Any) -> None:
        if weight_decay:
            theta *= 1 - self.lr * weight_decay
        self.adam(theta, g, *moments)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def decays(name: str, p: Tensor) -> bool:
    """Whether weight decay applies to a parameter: matrices do; biases, gains, class token and positions do not.

    The class token and the position embeddings are known by the last part of their name beginning with "cls" or "pos";
    (1, N, D) arrays without a name are taken for matrices unless their first axis is 1.
    """
    added = name.rsplit(".", 1)[-1].startswith(_NOT_DECAYED) or (p.ndim == 3 and p.shape[0] == 1)
    return p.ndim >= 2 and not added


def clip_grad_norm(params: Iterable[Tensor], max_norm: float | None) -> Any:
    """Scales all gradients by one number so that together they are no longer than `max_norm` (Pascanu et al. 2013).

    Returns the norm before, over all parameters as one vector: a float; on a GPU an array () that `float` would wait for.
    The gradients become new Tensors; their arrays, which may be shared, are not written to. `max_norm=None` only
    measures. A norm that is not finite scales nothing.
    """
    params = [p for p in _as_list(params) if p.grad is not None]
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm: expected a positive number or None, got {max_norm!r}")
    gradients = [p.grad.data for p in params if p.grad is not None]
    xp = array_module(*gradients)
    if xp is np:
        norm = math.sqrt(sum(_squared_norm(g) for g in gradients))
        factor: Any = max_norm / norm if max_norm is not None and max_norm < norm < math.inf else None
    else:  # nothing is asked, and 1 is a factor like any other
        norm = xp.sqrt(xp.stack([xp.dot(g, g) for g in (g.reshape(-1).astype("float64") for g in gradients)]).sum())
        too_long = None if max_norm is None else xp.isfinite(norm) & (norm > max_norm)
        factor = None if max_norm is None else xp.where(too_long, max_norm / norm, 1.0)
    if factor is not None:
        for p, g in zip(params, gradients):
            p.grad = Tensor(g * (factor if xp is np else factor.astype(g.dtype)))
    return norm


def _squared_norm(g: Any) -> float:
    g = g.reshape(-1)
    square = float(array_module(g).dot(g, g))
    if g.dtype != np.float64 and not 1e-30 < square < math.inf:  # more than a float32 holds, or squares that vanish in it
        g = g.astype("float64")
        square = float(array_module(g).dot(g, g))
    return square


def _as_list(params: Iterable[Any]) -> list[Any]:
    if isinstance(params, Tensor):
        raise TypeError("params: expected a list of Tensors, got one Tensor; write [p]")
    return list(params)


def _at_least_zero(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
    return float(value)


def _fraction(name: str, value: float) -> float:
    if not 0 <= _at_least_zero(name, value) < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), got {value!r}")
    return float(value)

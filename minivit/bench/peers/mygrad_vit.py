"""MyGrad (Soklaski 2018-), tensors over NumPy for teaching. It has no erf, so it runs the tanh form of GELU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivit.bench.peers import numpy_vit
from minivit.bench.rows import Candidate, Problem


def candidate(problem: Problem) -> Candidate:
    """For a model whose GELU is the tanh form."""
    import mygrad as mg
    from mygrad.nnet import softmax, softmax_crossentropy

    _, model, images, labels = problem
    if model.config.gelu != "tanh":
        raise ValueError("MyGrad has no erf: make the model with gelu='tanh'")
    p = {name: mg.tensor(value) for name, value in model.state_dict().items()}

    float32: Any = np.float32  # bare numbers would make it go on in float64
    half, one, a, b = float32(0.5), float32(1), float32(math.sqrt(2 / math.pi)), float32(0.044715)

    def gelu(x: Any) -> Any:
        return x * half * (mg.tanh((x * x * x * b + x) * a) + one)

    def step() -> Any:
        loss = softmax_crossentropy(numpy_vit.forward(model.config, p, images, mg, gelu, softmax), labels)
        loss.backward()
        return [loss.data, *(tensor.grad for tensor in p.values())]

    return Candidate(step, lambda result: result)

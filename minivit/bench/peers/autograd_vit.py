"""HIPS autograd (Maclaurin, Duvenaud and Adams 2015), whose `grad` follows NumPy functions: the ancestor of them all."""

from __future__ import annotations

import math
from typing import Any

from minivit.bench.peers import numpy_vit
from minivit.bench.rows import Candidate, Problem


def candidate(problem: Problem) -> Candidate:
    import autograd.numpy as np
    from autograd import value_and_grad
    from autograd.scipy.special import erf, logsumexp

    _, model, images, labels = problem
    rows = np.arange(len(labels))

    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))

    def softmax(scores: Any) -> Any:
        e = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
        return e / np.sum(e, axis=-1, keepdims=True)

    def loss(p: Any) -> Any:
        logits = numpy_vit.forward(model.config, p, images, np, gelu, softmax)
        return np.mean(logsumexp(logits, axis=1) - logits[rows, labels])

    p, step = dict(model.state_dict()), value_and_grad(loss)
    return Candidate(lambda: step(p), lambda result: [result[0], *result[1].values()])

"""The exponential moving average of the weights, along the path of training (Polyak and Juditsky 1992, for the idea).

    ema = EMA(model.parameters(), decay=0.999)
    ...; opt.step(); ema.update()
    with ema.applied():                 # within the block the model has the averaged weights
        evaluate(model, test)

Averaging takes out the noise of the single batches, as a smaller learning rate at the end does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minivit.autograd import Tensor
from minivit.backend import device_of, to_device, to_numpy


class EMA:
    """average ← d average + (1 - d) θ, where d grows from 0 at the first update to `decay`.

    An average that starts somewhere is biased towards where it started. As in Adam, the cure is to divide by
    1 - decayᵗ; the same thing, written so that the average itself is always right, is d = decay (1 - decayᵗ⁻¹)/(1 - decayᵗ):
    0, then about 1/2, 2/3, ..., the plain mean of all weights so far, until `decay` is reached.
    """

    def __init__(self, params: Iterable[Tensor], decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay: expected a number between 0 and 1, 0.999 for example, got {decay!r}")
        self.params = list(params)
        if not self.params:
            raise ValueError("params: there are none; a generator like model.parameters() can be walked only once")
        self.decay = decay
        self.t = 0  # updates so far
        self.average = [p.data.copy() for p in self.params]

    def update(self) -> None:
        """Takes the present weights into the average."""
        self.t += 1
        d = self.decay * (1 - self.decay ** (self.t - 1)) / (1 - self.decay**self.t)
        self._follow()
        for average, p in zip(self.average, self.params):
            average *= d
            average += (1 - d) * p.data

    def _follow(self) -> None:
        """Moves the averages to where the parameters are now: `model.to("cuda")` may have come in between."""
        self.average = [
            to_device(average, device_of(p.data)).astype(p.dtype, copy=False) for average, p in zip(self.average, self.params)
        ]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this block the parameters have the averaged values."""
        before = [p.data for p in self.params]
        self._assign([average.copy() for average in self.average])
        try:
            yield
        finally:
            self._assign(before)

    def apply(self) -> None:
        """Gives the parameters the averaged values, for good."""
        self._assign([average.copy() for average in self.average])

    def _assign(self, values: list[Any]) -> None:
        for p, value in zip(self.params, values):
            p.assign_(value)

    def state_dict(self) -> dict[str, np.ndarray]:
        """`t`, and the averages by the position of their parameter."""
        averages = {str(i): np.array(to_numpy(average)) for i, average in enumerate(self.average)}
        return {"t": np.array(self.t), **averages}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Takes up a saved state; ValueError, and nothing changed, if it does not fit."""
        expected = {"t": (), **{str(i): p.shape for i, p in enumerate(self.params)}}
        found = {name: np.shape(value) for name, value in state.items()}
        if expected != found:
            raise ValueError(f"state: expected an average for each of {len(self.params)} parameters and t, got {found}")
        self.t = int(state["t"])
        self.average = [
            to_device(np.array(state[str(i)], dtype=p.dtype), device_of(p.data)) for i, p in enumerate(self.params)
        ]

"""Loss scaling: how small gradients survive in float16.

float16 ends at 6e-8, and many a gradient of an activation is smaller: it would be 0. The remedy of Micikevicius et al. 2018,
"Mixed Precision Training", section 3.2, is to multiply the loss by a large S. By the chain rule every gradient is then S times
as large, and those of the parameters, which are float32, are divided by S before anybody looks at them. S is right when it
is just not so large that something overflows, and that is found by trying. (On a CPU, NumPy warns of an overflow;
`np.errstate(over="ignore", invalid="ignore")` says that it is expected, as `fit` does.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from minivit.autograd import Tensor


class LossScaler:
    """The number S by which the loss is multiplied, and how it follows the gradients:

        a gradient is inf or NaN        the step is left out, and S ← S / 2
        `growth_interval` good steps    S ← 2 S

    In a loop of one's own:

        scaler = LossScaler()
        with mv.autocast():
            loss = mv.ops.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.unscale(model.parameters())
        norm = clip_grad_norm(model.parameters(), 1.0)
        if scaler.update(norm):
            opt.step()

    Args:
        factor: S at first, a power of two, so that dividing by it is exact.
        growth_interval: how many steps without overflow before a larger S is tried.

    Attributes:
        factor: S now.
        good_steps: steps since S was last changed.
        skipped: steps left out so far.
    """

    def __init__(self, factor: float = 2.0**16, growth_interval: int = 2000) -> None:
        if not (isinstance(factor, int | float) and 0 < factor < math.inf and math.frexp(factor)[0] == 0.5):
            raise ValueError(f"factor: expected a power of two, 2.0**16 for example, got {factor!r}")
        if isinstance(growth_interval, bool) or not isinstance(growth_interval, int) or growth_interval < 1:
            raise ValueError(f"growth_interval: expected a number of steps, at least 1, got {growth_interval!r}")
        self.factor, self.growth_interval = float(factor), growth_interval
        self.good_steps = self.skipped = 0

    def scale(self, loss: Tensor) -> Tensor:
        """S times the loss: what to call `backward` of."""
        if loss.dtype == "float16":
            raise TypeError("loss: is float16, which S times it would soon overflow; sum it up in float32, "
                            "loss.astype('float32')")
        return loss * self.factor

    def unscale(self, params: Iterable[Tensor]) -> None:
        """Divides the gradients by S; they become new Tensors. Nothing is looked at, so a GPU is not waited for."""
        for p in params:
            if p.grad is not None:
                p.grad = Tensor(p.grad.data * (1 / self.factor))

    def update(self, norm: Any) -> bool:
        """Whether to make the step, by the norm of all gradients (`clip_grad_norm`): is it finite? Then adapts S."""
        if not math.isfinite(float(norm)):
            if self.factor < 2.0**-24:
                raise FloatingPointError(f"the gradients are not finite, however small the loss is made ({self.factor:g} times "
                                         "itself): the model itself gives NaN or infinity; mv.anomaly() finds where")
            self.factor /= 2
            self.good_steps = 0
            self.skipped += 1
            return False
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.factor *= 2
            self.good_steps = 0
        return True

    def state_dict(self) -> dict[str, float]:
        """What the next step depends on, as plain data."""
        return {"factor": self.factor, "good_steps": self.good_steps, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes up a saved state."""
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"state: expected {', '.join(self.state_dict())}; got {', '.join(state)}")
        self.factor = float(state["factor"])
        self.good_steps, self.skipped = int(state["good_steps"]), int(state["skipped"])

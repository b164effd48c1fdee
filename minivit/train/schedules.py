"""Learning rates over time: a pure function of the step, so that a resumed run needs no state for it.

    lr = warmup_cosine(step, steps=1000, warmup=50, peak=1e-3)

A transformer is warmed up because Adam's first steps are long and badly informed: v̂ rests on a handful of gradients.
"""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, steps: int, warmup: int = 0, peak: float, final: float = 0.0) -> float:
    """The learning rate of step 0, 1, ..., steps - 1.

    Over the first `warmup` steps it rises in a straight line from peak/warmup to `peak`, then it falls along half a
    cosine to `final` (Loshchilov and Hutter 2017, "SGDR", without restarts), which the step after the last would have.
    """
    if not 0 <= warmup <= steps or step < 0:
        raise ValueError(f"step, warmup, steps: expected 0 <= warmup <= steps and step >= 0, got {step}, {warmup}, {steps}")
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= steps:
        return final
    progress = (step - warmup) / (steps - warmup)  # 0 at the peak, 1 at the end
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2

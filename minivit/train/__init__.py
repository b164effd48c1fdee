"""Training: optimizers, schedules, the loop, runs that can be stopped and resumed.

Read `optimizers.py` (a step), `schedules.py`, `ema.py`, `scaling.py` (for float16), then `loop.py` (many steps),
`evaluation.py` (what came of it) and `runs.py` (what is on disk).
"""

from minivit.train.ema import EMA
from minivit.train.evaluation import evaluate, predict
from minivit.train.history import History
from minivit.train.loop import CrossEntropy, TrainingInterrupted, fit
from minivit.train.optimizers import SGD, Adam, AdamW, Optimizer, clip_grad_norm
from minivit.train.scaling import LossScaler
from minivit.train.schedules import warmup_cosine

__all__ = [
    "EMA",
    "SGD",
    "Adam",
    "AdamW",
    "CrossEntropy",
    "History",
    "LossScaler",
    "Optimizer",
    "TrainingInterrupted",
    "clip_grad_norm",
    "evaluate",
    "fit",
    "predict",
    "warmup_cosine",
]

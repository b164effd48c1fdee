"""Small models to attack: closures over arrays, and a module with dropout whose submodules differ in mode."""

import numpy as np

import minivit as mv


def linear(w, b):
    """Logits x w + b of flattened images: w (d, K), b (K,), arrays of the images' device and dtype."""

    def model(x):
        return x.reshape(x.shape[0], w.shape[0]) @ w + b

    return model


def binary(w, b, scale=1.0):
    """Two classes with logits (w.x + b, 0): class 0 wherever w.x + b >= 0. Its least radius is known exactly."""
    columns = np.stack([w * scale, 0 * w], axis=1)
    return linear(columns, np.array([b * scale, 0.0], w.dtype))


def mlp(seed, d, classes=3, hidden=8, dtype="float64", xp=np):
    """A tanh network of random weights, a function of the seed."""
    rng = np.random.default_rng(seed)
    w1, b1, w2 = (
        xp.asarray(rng.normal(size=shape).astype(dtype)) for shape in ((d, hidden), (hidden,), (hidden, classes))
    )

    def model(x):
        return mv.ops.tanh(x.reshape(x.shape[0], d) @ w1 + b1) @ w2

    return model


class Net(mv.nn.Module):
    """A module with dropout, which raises at its `fails_at`-th call."""

    def __init__(self, d=12, classes=3, fails_at=None):
        super().__init__()
        self.hidden = mv.nn.Linear(d, 8)
        self.dropout = mv.nn.Dropout(0.5, seed=1)
        self.head = mv.nn.Linear(8, classes, seed=2)
        self.fails_at, self.calls, self.modes = fails_at, 0, []

    def forward(self, x):
        self.calls += 1
        self.modes.append([m.training for m in self.modules()])
        if self.calls == self.fails_at:
            raise ArithmeticError("the model's own trouble")
        x = x if isinstance(x, mv.Tensor) else mv.Tensor(x)
        return self.head(self.dropout(mv.ops.relu(self.hidden(x.reshape(len(x), 12)))))


def images(seed, n, shape=(2, 3, 2), dtype="float64", classes=3):
    """(images in [0, 1] with some pixels at the very ends, labels)."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, *shape))
    x[rng.random(x.shape) < 0.15] = 0.0
    x[rng.random(x.shape) < 0.15] = 1.0
    return x.astype(dtype), rng.integers(0, classes, n)

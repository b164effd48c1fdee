# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6 Is my gradient right?
#
# A wrong gradient raises no error. The loss still falls, only less far, and an attack with it looks like a defense that
# holds. So gradients are checked, against the one thing that cannot share their mistake: the function itself. This notebook
# builds that check from the definition of a derivative, measures how exact it is, lets it name mistakes, leaves three to
# you, and ends with one that it finds in PyTorch.
#
# The source that it explains is `minivit/checking`: begin with `differences.py`.

# %%
# To install, once, from the folder that holds pyproject.toml:  pip install ".[notebooks]"
import matplotlib.pyplot as plt
import numpy as np

import minivit as mv
from minivit.viz.style import STYLE, line

plt.rcParams.update(STYLE)

# %% [markdown]
# ## 1 From the definition to a step
#
# $$f'(x) = \lim_{h \to 0} \frac{f(x+h) - f(x)}{h}$$
#
# A computer takes no limit; it takes a small h. How small? The function below is GELU in its tanh form, whose derivative
# we can write down.

# %%
C = 0.7978845608028654  # √(2/π)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(C * (x + 0.044715 * x**3)))


def gelu_slope(x):
    t = np.tanh(C * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * C * (1 + 3 * 0.044715 * x**2)


for h in 10.0 ** -np.arange(1, 17, 3):
    print(f"h = {h:.0e}   error of (f(1 + h) - f(1)) / h: {abs((gelu(1 + h) - gelu(1)) / h - gelu_slope(1)):.0e}")

# %% [markdown]
# Smaller is better, and then it is worse. Two errors are at work. *Truncation*: the curve bends away from its secant, an
# error of about h. *Rounding*: both values carry a relative error of about ε (2·10⁻¹⁶ in float64), which the division by h
# magnifies to ε/h. At h = 10⁻¹⁶ nothing is left: 1 + h is 1.
#
# ## 2 The step, measured
#
# A better formula truncates less. With D(h) = (f(x+h) - f(x-h)) / 2h, the *central* difference, what is odd in h cancels:
# its error is about h². *Richardson* takes it at two steps, and cancels the h² as well: (4 D(h/2) - D(h)) / 3, error h⁴. The
# *complex step*, Im f(x + ih) / h, subtracts nothing at all, so it has no rounding to magnify; it asks for a function that
# takes complex numbers.
#
# For a method of order p, hᵖ + ε/h is least at about h = ε^(1/(p+1)): ε^(1/2), ε^(1/3), ε^(1/5). Those are the dotted
# lines below; the error there is about ε^(p/(p+1)).


# %%
def forward(f, x, h):
    return (f(x + h) - f(x)) / ((x + h) - x)  # not quite h, after rounding


def central(f, x, h):
    return (f(x + h) - f(x - h)) / ((x + h) - (x - h))


def richardson(f, x, h):
    return (4 * central(f, x, h / 2) - central(f, x, h)) / 3


def complex_step(f, x, h):
    return f(x + 1j * h).imag / h


methods = {"forward": (forward, 1), "central": (central, 2), "Richardson": (richardson, 4),
           "complex step": (complex_step, None)}
steps = 10.0 ** np.arange(-20, 0.1, 0.25)


def errors(method, dtype):
    """The relative error at each step, a mean over 501 points of [0.5, 1.5], computed in `dtype` throughout."""
    x = np.linspace(0.5, 1.5, 501, dtype=dtype)
    exact = gelu_slope(x.astype(np.float64))
    with np.errstate(all="ignore"):  # where x + h is x, 0/0
        return np.array([np.mean(np.abs(method(gelu, x, dtype(h)) - exact) / exact) for h in steps])


fig, axes = plt.subplots(1, 2, figsize=(9.4, 4.5), sharey=True, layout="constrained")
for ax, dtype in zip(axes, (np.float64, np.float32)):
    eps = float(np.finfo(dtype).eps)
    for i, (name, (method, p)) in enumerate(methods.items()):
        error = errors(method, dtype)
        ax.loglog(steps, error, **line(i) | {"markersize": 4}, markevery=(i, 3), label=name)
        if p:
            h = eps ** (1 / (p + 1))
            ax.axvline(h, color=line(i)["color"], linestyle=":", linewidth=1.2)
            ax.text(h, 15, f"$\\epsilon^{{1/{p + 1}}}$", ha=("right", "center", "left")[i], color=line(i)["color"], fontsize=12)
            best = np.nanargmin(error)
            print(f"{dtype.__name__}  {name:10s}  step: predicted {h:.0e}, best {steps[best]:.0e}   "
                  f"error: predicted {h**p:.0e}, measured {error[best]:.0e}")
    ax.set(xlabel="step h", xlim=(1e-20, 2), ylim=(2e-17, 8))
    ax.set_title(f"{dtype.__name__}, ε = {eps:.1e}", pad=24)
    ax.grid(alpha=0.3)
axes[0].set_ylabel("relative error of the derivative")
axes[1].legend(loc="upper left")
for place, text in (((2e-13, 3e-6), "ε/h"), ((3e-5, 6e-5), "h"), ((2e-2, 2e-7), "h²"), ((6e-2, 1e-12), "h⁴")):
    axes[0].text(*place, text, color="0.3", ha="center", va="center", fontsize=12)
plt.show()

# %% [markdown]
# Read from right to left: a straight fall of slope p (truncation, gray h, h², h⁴), then a rise of slope 1 that is the same
# for all differences (rounding, ε/h). The complex step falls like h² and never rises. The predicted steps hit the bottom
# within a factor of three or so; the prediction leaves out constants.
#
# In float32 a central difference has five right digits at its best, and none at 10⁻⁸, a step that serves in float64. Hence:
# *check gradients in float64*, whatever you train in. `mv.gradcheck` does, with Richardson at h = ε^(1/5); and how much D(h)
# and D(h/2) differ gives every number an error bar.
#
# ## 3 Many outputs: which cotangent?
#
# A backward returns gᵀJ for a cotangent g (notebook 1). To check it we must choose g, and many checkers choose ones: the
# gradient of the sum of all outputs. Here are three wrong rules, and what that finds.


# %%
def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


wrong_rules = {
    "the permutation again, not its inverse": (lambda x: x.transpose(1, 2, 0), lambda g, x: g.transpose(1, 2, 0)),
    "x², `g *` forgotten": (lambda x: x**2, lambda g, x: 2 * x),
    "softmax, a rule that returns zeros": (softmax, lambda g, x: np.zeros_like(x)),
}
rng = np.random.default_rng(0)
x = rng.normal(size=(3, 3, 3))
random = rng.normal(size=(3, 3, 3))
print("largest error                            g = ones   g random")
for name, (f, backward) in wrong_rules.items():
    found = [np.abs(backward(g, x) - mv.checking.numerical_gradient(f, x, g).value).max() for g in (np.ones(x.shape), random)]
    print(f"{name:40s} {found[0]:8.0e}  {found[1]:8.0e}")

# %% [markdown]
# With ones all three pass: a sum does not care for order, 1·2x is 2x, and the outputs of softmax always sum to one, so
# that the gradient of their sum *is* zero. A random g weighs every output differently, and no such luck survives it.
#
# ## 4 Linear maps need no step
#
# Cutting an image into patches is linear, and the backward of a linear map A is its adjoint: ⟨A u, v⟩ = ⟨u, Aᵀ v⟩ for all u
# and v. That can be tested with two products and no h, to the last digit. Again u and v are random: with ones the
# mistake, patches put back in the order in which they come, would not show.


# %%
def patches(images):
    return mv.ops.im2col(images, patch_size=4)  # (1, 8, 8, 1) -> (1, 4, 16)


adjoints = {
    "col2im": lambda p: mv.ops.col2im(p, image_size=(8, 8), patch_size=4),
    "reshape": lambda p: p.reshape(1, 8, 8, 1),
}
u, v = rng.normal(size=(1, 8, 8, 1)), rng.normal(size=(1, 4, 16))
for name, adjoint in adjoints.items():
    gap, with_ones = (mv.checking.adjoint_gap(patches, adjoint, *pair) for pair in ((u, v), (np.ones_like(u), np.ones_like(v))))
    print(f"im2col and {name:8s} relative gap {gap:.0e}, with ones {with_ones:.0e}")

# %% [markdown]
# ## 5 Whole models: the Taylor slope
#
# A model has too many parameters to try each. One direction d asks about the whole gradient at once, and how the remainder
#
# $$|J(x + h d) - J(x) - h\,\langle g, d\rangle|$$
#
# *falls* needs no tolerance: with h² if g is the gradient, with h if it is not. J is the loss of a Vision Transformer here, x
# an image, and the wrong gradients are the right one times 1.01 and 1.1.

# %%
train, test = mv.data.load("digits")
model = mv.models.ViT(image_size=8, patch_size=2, channels=1, embed_dim=32, depth=2, num_heads=4, num_classes=10, seed=0)
model.to(dtype="float64")
image, label = test.images[:1].astype(np.float64), test.labels[:1]


def J(x):
    return mv.ops.cross_entropy(model(x), label)


leaf = mv.Tensor(image, requires_grad=True)
gradient = mv.grad(J(leaf), [leaf])[0].numpy()
d = rng.normal(size=image.shape)
d /= np.linalg.norm(d)
h = 10.0 ** np.arange(-8, 0.1, 0.25)
rise = np.array([float(J(image + s * d) - J(image)) for s in h])

fig, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
for i, (factor, name) in enumerate([(1, "right"), (1.01, "1 % too long"), (1.1, "10 % too long")]):
    slope = mv.checking.taylor_slope(J, image, direction=d, gradient=factor * gradient, steps=(1e-3, 1e-4, 1e-5))
    ax.loglog(h, np.abs(rise - h * np.sum(factor * gradient * d)), **line(i), markevery=(i, 3), label=f"{name}: {slope:.2f}")
ax.set(xlabel="step h", ylabel="remainder")
ax.grid(alpha=0.3)
ax.legend(title="gradient: slope from 10⁻⁵ to 10⁻³")
plt.show()

# %% [markdown]
# For large h the bending of J hides a mistake of 1 %; the smaller h, the clearer the wrong ones fall with slope 1. At the
# very left rounding is all that is left of the right one.
#
# ## 6 What the report says
#
# `mv.gradcheck` puts these together: every element against Richardson's differences, for a random cotangent, in float64.
# It takes plain NumPy, a function and its backward(g, *inputs), and when they disagree it looks for the cause in the
# numbers. A classic first: the bias was broadcast over the rows, and the sum over them was forgotten.


# %%
def report(f, *inputs, **options):
    """The report of mv.gradcheck, which raises when the gradient is wrong."""
    try:
        return mv.gradcheck(f, *inputs, **options)
    except mv.GradcheckError as problem:
        return problem.report


def affine(x, w, b):
    return x @ w + b


def affine_backward(g, x, w, b):
    return g @ w.T, x.T @ g, g


x, w, b = rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)
print(report(affine, x, w, b, vjp=affine_backward))

# %% [markdown]
# Another: softmax differentiated as if each output depended on its own input only. In a notebook a report shows itself as a
# table.

# %%
report(softmax, rng.normal(size=(2, 4)), vjp=lambda g, x: g * softmax(x) * (1 - softmax(x)))

# %% [markdown]
# Findings stand with the surest first. For a program they have stable names: `report.verdict`, `report.findings[0].code`.
#
# ## 7 A kink is not an error
#
# relu has no derivative at 0. Its backward says 0 there, which is a convention; a central difference says 1/2, the mean of
# both sides. They disagree, and neither is wrong:

# %%
print(report(lambda x: np.maximum(x, 0), np.array([-1.0, 0.0, 2.0]), vjp=lambda g, x: g * (x > 0)))

# %% [markdown]
# (The 1.057 on the right is 1 times the cotangent.) So the verdict is "inconclusive", and nothing is raised. The remedy is
# another input, never a looser tolerance: that would let mistakes pass everywhere else.
#
# ## 8 Operations, and derivatives of derivatives
#
# An operation brings its own rule, so `vjp=` is not needed, and higher orders can be asked for: `order=2` checks the
# gradient of the gradient. Then the rule runs on Tensors, and must be written in operators and `mv.ops`. The first rule below
# is right, but once only.


# %%
@mv.op
def softplus(x):
    return np.log1p(np.exp(x))


@softplus.vjp
def _(g, x):
    return g / (1 + np.exp(-x))


x = rng.normal(size=(2, 3))
print(report(softplus, x))
print(report(softplus, x, order=2))


# %%
@softplus.vjp
def _(g, x):
    return g / (1 + mv.ops.exp(-x))


print(report(softplus, x, order=3))

# %% [markdown]
# ## 9 Three exercises
#
# Your turn. Fill in a body, run the cell, read the answer, try again. `print(mv.exercises.statement("softmax"))` says what is
# asked and gives something to think about; there are more (`mv.exercises.names()`), in the order of the lecture.

# %%
print(mv.exercises.statement("product"))


# %%
def product_backward(g, x, y):
    """(dL/dx, dL/dy) of x * y, where g is dL/d(x * y)."""
    raise NotImplementedError()  # your lines in its place


mv.exercises.check("product", product_backward)


# %%
def softmax_backward(g, x):
    """dL/dx of softmax(x) along the last axis, where g is dL/dsoftmax. Section 6 shows how not to."""
    raise NotImplementedError()


mv.exercises.check("softmax", softmax_backward)

# %% [markdown]
# The third has been tried already. All rows are normalized, and yet something stands still that should move:


# %%
def layer_norm_backward(g, x, weight, bias, eps=1e-6):
    """(dL/dx, dL/dweight, dL/dbias) of layer norm over the last axis of x (N, D)."""
    centered = x - x.mean(axis=-1, keepdims=True)
    sigma = np.sqrt(np.mean(centered**2, axis=-1, keepdims=True) + eps)
    h = g * weight
    return (h - h.mean(axis=-1, keepdims=True)) / sigma, np.sum(g * centered / sigma, axis=0), np.sum(g, axis=0)


mv.exercises.check("layer_norm", layer_norm_backward)

# %% [markdown]
# ## 10 A real catch
#
# PyTorch is checked by many people, and its layer norm is used by everybody. We check it as we checked our own. A k-th
# derivative is a function like any other: x goes in, an array comes out. So `mv.gradcheck` can be asked at every k whether
# PyTorch's *next* derivative is the derivative of what PyTorch itself returned. No formula of ours is needed.
#
# The figures of PyTorch 2.13.0 are stored below, for readers who do not have that version; the output says which you see.

# %%
try:
    import torch

    torch = torch if torch.__version__.startswith("2.13.0") else None  # the version that all of this is about
except ImportError:
    torch = None

EPS = 1e-6
rng = np.random.default_rng(0)
x, w, b = rng.normal(size=(4, 5)), rng.normal(size=5), rng.normal(size=5)
cotangents = rng.normal(size=(3, 4, 5))

STORED = {  # measured with torch 2.13.0 on a CPU, in float64, for the numbers drawn above
    "F.layer_norm": [("right", 1e-12), ("right", 2e-12), ("wrong", 7.07)],
    "composition": [("right", 1e-12), ("right", 2e-12), ("right", 6e-12)],
    "third": np.array([
        [0.01114384, -0.74880773, -0.87601404, 0.66019905, -1.51130237],
        [1.58624839, 1.81830964, -0.56665033, -1.06748699, -3.73619066],
        [-0.39302197, 2.14045167, 0.58267086, 2.81152638, 3.19444624],
        [-1.20682237, 1.63339480, -1.90575665, 2.15229766, -3.73458405],
    ]),
}
print("PyTorch's figures:", f"computed here, by torch {torch.__version__}" if torch else "stored ones, of torch 2.13.0")


# %% [markdown]
# First the derivatives. y is differentiated k times, each time along a fixed random cotangent, so that every derivative is
# again an array of the shape of x.


# %%
def kth_derivative(f, x, k):
    y = f(x)
    for g in cotangents[:k]:
        (y,) = torch.autograd.grad(y, x, torch.tensor(g), create_graph=True)
    return y


def check_next(f, k):
    """Is PyTorch's derivative number k + 1 of f the derivative of its derivative number k?"""

    def kth(x):
        return kth_derivative(f, torch.tensor(x, requires_grad=True), k).detach().numpy()

    def next_one(g, x):
        x = torch.tensor(x, requires_grad=True)
        return torch.autograd.grad(kth_derivative(f, x, k), x, torch.tensor(g))[0].numpy()

    kth.__name__ = f"derivative {k} of {f.__name__}"
    return report(kth, x, vjp=next_one)


def layer_norm(x):
    return torch.nn.functional.layer_norm(x, (5,), torch.tensor(w), torch.tensor(b), eps=EPS)


def composition(x):  # the same from elementary operations
    centered = x - x.mean(-1, keepdim=True)
    return centered / torch.sqrt((centered * centered).mean(-1, keepdim=True) + EPS) * torch.tensor(w) + torch.tensor(b)


def outcome(r):
    return r.verdict, float(np.abs(r.analytic[0] - r.numeric[0]).max())


results = {name: STORED[name] for name in ("F.layer_norm", "composition")}
if torch:
    reports = [check_next(layer_norm, k) for k in range(3)]
    results["F.layer_norm"] = [outcome(r) for r in reports]
    results["composition"] = [outcome(check_next(composition, k)) for k in range(3)]
print("derivative" + 16 * " " + "".join(f"{order:>20s}" for order in ("first", "second", "third")))
for name, three in results.items():
    print(f"{name:25s} " + "".join(f"{verdict:>9s}, off {error:6.0e}" for verdict, error in three))
if torch and reports[2].verdict == "wrong":
    print()
    print(reports[2])

# %% [markdown]
# First and second: right, to twelve digits. The third is off in the first digit, and nothing was said. The same layer norm
# from elementary operations is right three times. It is a second witness: its derivatives equal the fused ones up to the
# second, so the true third derivative, by differences of either, is what the composition returns.
#
# A third witness is minivit, whose fused layer norm is differentiated further by replaying its reference:

# %%
print(report(mv.ops.layer_norm, x, w, b, order=3))

# %% [markdown]
# So we can put the numbers beside each other: PyTorch's third derivative, minivit's, and differences of minivit's second.
# (The cotangent is the third of `cotangents` here and one of `gradcheck`'s own in the table above, hence another size of
# error.)


# %%
def minivit_derivative(x, k):
    leaf = mv.Tensor(x, requires_grad=True)
    y = mv.ops.layer_norm(leaf, w, b, eps=EPS)
    for g in cotangents[:k]:
        (y,) = mv.grad(y, [leaf], gy=mv.Tensor(g), create_graph=True)
    return y.numpy()


third = STORED["third"]
if torch:
    tensor = torch.tensor(x, requires_grad=True)
    third = kth_derivative(layer_norm, tensor, 3).detach().numpy()
    print("PyTorch's second, against minivit's:     off by "
          f"{np.abs(kth_derivative(layer_norm, tensor, 2).detach().numpy() - minivit_derivative(x, 2)).max():.0e}")
    print(f"PyTorch's third, against the stored one: off by {np.abs(third - STORED['third']).max():.0e}")
truth = mv.checking.numerical_gradient(lambda x: minivit_derivative(x, 2), x, cotangents[2]).value
for name, values in (("minivit's third", minivit_derivative(x, 3)), ("PyTorch's third", third)):
    print(f"{name}, against the differences: off by {np.abs(values - truth).max():.1e}")

# %% [markdown]
# ### Why
#
# A fused operation keeps what it computed on the way, here each row's mean μ and r = 1/√(variance + ε). The first
# derivative is a formula of x, μ and r. To differentiate it once more somebody worked out, rightly, how μ and r move with
# x. The result is again a formula of x, μ and r; and the third time nobody did, so that they stand still. We can test
# that: write the second derivative out, and take differences of it with μ and r moving, and with μ and r held.


# %%
def row_mean(values):
    return values.mean(axis=-1, keepdims=True)


def statistics(x):
    mu = row_mean(x)
    return mu, 1 / np.sqrt(row_mean((x - mu) ** 2) + EPS)


def second_derivative(x, mu, r):
    """Of layer norm, along the first two cotangents."""
    n, h, v = (x - mu) * r, cotangents[0] * w, cotangents[1]

    def without(u):  # u without its mean, and without its part along n
        return u - row_mean(u) - n * row_mean(u * n)

    return -r * r * (n * row_mean(v * without(h)) + row_mean(h * n) * without(v) + row_mean(v * n) * without(h))


held = statistics(x)
moving_third = mv.checking.numerical_gradient(lambda x: second_derivative(x, *statistics(x)), x, cotangents[2]).value
held_third = mv.checking.numerical_gradient(lambda x: second_derivative(x, *held), x, cotangents[2]).value
print(f"the formula itself, against minivit's second: off by "
      f"{np.abs(second_derivative(x, *held) - minivit_derivative(x, 2)).max():.0e}")
print(f"μ and r moving, against minivit's third:      off by {np.abs(moving_third - minivit_derivative(x, 3)).max():.0e}")
print(f"μ and r held, against PyTorch's third:        off by {np.abs(held_third - third).max():.0e}")

fig, ax = plt.subplots(figsize=(4.9, 4.6), layout="constrained")
ends = [1.15 * min(truth.min(), third.min()), 1.15 * max(truth.max(), third.max())]
ax.plot(ends, ends, color="gray", linewidth=1)
ax.plot(truth.flat, minivit_derivative(x, 3).flat, "s", color=line(0)["color"], markersize=5, label="minivit")
ax.plot(truth.flat, third.flat, "o", color=line(1)["color"], markerfacecolor="none", markersize=9,
        label="PyTorch, F.layer_norm" + ("" if torch else " (stored)"))
ax.plot(truth.flat, held_third.flat, "+", color="black", markersize=7, label="formula with μ and r held")
ax.set(xlabel="third derivative by differences", ylabel="third derivative as returned", xlim=ends, ylim=ends, aspect="equal")
ax.legend()
plt.show()

# %% [markdown]
# Every cross sits in its circle: that is the cause. It is the mistake of the attempt in section 9, two derivatives later: a
# value that depends on x, taken for a constant. It is known there (PyTorch's issue 175754), and few programs want a third
# derivative. But it is the reason why minivit's fused operations bring a reference, and why its tests go to the third order.
#
# ## What to change next
#
# - In section 2, measure sin at 1000 instead of GELU near 1. What happens to the best step, and what would scaling h with
#   |x| do?
# - Which step is best for a *second* derivative, (f(x+h) - 2f(x) + f(x-h)) / h²? Predict it first: truncation h², rounding
#   ε/h².
# - In section 1, let `gelu` return `x * np.abs(x)` and `gelu_slope` return `2 * np.abs(x)`. Which method of section 2
#   fails now, by how much, and why?
# - In section 6, plant a mistake of your own and read the report. If it says `unexplained`: could you have told from the
#   numbers?
# - If you have PyTorch: its batch norm in training, `torch.nn.functional.batch_norm(x, None, None, training=True)`, keeps a
#   mean and an r, too. Run `check_next` on it. And if your version is another one, drop the line that insists on 2.13.0: it may
#   be right by then, or refuse.

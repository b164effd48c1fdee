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
# # 1 Autograd: from one product to a graph
#
# The lecture trains Vision Transformers with ∂ℓ/∂θ and fools them with ∂ℓ/∂x ("Gradient Descent Revisited", "Method").
# This notebook builds the machine that computes both: from the derivative of one product, over the chain rule, to a
# graph of operations and the one order in which it may be walked.
#
# The source that it explains is `minivit/autograd`: `engine.py` (the walk) and `primitives.py` (the rules).

# %%
# To install, once, from the folder that holds pyproject.toml:  pip install ".[notebooks]"
import matplotlib.pyplot as plt
import numpy as np

import minivit as mv

# %% [markdown]
# ## 1 The derivative of a product
#
# z = x·y has two derivatives: ∂z/∂x = y and ∂z/∂y = x. Finite differences ask the function itself: move one input a
# little, up and down, and look at how much z moves.

# %%
x, y, step = 3.0, 5.0, 1e-6
print("dz/dx: rule", y, " finite difference", round(((x + step) * y - (x - step) * y) / (2 * step), 6))
print("dz/dy: rule", x, " finite difference", round((x * (y + step) - x * (y - step)) / (2 * step), 6))

# %% [markdown]
# The engine gives the same. A `Tensor` is an array that remembers what it was computed from, if a gradient is wanted.

# %%
x = mv.Tensor(np.array(3.0), requires_grad=True)
y = mv.Tensor(np.array(5.0), requires_grad=True)
z = x * y
print(z)
gx, gy = mv.grad(z, [x, y])
print("dz/dx", gx.item(), " dz/dy", gy.item())

# %% [markdown]
# ## 2 A rule beside its forward
#
# z is rarely the end: something else, the loss, is computed from it. The rule of an operation therefore does not return
# its own derivative. It gets g = ∂loss/∂z, the *cotangent*, and returns ∂loss/∂input for every input:
#
# $$\frac{\partial\,\text{loss}}{\partial x} = g\,y, \qquad \frac{\partial\,\text{loss}}{\partial y} = g\,x.$$
#
# This is a vector-Jacobian product, in short *vjp*. Here is the product once more, as an operation of our own. The rule's
# parameter *names* say what it wants to see again: `g` always, an input by its name.


# %%
@mv.op
def product(x, y):
    return x * y


@product.vjp
def _(g, x, y):
    return g * y, g * x


print([g.item() for g in mv.grad(product(x, y), [x, y])])

# %% [markdown]
# ## 3 The chain rule
#
# An operation needs only its own rule. For loss = sin(x·y) the walk goes backwards, and each rule gets what the one
# before it (seen from the end) returned.

# %%
loss = mv.ops.sin(product(x, y))

g_loss = 1.0  # d loss / d loss
g_product = g_loss * np.cos(3.0 * 5.0)  # the rule of sin:     g · cos(input)
g_x, g_y = g_product * 5.0, g_product * 3.0  # the rule of product: g · y, g · x
print("by hand  ", round(g_x, 6), round(g_y, 6))
print("by engine", *(round(g.item(), 6) for g in mv.grad(loss, [x, y])))

# %% [markdown]
# One number can hide a mistake; a curve seldom does. For f(x) = x·sin(x²), the engine's derivative at 400 points (they are
# independent of each other, so the derivative of their sum holds them all) against finite differences at every eighth.


# %%
def f(x):
    return x * mv.ops.sin(x * x)


points = mv.Tensor(np.linspace(-3, 3, 400), requires_grad=True)
values = f(points)
(slope,) = mv.grad(values.sum(), [points])
some = points.numpy()[::8]
difference = (f(some + step) - f(some - step)) / (2 * step)

fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.plot(points.numpy(), values.numpy(), color="#0072B2", linestyle="--", label="f(x) = x sin(x²)")
ax.plot(points.numpy(), slope.numpy(), color="#D55E00", label="f′, by the engine")
ax.plot(some, difference, "o", color="black", markersize=3, label="f′, by finite differences")
ax.set(xlabel="x", ylabel="value")
ax.grid(alpha=0.3)
ax.legend(loc="upper center", ncols=3, frameon=False)
ax.set_ylim(-20, 26)
plt.show()
print("largest disagreement", f"{np.abs(slope.numpy()[::8] - difference).max():.0e}")

# %% [markdown]
# ## 4 The graph
#
# Every operation left a node, with arrows from what it used. Boxes are leaves (the Tensors we made), ellipses are
# operations. Drawn is loss = mean((X W + b - 1)²) for three inputs of four numbers.

# %%
rng = np.random.default_rng(0)
X = rng.normal(size=(3, 4))
W = mv.Tensor(rng.normal(size=(4, 2)), requires_grad=True)
b = mv.Tensor(np.zeros(2), requires_grad=True)
error = X @ W + b - 1.0
loss = (error * error).mean()
mv.viz.graph(loss, names={"W": W, "b": b, "error": error, "loss": loss})

# %% [markdown]
# X and the target 1 are missing: nobody asked for their gradients, so the graph does not lead to them. And look at
# `error`: two arrows leave it, since `error * error` uses it twice. That is where the difficulty begins.
#
# ## 5 The diamond: why the order of the walk matters
#
# The smallest graph in which a value is used twice, by operations at different depths:
#
# $$b = a \cdot a, \qquad c = b + b \cdot b, \qquad \frac{dc}{da} = (1 + 2b)\,2a = 19 \cdot 6 = 114 \quad\text{at } a = 3.$$


# %%
def diamond(b):
    return b + b * b


a = mv.Tensor(np.array(3.0), requires_grad=True)
b = a * a
c = diamond(b)
mv.viz.graph(c, names={"a": a, "b": b, "c": c})

# %% [markdown]
# Three ways to walk this graph back from c. All three use the engine's own nodes and rules, and differ only in the order:
#
# - **once each, recursively**: hand the cotangent to the inputs, go into each one that was not visited yet. It looks right.
# - **every path, recursively**: go into an input again each time something arrives there.
# - **highest number first**: nodes are numbered as they are created, so a user's number is always higher than its input's.
#   Whoever takes the highest number that is left meets a value only after *all* of its uses have reported.


# %%
def rule(node, g):
    """The rule of a node: pairs (input, its part of the gradient)."""
    return zip(node.parents, node.op.backward(node, g, (True,) * len(node.parents), False))


def once_each(c, a):
    arrived, visited = {c.node: 1.0}, []

    def visit(node):
        visited.append(node)
        for parent, g in rule(node, arrived[node]):
            arrived[parent] = arrived.get(parent, 0.0) + g
            if parent is not a and parent not in visited:
                visit(parent)

    visit(c.node)
    return arrived[a], len(visited)


def every_path(c, a):
    total, visits = 0.0, 0

    def visit(node, g):
        nonlocal total, visits
        visits += 1
        for parent, part in rule(node, g):
            if parent is a:
                total += part
            else:
                visit(parent, part)

    visit(c.node, 1.0)
    return total, visits


def highest_first(c, a, names=None):
    arrived, visits = {c.node: 1.0}, 0
    while waiting := [node for node in arrived if node is not a]:
        node = max(waiting, key=lambda node: node.serial)
        g = arrived.pop(node)
        visits += 1
        if names:
            print(f"  number {node.serial - a_number}, {names[node]:6s} gets {g:4.0f}, all that it will ever get")
        for parent, part in rule(node, g):
            arrived[parent] = arrived.get(parent, 0.0) + part
    return arrived[a], visits


for walk in (once_each, every_path, highest_first):
    gradient, visits = walk(c, a)
    print(f"{walk.__name__:14s} dc/da = {gradient:4.0f}   visits {visits}")
print("highest_first, in its order:")
a_number = b.node.serial - 1  # so that the numbers shown begin at 1
square = next(node for node in c.node.parents if node is not b.node)
highest_first(c, a, names={b.node: "b", square: "b * b", c.node: "c"})
print("the engine     dc/da =", mv.grad(c, [a], retain_graph=True)[0].item())

# %% [markdown]
# The first walk is wrong: it left b with the cotangent 1 of `b + ...`, before the 18 of `b * b` had come. No error, no
# warning, a plausible number: 6 instead of 114.
#
# The second walk is right, but b was visited once for each of its three uses. Stack diamonds, and every one multiplies the
# number of paths by three. A ViT with 12 blocks is such a stack: each residual connection z + f(z) uses z twice.

# %%
depths = range(1, 10)
visits = {"every_path": [], "highest_first": [], "once_each": []}
right = dict.fromkeys(visits, True)
for depth in depths:
    start = mv.Tensor(np.array(0.05), requires_grad=True)
    top = start * start
    for _ in range(depth):
        top = diamond(top)
    (truth,) = mv.grad(top, [start], retain_graph=True)
    for walk in (every_path, highest_first, once_each):
        gradient, n = walk(top, start)
        visits[walk.__name__].append(n)
        right[walk.__name__] &= bool(np.isclose(gradient, truth.item(), rtol=1e-12))
print("visits, 1 to 9 diamonds:", visits)
print("right at every depth:", right)

fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
ax.semilogy(depths, visits["every_path"], "s--", color="#D55E00", label="every path: right, exponential")
ax.semilogy(depths, visits["highest_first"], "o-", color="#0072B2", label="highest number first: right, linear")
ax.set(xlabel="diamonds on top of each other", ylabel="visits to nodes (log scale)")
ax.grid(alpha=0.3)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The engine's walk (`_walk` in `engine.py`) is the third, without recursion: a graph of 100,000 operations is walked as
# safely as one of three.

# %%
long = mv.Tensor(np.array(1.0), requires_grad=True)
result = long
for _ in range(100_000):
    result = result + 1e-5 * result
print("d result / d long:", round(mv.grad(result, [long])[0].item(), 4), " e is", round(np.e, 4))

# %% [markdown]
# ## 6 Broadcasting, and back
#
# NumPy adds a bias of shape (3,) to rows of shape (4, 3) by using it four times. Used four times: its gradient is a sum of
# four. The rule of `add` returns g of shape (4, 3) for both inputs; summing it back to the shape of the bias is called
# *unbroadcasting*. It is the transpose of broadcasting: ⟨broadcast(b), g⟩ = ⟨b, unbroadcast(g)⟩ for all b and g.

# %%
rows = mv.Tensor(rng.normal(size=(4, 3)), requires_grad=True)
bias = mv.Tensor(rng.normal(size=3), requires_grad=True)
g = rng.normal(size=(4, 3))
g_rows, g_bias = mv.grad(rows + bias, [rows, bias], gy=g)
print("shapes:", g_rows.shape, g_bias.shape)
print("gradient of the bias is the sum over rows:", np.allclose(g_bias.numpy(), g.sum(axis=0)))
print("both inner products:", round((np.broadcast_to(bias.numpy(), (4, 3)) * g).sum(), 6),
      round((bias.numpy() * g_bias.numpy()).sum(), 6))

# %% [markdown]
# The engine does this for operations that are declared to broadcast, so that no rule has to. Our `product` was not:

# %%
try:
    mv.grad(product(rows, bias).sum(), [bias])
except ValueError as problem:
    print("ValueError:", problem)


@mv.op(broadcasts=True)
def broadcasting_product(x, y):
    return x * y


@broadcasting_product.vjp
def _(g, x, y):
    return g * y, g * x


(g_bias,) = mv.grad(broadcasting_product(rows, bias).sum(), [bias])
print("declared:  ", g_bias.numpy().round(4))
print("column sums", rows.numpy().sum(axis=0).round(4))

# %% [markdown]
# ## 7 Derivatives of derivatives
#
# A rule is written in operations, too. Run on Tensors, it leaves a graph of its own, and the gradient can be
# differentiated again: `create_graph=True`. Here for GELU(x) = x Φ(x), the bend in the ViT's MLPs, where Φ is the
# distribution function of the standard normal.

# %%
points = mv.Tensor(np.linspace(-4, 4, 321), requires_grad=True)
curves = [mv.ops.gelu(points)]
for _ in range(3):
    curves += mv.grad(curves[-1].sum(), [points], create_graph=True)

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
looks = [("black", "-", "GELU"), ("#0072B2", "--", "first derivative"), ("#D55E00", "-.", "second"), ("#009E73", ":", "third"),
         ("#CC79A7", (0, (6, 1, 1, 1, 1, 1)), "fourth")]
for curve, (color, dash, label) in zip(curves, looks):
    ax.plot(points.numpy(), curve.numpy(), linestyle=dash, color=color, linewidth=1.8, label=label)
ax.set(xlabel="x", ylabel="value", ylim=(-1.7, 2))
ax.grid(alpha=0.3)
ax.legend(frameon=False)
plt.show()

density = np.exp(-points.numpy() ** 2 / 2) / np.sqrt(2 * np.pi)
formula = (2 - points.numpy() ** 2) * density  # GELU″(x) = (2 - x²) φ(x), φ the normal density
print("second derivative against its formula, largest error:", f"{np.abs(curves[2].numpy() - formula).max():.0e}")

# %% [markdown]
# ## 8 Is my rule right?
#
# `mv.gradcheck` compares a rule with finite differences in float64, for a random cotangent g, and says what it finds. We
# plant a mistake that happens to everybody: the derivative of softmax without the term that couples its outputs.


# %%
@mv.op
def my_softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@my_softmax.vjp
def _(g, out):
    return g * out * (1 - out)  # the diagonal of the Jacobian only


scores = rng.normal(size=(2, 4))
try:
    mv.gradcheck(my_softmax, scores)
except mv.GradcheckError as problem:
    print(problem)

# %% [markdown]
# The finding names the mistake: the Jacobian of softmax is not diagonal. (What the lines about slopes mean, notebook 6 says.)
#
# With p the result of softmax, the whole Jacobian is diag(p) - p pᵀ, so the rule is p (g - pᵀg). With that the check
# passes, also for the second derivative, which runs the rule on Tensors.


# %%
@my_softmax.vjp
def _(g, out):
    return out * (g - (g * out).sum(axis=-1, keepdims=True))


print(mv.gradcheck(my_softmax, scores, order=2))

# %% [markdown]
# ## What to change next
#
# - In section 5, let `diamond` return `b * b + b`. Which answer does `once_each` give now, and why?
# - Count the paths of a residual stack z → z + f(z) with f(z) = sin(z), 20 times. How long would `every_path` take?
# - In section 8, plant other mistakes (a wrong sign, `g` forgotten, a sum over the wrong axis) and read what the check says.
# - Write an operation with a kink, `relu`, and check it at 0: what verdict do you get, and why is it not "wrong"?
# - Differentiate once more in section 7 (`range(4)`). Where do you see that the curves are still right?

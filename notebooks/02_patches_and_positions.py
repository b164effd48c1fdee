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
# # 2 Patches and positions
#
# A transformer reads sequences. This notebook follows the lecture's slides from "Image to Patches" to "Patch + Position
# Embedding": an image becomes a sequence of patches, each patch a vector, each vector is told where its patch stood. Then it
# takes the question that the lecture asks with a bird cut into pieces and shuffled, and answers it by experiment.
#
# The source that it explains is `minivit/models/patches.py` and `positions.py`.

# %%
# To install, once, from the folder that holds pyproject.toml:  pip install ".[notebooks]"
import matplotlib.pyplot as plt
import numpy as np

import minivit as mv

# %% [markdown]
# ## 1 Image to patches
#
# The slide: reshape **x** ∈ ℝ^(H×W×C) into N = HW/P² flattened patches **p** ∈ ℝ^(N×P²C). The digits have H = W = 8 and C =
# 1; with P = 2 that makes N = 16 patches of 4 numbers.

# %%
train, test = mv.data.load("digits")
P = 2
mv.viz.patches(test.images[0], P)

# %% [markdown]
# `im2col` is nothing but slicing: patch (i, j) is rows iP to iP + P and columns jP to jP + P, flattened in the order (row,
# column, channel). Here with a loop, on a batch of color images of random numbers, so that a wrong order would show. And
# `col2im` lays the patches back: nothing is computed, so nothing is lost, to the last bit.

# %%
rng = np.random.default_rng(0)
images = rng.random((5, 8, 12, 3))
rows, columns = 8 // P, 12 // P
by_loop = [images[:, i * P : i * P + P, j * P : j * P + P].reshape(5, -1) for i in range(rows) for j in range(columns)]

patches = mv.ops.im2col(images, patch_size=P)
print("images", images.shape, "-> patches", patches.shape)
print("equal to the loop:", np.array_equal(patches, np.stack(by_loop, axis=1)))
print("and back:         ", np.array_equal(mv.ops.col2im(patches, image_size=(8, 12), patch_size=P), images))

# %% [markdown]
# For the backward pass we need the transpose of `im2col`: the map with ⟨im2col(x), p⟩ = ⟨x, col2im(p)⟩ for all x and p. Where
# every pixel belongs to exactly one patch, `im2col` is a permutation, and its transpose is its inverse.

# %%
p = rng.normal(size=patches.shape)
left, right = (patches * p).sum(), (images * mv.ops.col2im(p, image_size=(8, 12), patch_size=P)).sum()
print(f"<im2col(x), p> = {left:.10f}\n<x, col2im(p)> = {right:.10f}")

x = mv.Tensor(images, requires_grad=True)
(gx,) = mv.grad(mv.ops.im2col(x, patch_size=P), [x], gy=p)
print("the engine's rule is col2im:", np.array_equal(gx.numpy(), mv.ops.col2im(p, image_size=(8, 12), patch_size=P)))

# %% [markdown]
# ## 2 Linear projection
#
# The slide: **z**₀,ᵢ = **p**ᵢ **E** with **E** ∈ ℝ^(P²C×D), one matrix for all patches. A column of E, laid back on the
# P×P×C pixels of a patch, is a filter; sliding it over the image in steps of P is a convolution with stride P. So the first
# layer of a ViT is a convolution whose windows do not overlap.

# %%
D = 6
E = rng.normal(size=(P * P * 3, D))
z = patches @ E  # (B, N, P²C) @ (P²C, D) -> (B, N, D)

filters = E.reshape(P, P, 3, D)  # row, column, channel, and which filter
convolved = np.zeros((5, rows, columns, D))
for r in range(P):
    for c in range(P):  # every P-th pixel, beginning at (r, c)
        convolved += images[:, r::P, c::P] @ filters[r, c]  # (B, rows, columns, C) @ (C, D)
print("projection", z.shape, " convolution", convolved.shape)
print("largest difference", f"{np.abs(z.reshape(convolved.shape) - convolved).max():.0e}")

# %% [markdown]
# ## 3 Position embedding: the sinusoids
#
# The slide "Position Embedding":
#
# $$\text{PE}_{(\text{pos},2j)} = \sin\left(\text{pos}/10000^{2j/D}\right),\qquad
#   \text{PE}_{(\text{pos},2j+1)} = \cos\left(\text{pos}/10000^{2j/D}\right).$$
#
# Here j = 0, …, D/2 - 1 counts *pairs* of dimensions (the slide calls it the index of the feature), and pos begins at 0 (in
# the slide's picture at 1). Each pair is a clock hand. The first turns by one radian from patch to patch, the last almost
# not at all.

# %%
table = mv.models.sinusoidal(64, 64)
pos, j = 5, 3
print("one pair by hand ", np.sin(pos / 10000 ** (2 * j / 64)).round(6), np.cos(pos / 10000 ** (2 * j / 64)).round(6))
print("and in the table ", *table[pos, 2 * j : 2 * j + 2].round(6))
mv.viz.positions(table)

# %% [markdown]
# Why hands of a clock? The product of two embeddings, PE(p)·PE(q) = Σⱼ cos((p - q)/10000^(2j/D)), depends on the *offset* p
# - q alone, wherever the two patches are. Attention is made of products of this kind, so the distance is there to be read.

# %%
products = table @ table.T  # (64, D) @ (D, 64)
offsets = np.arange(-20, 21)
fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
looks = [(20, "#0072B2", "-", 4), (31, "#D55E00", "--", 2.5), (43, "black", ":", 2)]
for at, color, dash, width in looks:
    ax.plot(offsets, products[at, at + offsets], dash, color=color, linewidth=width, label=f"p = {at}")
ax.set(xlabel="offset q - p", ylabel="PE(p) · PE(q)", title="three positions, one curve")
ax.grid(alpha=0.3)
ax.legend(frameon=False)
plt.show()
curves = np.stack([products[at, at + offsets] for at, *_ in looks])
print("largest difference between the three curves", f"{np.ptp(curves, axis=0).max():.0e}")

# %% [markdown]
# An image has two dimensions, though. Below, the 64 positions stand for an 8×8 grid of patches; each tile shows how similar
# one position is to all. Numbered 1 to 64 along the rows, the patch *below* is as far away as eight steps to the right.

# %%
mv.viz.position_similarity(table)

# %% [markdown]
# With half of the dimensions for the row and half for the column (`sinusoidal_2d`), every patch is most similar to the
# patches around it. The ViT paper's own positions are a learned table. For those its appendix D.4 reports nearly the same
# accuracy whether they are learned in one dimension, in two, or relative to each other, and clearly less without any.

# %%
mv.viz.position_similarity(mv.models.sinusoidal_2d((8, 8), 64))

# %% [markdown]
# ## 4 The class token, and all of it together
#
# The slides "Learnable Class Embedding" and "Patch + Position Embedding":
#
# $$\mathbf{z}_0 = [\mathbf{p}_\text{class};\ \mathbf{p}_1\mathbf{E};\ \dots;\ \mathbf{p}_N\mathbf{E}] + \mathbf{E}_\text{pos},
#   \qquad \mathbf{E}_\text{pos} \in \mathbb{R}^{(N+1)\times D}.$$
#
# In a model every part of this can be looked at by name. (minivit's `Linear` adds a bias to the projection, and pixels are
# first mapped from [0, 1] to [-1, 1], as in published ViTs.)

# %%
model = mv.models.ViT(image_size=8, patch_size=P, channels=1, embed_dim=32, depth=2, num_heads=4, num_classes=10)
some = test.images[:3]
logits, parts = model(some, intermediates=True)

p = mv.ops.im2col((some - 0.5) / 0.5, patch_size=P)  # (B, N, P²C)
embedded = p @ model.patch_embed.proj.weight.numpy() + model.patch_embed.proj.bias.numpy()  # (B, N, D)
first = np.broadcast_to(model.cls_token.numpy(), (3, 1, 32))
z0 = np.concatenate([first, embedded], axis=1) + model.pos_embed.numpy()  # (B, N+1, D) + (1, N+1, D)
print("z0 by hand", z0.shape, " in the model", parts["embedded"].shape)
print("largest difference", f"{np.abs(z0 - parts['embedded'].numpy()).max():.0e}")

# %% [markdown]
# ## 5 The shuffled bird
#
# The slide cuts a bird into nine patches, shuffles them, and asks: bird? For us it is not, any more. What would a
# transformer say? We ask with digits and three kinds of shuffled test images:
#
# - **as they are**;
# - **one shuffle**: a permutation of the 16 patches that leaves none in place, the same for all images;
# - **a shuffle each**: another permutation for every image.


# %%
def shuffle(images, order):
    """Puts patch order[i, k] of image i where patch k was; order is (B, N)."""
    patches = mv.ops.im2col(images, patch_size=P)
    patches = np.take_along_axis(patches, order[:, :, None], axis=1)
    return mv.ops.col2im(patches, image_size=(8, 8), patch_size=P)


N = (8 // P) ** 2
order = rng.permutation(N)
same = np.empty((len(test), N), int)
same[:, order] = np.roll(order, 1)  # each patch takes the place of the one before it in a random order
own = rng.permuted(np.tile(np.arange(N), (len(test), 1)), axis=1)
versions = {"as they are": test.images, "one shuffle": shuffle(test.images, same), "a shuffle each": shuffle(test.images, own)}

fig, axes = plt.subplots(3, 8, figsize=(8, 3.5), layout="constrained")
for row, (name, images) in zip(axes, versions.items()):
    for ax, image, label in zip(row, images, test.labels):
        ax.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        if name == "as they are":
            ax.set_title(str(label), fontsize=10)
    row[0].set_ylabel(name)
plt.show()

# %% [markdown]
# Three small ViTs (about 26,000 weights, read from the mean of the patches) are trained on *unshuffled* digits: without
# positions, with the sinusoids, with a learned table. Each three times, from different seeds. This takes most of the
# notebook's time.


# %%
def small_vit(position, seed):
    return mv.models.ViT(image_size=8, patch_size=P, channels=1, embed_dim=32, depth=2, num_heads=4, num_classes=10,
                         position=position, pool="mean", seed=seed)


kinds, seeds = ("none", "sinusoidal", "learned"), (0, 1, 2)
models = {}
accuracy = np.zeros((len(kinds), len(seeds), len(versions)))
for k, kind in enumerate(kinds):
    for seed in seeds:
        model = models[kind, seed] = small_vit(kind, seed)
        mv.train.fit(model, train, epochs=12, lr=3e-3, shift=0, seed=seed, progress=False)
        for v, images in enumerate(versions.values()):
            accuracy[k, seed, v] = np.mean(mv.train.predict(model, images).argmax(axis=1) == test.labels)

print("weights:", sum(weight.size for weight in models["none", 0].parameters()), "without positions")
print(f"accuracy on {len(test)} test images in %, mean and range over {len(seeds)} seeds")
print(f"{'positions':12s}" + "".join(f"{name:>22s}" for name in versions))
for kind, row in zip(kinds, 100 * accuracy):
    print(f"{kind:12s}" + "".join(f"{a.mean():9.1f} ({a.min():.1f} - {a.max():.1f})" for a in row.T))

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
looks = [("#0072B2", "o", ""), ("#E69F00", "s", "//"), ("#CC79A7", "D", "..")]
for v, (name, (color, marker, hatch)) in enumerate(zip(versions, looks)):
    at = np.arange(len(kinds)) + 0.27 * (v - 1)
    ax.bar(at, 100 * accuracy[:, :, v].mean(axis=1), 0.25, color=color, hatch=hatch, edgecolor="white", label=name)
    for s in range(len(seeds)):
        ax.plot(at + 0.06 * (s - 1), 100 * accuracy[:, s, v], marker, color="black", markersize=4, linestyle="none")
ax.axhline(10, color="black", linestyle=":", linewidth=1)
ax.text(len(kinds) - 0.16, 11, "guessing", ha="right", fontsize=9)
ax.set_xticks(range(len(kinds)), [f"positions: {kind}" for kind in kinds])
ax.set(ylabel="test accuracy (%)", xlim=(-0.5, len(kinds) - 0.15), ylim=(0, 100),
       title="test images shuffled by patches; a point per seed")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
plt.show()

# %% [markdown]
# **Without positions** the shuffled accuracy equals the unshuffled one, exactly, for every seed. It has to: attention, layer
# norm and the MLP treat all tokens alike, so permuted patches give permuted tokens, and their mean is the same. The logits
# agree as far as floating-point sums in another order can:

# %%
for kind in ("none", "learned"):
    model = models[kind, 0]
    before, after = (mv.train.predict(model, versions[name]) for name in ("as they are", "a shuffle each"))
    print(f"positions {kind:8s} largest change of a logit {np.abs(before - after).max():8.1e}, "
          f"answers changed {np.sum(before.argmax(axis=1) != after.argmax(axis=1))} of {len(test)}")
print("equal for every seed:", bool((accuracy[0] == accuracy[0][:, :1]).all()))

# %% [markdown]
# To such a model a digit is a *bag of patches*. What is in the bag says a lot: most digits are recognized all the same. And
# the lecture's shuffled bird is the same bird to it, with the same confidence.
#
# **With positions** the model is better on real digits, and it falls when they are shuffled: it has learned what belongs
# where. That is the answer to the slide: a model that should say "no bird" to the shuffled bird needs positions.
#
# ## 6 Move the positions along
#
# The order matters only through **E**_pos. If the patches are permuted and the rows of the learned table are permuted in the
# same way, the model is back where it was. So a ViT could have learned from shuffled digits equally well, had *all* images
# been shuffled alike: it has no built-in idea of which patches are neighbors. (The slide "ViTs are Effective at Scale" calls
# this "less inductive biases than CNNs".)

# %%
model = models["learned", 0]
moved = small_vit("learned", 0)
moved.load_state_dict(model.state_dict())
table = model.pos_embed.numpy().copy()
table[:, -N:] = table[:, -N:][:, same[0]]  # row k of the patches now holds the position of the patch that came there
moved.pos_embed.assign_(table)
before = mv.train.predict(model, versions["as they are"])
for name, which in (("table as it was", model), ("table moved along", moved)):
    after = mv.train.predict(which, versions["one shuffle"])
    right = np.mean(after.argmax(axis=1) == test.labels)
    print(f"one shuffle, {name:18s} accuracy {100 * right:.1f} %, largest change of a logit {np.abs(after - before).max():.1e}")

# %% [markdown]
# ## What to change next
#
# - Add `"relative"` or `"sinusoidal_2d"` to `kinds`: do they fall as far when shuffled?
# - Shuffle the *training* images, too, all by the same permutation: train on
#   `mv.data.Dataset(shuffle(train.images, same[:1]), train.labels)`. How much accuracy does each kind of position lose?
#   Section 6 says what to expect for the learned table.
# - Set `P` to 4 (4 patches) or 1 (64 patches). What happens to the bag of patches, and why?
# - Use `pool="cls"`. The result for "none" stays exact: which argument of section 5 has to be replaced, and by what?
# - Print, for `models["learned", 0]`, `np.std` of `pos_embed` and of `embedded`, computed as in section 4. How large are
#   positions next to content?

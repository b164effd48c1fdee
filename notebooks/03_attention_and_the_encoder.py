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
# # 3 Attention and the encoder
#
# The lecture's "Transformer Encoder" slides, line by line: scaled dot-product attention, what the scaling does (measured),
# the shapes of the weights, many heads, one block, and the parameters of the big models. At the end a small model is trained
# and we look at where it looks.
#
# The source that it explains is `minivit/autograd/fused/attention.py` and `minivit/models/attention.py`, `encoder.py`.

# %%
# To install, once, from the folder that holds pyproject.toml:  pip install ".[notebooks]"
import matplotlib.pyplot as plt
import numpy as np

import minivit as mv

# %% [markdown]
# ## 1 Scaled dot-product attention, by hand
#
# $$\text{Attention}(\mathbf{Q},\mathbf{K},\mathbf{V})
#   = \text{softmax}\!\left(\frac{\mathbf{Q}\mathbf{K}^T}{\sqrt{d}}\right)\mathbf{V}$$
#
# Three lines. Tokens are rows: row i of Q asks, the rows of K answer how well they fit, and token i takes from the rows of V
# in that proportion.


# %%
def attention(q, k, v, scale):
    scores = q @ k.T * scale  # (N, d) @ (d, N) -> (N, N)
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    a = e / e.sum(axis=1, keepdims=True)  # softmax over each row
    return a, a @ v  # (N, N) @ (N, d) -> (N, d)


rng = np.random.default_rng(0)
N, d = 6, 16
q, k, v = rng.normal(size=(3, N, d))
a, out = attention(q, k, v, 1 / np.sqrt(d))
ours = mv.ops.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None])[0, 0]  # takes (B, h, N, d)
print("rows of A sum to", a.sum(axis=1).round(12))
print("largest difference to mv.ops", f"{np.abs(out - ours).max():.0e}")

fig, ax = plt.subplots(figsize=(4.4, 3.6), layout="constrained")
shown = ax.imshow(a, cmap="viridis", vmin=0)
for i in range(N):
    for j in range(N):
        color = "white" if a[i, j] < 0.6 * a.max() else "black"
        ax.text(j, i, f"{a[i, j]:.2f}", ha="center", va="center", color=color, fontsize=9)
ax.set(xticks=range(N), yticks=range(N), xlabel="taken from token", ylabel="token that asks")
ax.set_title("the attention matrix A, N × N")
fig.colorbar(shown, ax=ax, label="share")
plt.show()

# %% [markdown]
# ## 2 What the scaling does
#
# The slide: "the purpose of scaling by √D is to prevent gradient vanishing". Precisely (Vaswani et al. 2017, section
# 3.2.1): if the components of q and k are independent, with mean 0 and variance 1, then q·k has mean 0 and variance d.
# Large scores drive softmax to one-hot rows, and there its Jacobian, diag(p) - p pᵀ, is nearly zero. So the gradient
# vanishes *through the softmax*, which is another thing than vanishing through many layers; against that one the residual
# connections help.
#
# We measure it: random q and k, N = 65 tokens, 40 matrices for each d, with and without 1/√d. A row is called *saturated* if
# one token takes more than 99 %. The gradient is that of a random cotangent on A with respect to the scores that enter the
# softmax; its size is the norm over a row.

# %%
N, dims = 65, (4, 16, 64, 256, 1024)
measured = {}
print("   d  scaled  std of scores  saturated rows   gradient: median    mean")
for d in dims:
    q, k = rng.normal(size=(2, 40, N, d))
    cotangent = rng.normal(size=(40, N, N))
    for scaled in (False, True):
        scores = mv.Tensor(q @ k.swapaxes(1, 2) * (d**-0.5 if scaled else 1.0), requires_grad=True)
        a = mv.ops.softmax(scores)
        (g,) = mv.grad(a, [scores], gy=cotangent)
        size = np.linalg.norm(g.numpy(), axis=-1)  # (40, N)
        m = scores.numpy().std(), np.mean(a.numpy().max(axis=-1) > 0.99), np.median(size), size.mean()
        measured[d, scaled] = m
        print(f"{d:4d}  {'yes' if scaled else 'no ':6s}  {m[0]:13.2f}  {m[1]:14.3f}   {m[2]:16.5f}  {m[3]:6.3f}")

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
titles = ("standard deviation of the scores", "saturated rows (max p > 0.99)", "gradient through the softmax")
for column, (ax, title) in enumerate(zip(axes, titles)):
    for scaled, color, look, name in ((False, "#D55E00", "s--", "without scaling"), (True, "#0072B2", "o-", "with 1/√d")):
        ax.plot(dims, [measured[d, scaled][column] for d in dims], look, color=color, label=name)
        if column == 2:
            ax.plot(dims, [measured[d, scaled][3] for d in dims], look[0] + ":", color=color, markerfacecolor="white",
                    label=f"{name}, mean")
    ax.set(title=title, xlabel="d (log scale)", xscale="log")
    ax.set_xticks(dims, [str(d) for d in dims])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
axes[0].set_ylabel("of 40 × 65 × 65 scores")
axes[1].set_ylabel("share of rows")
axes[2].set(ylabel="norm per row (filled: median)", yscale="log")
axes[0].legend(frameon=False)
axes[2].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Without scaling the scores spread as √d, a fifth of the rows is saturated at d = 64 and more than two thirds at d = 1024,
# and the median gradient falls by a factor of about a thousand. With scaling hardly anything depends on d.
#
# Look at the *means*, too. At d = 4 and 16 the unscaled gradient is the larger one, and at 64 the means are nearly equal:
# rows that are torn between two tokens have large gradients and hide those that have none. The average over rows shows the
# effect only from d = 256 on. Which number you look at decides what you see.
#
# ## 3 √D or √d?
#
# The slide divides by √D. That is right for one head. With h heads a product q·k runs over d = D/h components, and it is √d
# that brings the variance back to 1, in Vaswani et al., in the ViT paper (appendix A) and in DeiT. Here for ViT-Base, D =
# 768, h = 12, d = 64. The *entropy* of a row says how widely it looks: log N = all tokens alike, 0 = one token only.

# %%
D, h = 768, 12
d = D // h
q, k = rng.normal(size=(2, 40, N, d))
cotangent = rng.normal(size=(40, N, N))
print(f"uniform attention over {N} tokens has entropy {np.log(N):.2f} nats")
for name, scale in (("1/√d", d**-0.5), ("1/√D", D**-0.5)):
    keys, queries = mv.Tensor(k), mv.Tensor(q, requires_grad=True)
    a = mv.ops.softmax(queries @ keys.swapaxes(1, 2) * scale)
    (g,) = mv.grad(a, [queries], gy=cotangent)
    p = a.numpy()
    entropy = -(p * np.log(p)).sum(axis=-1).mean()
    print(f"{name}: std of scores {(q @ k.swapaxes(1, 2) * scale).std():.2f}, entropy {entropy:.2f} nats, "
          f"gradient at the queries {np.linalg.norm(g.numpy(), axis=-1).mean():.3f}")

# %% [markdown]
# With √D attention begins nearly uniform and its queries get a smaller gradient. It is not fatal, since training can make
# the weights larger (`ViT(scale="width")` is there to try it). But weights trained with one scale are wrong with the other.
#
# ## 4 The shapes of W
#
# The slide writes Q = W^Q z with W^Q ∈ ℝ^((N+1)×(N+1)). If tokens are the *columns* of z, so that z is D×(N+1), then
# Q = W^Q z is right with W^Q of size D×D; probably this was meant, and the size (N+1)×(N+1) is that of the attention matrix,
# which belongs to the next formula. (The slide on multi-head attention has it right: W_i^Q ∈ ℝ^(D×d_i), with tokens as rows.)
# The shapes in a layer, for 17 tokens and, with the same weights, for 50:

# %%
layer = mv.models.MultiHeadSelfAttention(dim=64, num_heads=4)
print("W_qkv", layer.qkv.weight.shape, " = D × 3D: W^Q, W^K, W^V side by side;  W^O", layer.proj.weight.shape)
for tokens in (17, 50):
    z = rng.normal(size=(1, tokens, 64)).astype(np.float32)
    parts = {}
    out = layer(mv.Tensor(z), parts=parts)
    print(f"z {z.shape} -> attention {parts['attention'].shape} -> out {out.shape}")

# %% [markdown]
# A matrix of (N+1)×(N+1) *learned* weights would mix tokens instead of features, work for one number of tokens only, and tie
# each weight to a position. Attention does not care where a token stands: permute the tokens and the output is permuted,
# nothing else. Such a matrix breaks that:

# %%
z = rng.normal(size=(17, 64)).astype(np.float32)
order = rng.permutation(17)
mixing = rng.normal(size=(17, 17)).astype(np.float32) / np.sqrt(17)


def attend(z):
    return layer(mv.Tensor(z[None])).numpy()[0]


print("attention:      f(permuted z) - permuted f(z):", f"{np.abs(attend(z[order]) - attend(z)[order]).max():.0e}")
print("(N+1)×(N+1) W:  f(permuted z) - permuted f(z):", f"{np.abs(mixing @ z[order] - (mixing @ z)[order]).max():.0e}")

# %% [markdown]
# ## 5 Multi-head attention
#
# The slide: head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V), MultiHead = Concat(head_1, ..., head_h) W^O. In self-attention
# Q, K and V in this formula are all z: the W^Q of the slide before, and then a W_i^Q, would be two matrices in a row, and
# their product is one. By hand, a head at a time, with the columns of the layer's matrices that belong to it:

# %%
D, h = 64, 4
d = D // h
W, bias = layer.qkv.weight.numpy(), layer.qkv.bias.numpy()  # (D, 3D), (3D,)
heads = []
for i in range(h):
    q, k, v = (z @ W[:, s : s + d] + bias[s : s + d] for s in (i * d, D + i * d, 2 * D + i * d))  # (N, D) @ (D, d) -> (N, d)
    heads.append(attention(q, k, v, 1 / np.sqrt(d))[1])
by_hand = np.concatenate(heads, axis=1) @ layer.proj.weight.numpy() + layer.proj.bias.numpy()  # (N, h·d) @ (D, D) -> (N, D)
print("one head", heads[0].shape, " concatenated and projected", by_hand.shape)
print("largest difference to the layer", f"{np.abs(by_hand - attend(z)).max():.0e}")

# %% [markdown]
# ## 6 The encoder block
#
# Two steps, each *added* to what came in (the residual connection), and each behind a layer norm (pre-norm):
#
# $$\mathbf{z}' = \mathbf{z} + \text{MSA}(\text{LN}(\mathbf{z})),
#   \qquad \mathbf{z}_\text{out} = \mathbf{z}' + \text{MLP}(\text{LN}(\mathbf{z}')).$$
#
# The MLP treats every token by itself: MLP(z) = GELU(z W₁ + b₁) W₂ + b₂, with W₁ ∈ ℝ^(D×4D) and W₂ ∈ ℝ^(4D×D).

# %%
block = mv.models.EncoderBlock(dim=64, num_heads=4, mlp_dim=256)
block.eval()
x = mv.Tensor(z[None])
middle = x + block.attn(block.norm1(x))
by_hand = middle + block.mlp(block.norm2(middle))
print(block)
print("largest difference to the block", f"{np.abs(by_hand.numpy() - block(x).numpy()).max():.0e}")

# %% [markdown]
# ## 7 How many parameters?
#
# A block has 4D² + 4D in attention (W^Q, W^K, W^V, W^O and their biases), 8D² + 5D in an MLP of width 4D, and 4D in its two
# layer norms: 12D² + 13D. With the patch projection, class token, positions, last layer norm and the classifier's head:


# %%
def count(D, L, P, classes, image=224, channels=3):
    N = (image // P) ** 2
    blocks = L * (12 * D**2 + 13 * D)
    return P * P * channels * D + D + D + (N + 1) * D + blocks + 2 * D + (D * classes + classes if classes else 0)


slide = {"base": "86M", "large": "307M", "huge": "632M"}
sizes = {"base": (768, 12), "large": (1024, 24), "huge": (1280, 32)}
print("model                    slide     without head   head for 1000   by the formula")
for name in ("vit_base_patch16_224", "vit_large_patch16_224", "vit_large_patch32_224", "vit_huge_patch14_224"):
    _, size, patch, _ = name.split("_")
    model = mv.models.create(name, seed=None)  # zeros: nothing to draw
    full = sum(p.size for p in model.parameters())
    D, L = sizes[size]
    formula = count(D, L, int(patch[5:]), 1000)
    same = "the same" if formula == full else f"{formula:,d}"
    print(f"{name:23s}  {slide[size]:>5s}  {full - (D * 1000 + 1000):15,d}  {full:14,d}   {same}")

# %% [markdown]
# The slide's (and the paper's) numbers are rounded from different counts. 86M is the base model without a head, 632M the huge
# one with its head; 307M fits the large model with patches of 32 pixels and a head, while L/16, the one usually meant, has
# 304M. (L/32 has *more* weights than L/16: the projection grows with P², and here what the table of positions saves does not
# make up for it.) Two thirds of a block are its MLP.
#
# ## 8 Where does it look?
#
# A small ViT with class token and patches of one pixel (64 of them, so that the maps have detail), trained here on the
# digits.

# %%
train, test = mv.data.load("digits")
model = mv.models.ViT(image_size=8, patch_size=1, channels=1, embed_dim=32, depth=2, num_heads=4, num_classes=10, seed=0)
history = mv.train.fit(model, train, test, epochs=10, lr=3e-3, shift=0, seed=0, progress=False)
print(f"test accuracy after {len(history)} epochs: {100 * history[-1]['test_accuracy']:.1f} %")

# %% [markdown]
# For one test image: how much the class token, from which the answer is read, takes from each patch. A row of pictures is a
# layer, a column a head.

# %%
image = test.images[1]
mv.viz.attention(model, image)

# %% [markdown]
# *Rollout* (Abnar and Zuidema 2020) multiplies the layers: Ã = (mean over heads of A + I)/2, R = Ã_L ⋯ Ã_1, where I stands
# for the residual connection. Its row of the class token, by hand and as a picture:

# %%
maps = mv.models.attention_maps(model, image[None])  # a list over layers of (1, h, N+1, N+1)
R = np.eye(65)
for a in maps:
    R = (a[0].mean(axis=0) + np.eye(65)) / 2 @ R
print("largest difference to attention_rollout", f"{np.abs(R - mv.models.attention_rollout(maps)[0]).max():.0e}")
print(f"the class token keeps {R[0, 0]:.2f} from itself, the 64 patches share {R[0, 1:].sum():.2f}")
mv.viz.rollout(model, image)

# %% [markdown]
# Such pictures are a help, not an explanation: values and MLPs are left out, and after a layer a token is a mixture of tokens
# already.
#
# The slide "Visual Attention" expects that attention between two patches of the bird is typically high, and between
# background and bird low. For digits we can count. A patch is *ink* if it is brighter than 0.25, else *ground*. Below, over
# all test images and for each layer and head: attention from ink or ground to ink or ground, as a multiple of uniform
# attention.

# %%
ink = mv.ops.im2col(test.images, patch_size=1).mean(axis=-1) > 0.25  # (B, N)
kinds = {"ink": ink, "ground": ~ink}
fig, axes = plt.subplots(2, 4, figsize=(8.4, 4.6), layout="constrained")
for row, (layer_number, a) in zip(axes, enumerate(mv.models.attention_maps(model, test.images))):
    share = a[:, :, 1:, 1:] * a.shape[-1]  # (B, h, N, N), 1 is uniform; the class token is left out
    for head_number, ax in enumerate(row):
        table = np.array([[share[:, head_number][asks[:, :, None] & asked[:, None, :]].mean() for asked in kinds.values()]
                          for asks in kinds.values()])
        shown = ax.imshow(np.log2(table), cmap="PuOr_r", vmin=-2, vmax=2)
        for i in range(2):
            for j in range(2):
                color = "white" if table[i, j] < 0.5 or table[i, j] > 3 else "black"
                ax.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color=color)
        ax.set_xticks(range(2), kinds)
        ax.set_yticks(range(2), [f"from {kind}" for kind in kinds] if head_number == 0 else ["", ""])
        ax.set_title(f"layer {layer_number}, head {head_number}", fontsize=10)
bar = fig.colorbar(shown, ax=axes, label="multiple of uniform attention", ticks=[-2, -1, 0, 1, 2])
bar.ax.set_yticklabels(["1/4", "1/2", "1", "2", "4"])
plt.show()

# %% [markdown]
# In this model's first layer ink looks at ink more than uniformly in every head, and in three of the four ground looks at
# ground, as the slide says. In the second layer the heads part ways: in heads 0 and 2 the ground looks at the ink, more than
# ink does itself, and head 1 hardly tells them apart. So the slide's picture is a tendency, not a rule; and by the second
# layer a token no longer stands for its own patch alone.
#
# ## What to change next
#
# - In section 2, draw q and k with standard deviation 2. Which scale brings the scores back to 1? What does that say about a
#   model whose weights have grown in training?
# - Train the model of section 8 with `scale="width"`, for three seeds each. Can you tell the accuracies apart?
# - Count the multiply-accumulates, `mv.models.count_macs(model, (8, 8, 1))`, with `patch_size` 1, 2 and 4, and fit aN + bN² to
#   the three. Compare b with 2LD, what the products QKᵀ and AV ask for.
# - Move the layer norms behind the additions (post-norm) in section 6 and train a model of such blocks.
# - In section 8, look at an image that the model gets wrong, and at one head alone: `mv.viz.attention(model, image, 1, 0)`.

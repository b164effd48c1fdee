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
# # 5 Adversarial examples
#
# Lecture, *Problem Description*: given an image $x$ that the classifier gets right, $f(x) = y$, find an image $x_{adv}$
# close to it with $f(x_{adv}) \neq y$. In this notebook we write the lecture's two attacks by hand, check them against
# the package's and against a case with an exact answer, measure what they do to a Vision Transformer, and then train
# one that stands up to them.
#
# It runs in one to two minutes on two cores, on the digits that come with the package. All seeds are fixed; another
# machine may round differently and then differ by a few images.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minivit as mv
from minivit.viz.style import line

train, test = mv.data.load("digits")
x, y = test.images, test.labels  # (360, 8, 8, 1) in [0, 1], (360,)


def new_model(seed=0):
    return mv.models.ViT(image_size=8, patch_size=2, channels=1, embed_dim=32, depth=2, num_heads=4, num_classes=10,
                         pool="mean", seed=seed)


model = new_model()
mv.train.fit(model, train, epochs=25, lr=3e-3, seed=0, progress=False)


def accuracy(model, images, labels=y):
    return 100 * (mv.train.predict(model, images).argmax(axis=1) == labels).mean()


print(f"natural accuracy on {len(test)} test images: {accuracy(model, x):.1f} %")

# %% [markdown]
# ## Gradient ascent on the image
#
# Lecture, *Method*: "we freeze its parameters and update the input image by gradient ascent to increase the loss". The
# graph is the one that training uses; only the leaf changes, for which the derivative is asked. Images in a batch do
# not influence each other, so the gradient of the *sum* of their losses is each image's own.

# %%
def gradient(model, x, y):
    """The losses' derivative by the pixels, shaped like x."""
    images = mv.Tensor(x, requires_grad=True)
    loss = mv.ops.cross_entropy(model(images), y, reduction="sum")
    (g,) = mv.grad(loss, [images])
    return g.numpy()


def losses(model, x, y):
    return mv.ops.cross_entropy(mv.train.predict(model, x).astype(np.float64), y, reduction="none")


start = losses(model, x, y)
order = np.argsort(-start)  # the least certain of the right answers first
recognized = order[mv.train.predict(model, x).argmax(axis=1)[order] == y[order]]
chosen = recognized[[0, len(recognized) // 10, len(recognized) // 3, -1]]
x_t, path = x[chosen], [start[chosen]]
for _ in range(60):
    x_t = x_t + 0.1 * gradient(model, x_t, y[chosen])
    path.append(losses(model, x_t, y[chosen]))

fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for k, values in enumerate(np.transpose(path)):
    ax.semilogy(values, label=f"image {chosen[k]}: {100 * np.exp(-values[0]):.2f} % sure",
                **line(k) | {"marker": ""})
ax.axhline(np.log(2), color="gray", linewidth=1)
ax.text(60, 1.0, "above: probability of the true class below 1/2", color="gray", fontsize=9, ha="right")
ax.set(xlabel="step of plain gradient ascent, α = 0.1", ylabel="cross-entropy of the true class")
ax.legend(loc="center right")
plt.show()
for k, i in enumerate(chosen):
    print(f"image {i:>3}: length of the first gradient {np.linalg.norm(gradient(model, x[i:i+1], y[i:i+1])):.1e}, "
          f"pixels in the end from {x_t[k].min():+.2f} to {x_t[k].max():+.2f}")

# %% [markdown]
# The idea works, and shows two troubles. Where the model is certain, the gradient is nearly zero and ascent does not
# get off the ground: the *length* of the gradient says little. And where ascent does start, pixels leave the range [0,
# 1], so that the result is no image at all. The first trouble is met by keeping the gradient's sign only, the second by
# clipping to [0, 1]; and so that the result stays close to $x$, the change is bounded by ε.
#
# ## FGSM
#
# Lecture, *FGSM Attack*:
#
# $$x_{adv} = x + \epsilon \cdot \mathrm{sign}\left(\frac{\partial \ell}{\partial x}\right)$$
#
# Pixels live in [0, 1] and ε is measured on that scale: ε = 0.1 lets every pixel change by a tenth of the way from
# black to white. One thing the slide leaves to us is the clip that keeps the result an image.

# %%
def fgsm(model, x, y, eps):
    g = gradient(model, x, y)
    return np.clip(x + np.float32(eps) * np.sign(g), 0, 1)


by_hand = fgsm(model, x, y, eps=0.1)
result = mv.attacks.fgsm(model, x, y, eps=0.1)
print("by hand equals mv.attacks.fgsm:", np.array_equal(by_hand, result.x_adv))
print(result)
was_right = result.prediction == y
print(f"{(~result.success).sum()} images are still right, {(result.success & was_right).sum()} are fooled, "
      f"{(result.success & ~was_right).sum()} were wrong before")
fooled = np.flatnonzero(result.success & was_right)[:6]
mv.viz.adversarial(model, x[fooled], mv.attacks.fgsm(model, x[fooled], y[fooled], eps=0.1), y[fooled])

# %% [markdown]
# These are the first six that are fooled. Middle row: what was added, yellow brighter and blue darker. Every pixel moves
# by the same amount, except where the clip stops it: what is black already cannot get blacker.
#
# ## Is it just noise?
#
# The slides call the perturbation "noise". It is anything but random. As a control, every pixel goes up or down by the
# same 0.1, but the coin decides instead of the gradient.

# %%
rng = np.random.default_rng(0)
coin = [accuracy(model, np.clip(x + np.float32(0.1) * rng.choice(np.float32([-1, 1]), x.shape), 0, 1)) for _ in range(20)]
print(f"untouched                         {accuracy(model, x):5.1f} %")
print(f"random signs, mean of 20 draws    {np.mean(coin):5.1f} %  (from {min(coin):.1f} to {max(coin):.1f} %)")
print(f"the gradient's signs (FGSM)       {accuracy(model, by_hand):5.1f} %")

# %% [markdown]
# In 64 dimensions nearly every direction is harmless; the harmful ones have to be looked for. That is why a model can
# be right on noisy test images and still be defenseless.
#
# ## PGD
#
# Lecture, *PGD Attack*: many small steps, each led back into the ball of radius ε around $x$:
#
# $$x^{(t)}_{adv} = \mathrm{Proj}\left(x^{(t-1)}_{adv}
# + \alpha \cdot \mathrm{sign}\left(\frac{\partial \ell}{\partial x}\right)\right)$$
#
# Read the slide's derivative as taken at $x^{(t-1)}_{adv}$, the point where we are; taken at $x$ every time, all steps
# would go the same way and nothing would be gained over FGSM. In the L∞ norm the projection is a clip, pixel by pixel.
#
# (Madry et al. put it on the web in 2017 and published it in 2018, hence the two years on the slide. Iterating FGSM is
# a little older: Kurakin et al. 2016, the paper of the slide *Physical Attack*.)

# %%
def pgd(model, x, y, eps, alpha, steps):
    x_t = x
    for _ in range(steps):
        x_t = x_t + np.float32(alpha) * np.sign(gradient(model, x_t, y))
        x_t = np.clip(x_t, x - np.float32(eps), x + np.float32(eps))  # Proj: the ball
        x_t = np.clip(x_t, 0, 1)  # and the box
    return x_t


options = {"eps": 0.1, "steps": 20, "step_size": 0.0125}
by_hand = pgd(model, x, y, eps=0.1, alpha=0.0125, steps=20)
result = mv.attacks.pgd(model, x, y, keep="last", random_start=False, **options)
print("by hand equals mv.attacks.pgd: largest difference", np.abs(by_hand - result.x_adv).max())
print(result)
print("with a random start and the best iterate kept, the defaults:")
print(mv.attacks.pgd(model, x, y, **options))
fooled = np.flatnonzero(result.success & was_right)[:6]
some = mv.attacks.pgd(model, x[fooled], y[fooled], keep="last", random_start=False, **options)
mv.viz.adversarial(model, x[fooled], some, y[fooled])

# %% [markdown]
# The slide says that FGSM "cannot well guarantee visual imperceptibility". Neither attack guarantees it: both change no
# pixel by more than ε, and whether that is visible is a matter of ε. (On 8×8 digits 0.1 is visible, and you still read
# the digit: *label-preserving* is what counts.) What PGD gains is not a smaller change but a better one. Let us look.
#
# (The random start matters little here. It is meant for models whose gradient at $x$ itself misleads.)
#
# ## Accuracy against ε, and what one step misses
#
# Bars are 95 % intervals: 360 images leave an uncertainty of some points.

# %%
radii = [0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2]
curves = {
    "FGSM": mv.attacks.robust_accuracy(model, test, "fgsm", eps=radii),
    "PGD-20": mv.attacks.robust_accuracy(model, test, "pgd", eps=radii, steps=20),
}
print("  eps    FGSM   PGD-20")
for k, eps in enumerate(radii):
    print(f"{eps:5.3f}  {100 * curves['FGSM'].accuracy[k]:5.1f} %  {100 * curves['PGD-20'].accuracy[k]:5.1f} %")
mv.viz.robust_accuracy(curves)

# %% [markdown]
# FGSM trusts the gradient at $x$ over the whole distance ε. But the loss is not linear: a little further on, the
# gradient points elsewhere. Measured below: walk along FGSM's direction, ask for the gradient again, and see which part
# of the best possible slope this old direction still has there: 1 at the start, 0 when it leads neither up nor down,
# negative when it leads *down*.

# %%
lengths = np.linspace(0, 0.3, 13, dtype=np.float32)
sign = np.sign(gradient(model, x, y))
along, slope = [], []
for s in lengths:
    x_s = np.clip(x + s * sign, 0, 1)
    mobile = (x + max(s, lengths[1]) * sign >= 0) & (x + max(s, lengths[1]) * sign <= 1)  # pixels that the clip lets go on
    g = gradient(model, x_s, y) * mobile
    along.append(losses(model, x_s, y))
    slope.append((g * sign).sum(axis=(1, 2, 3)) / np.abs(g).sum(axis=(1, 2, 3)))
along, slope = np.array(along), np.array(slope)  # (13, 360)
past_summit = np.argsort(along[-1] - along.max(axis=0))[:4]

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.5), layout="constrained")
left.fill_between(lengths, *np.quantile(slope, [0.1, 0.9], axis=1), color=line(0)["color"], alpha=0.2,
                  label="80 % of the images")
left.plot(lengths, np.median(slope, axis=1), label="median", **line(0))
left.axhline(0, color="gray", linewidth=1)
left.set(xlabel="way along FGSM's direction", ylabel="part of the best possible slope", title="the direction ages")
left.legend()
for k, i in enumerate(past_summit):
    right.plot(lengths, along[:, i], label=f"image {i}, a {y[i]}", **line(k))
right.set(xlabel="way along FGSM's direction", ylabel="cross-entropy of the true class",
          title="the four that sink furthest past their summit")
right.legend()
plt.show()
for at in (0.1, 0.2, 0.3):
    k = int(np.argmin(np.abs(lengths - at)))
    print(f"at {at}: median {np.median(slope[k]):.2f} of the best slope; for {100 * (slope[k] < 0).mean():.0f} % of the images "
          "the way leads down by now")
steps = {eps: mv.attacks.fgsm(model, x, y, eps=eps).success for eps in (0.1, 0.15, 0.2, 0.3)}
for eps in (0.15, 0.2, 0.3):
    print(f"fooled by one step of 0.1, and no longer by one of {eps}: {(steps[0.1] & ~steps[eps]).sum()} of {steps[0.1].sum()}")

# %% [markdown]
# So one long step seldom leads *down*. What it loses is direction: already at 0.1 it climbs less steeply than it could, and
# at 0.3 with half the slope. PGD asks again after every small step, and that is all its advantage.
#
# For a model with rougher gradients a longer step can even be a worse one, and an image that a small ε had fooled would count
# as safe again. So `robust_accuracy` counts an image as fooled at ε if a smaller ε was enough: the smaller ball lies in
# the larger one. As the last lines say, that rule has little to do here.
#
# ## Targeted and untargeted
#
# The slide *Problem Description*: "If $y_{adv}$ is randomly chosen, the attack is untargeted". More precisely,
# *untargeted* means that **any** wrong class will do; nothing is chosen, the image slides to whichever wrong class is
# easiest. Drawing a class at random and going there is a *targeted* attack, with a random target, and harder. PGD-20 at
# ε = 0.1:

# %%
rng = np.random.default_rng(0)
random_target = (y + rng.integers(1, 10, len(y))) % 10
logits = mv.train.predict(model, x)
others = np.where(np.arange(10) == y[:, None], np.nan, logits)
attacks = {
    "untargeted: any wrong class": None,
    "targeted: the likeliest wrong class": np.nanargmax(others, axis=1),
    "targeted: a random wrong class": random_target,
    "targeted: the least likely class": np.nanargmin(others, axis=1),
}
results = {name: mv.attacks.pgd(model, x, y, eps=0.1, targets=targets) for name, targets in attacks.items()}
for name, r in results.items():
    print(f"{name:<37} {100 * r.success.mean():5.1f} % reach it")
mv.viz.confusion(y, results["untargeted: any wrong class"].prediction_adv, classes=test.classes)

# %% [markdown]
# The matrix shows where untargeted images end: not evenly, each digit has its favorite impostors.
#
# ## What "small" means: three norms
#
# The slide's distance $D(x, x_{adv})$ is yours to choose, and it decides what the perturbation looks like. L∞ limits
# the largest change of a pixel, L2 the length of the whole change, L1 the sum of all changes. For each a radius at
# which PGD-20 fools well over half of the images:

# %%
norms = {"linf": 0.12, "l2": 0.6, "l1": 1.5}
results = {norm: mv.attacks.pgd(model, x, y, eps=eps, norm=norm) for norm, eps in norms.items()}
shown = range(6)
fig, axes = plt.subplots(4, 6, figsize=(7.6, 5.4), layout="constrained")
for column, i in enumerate(shown):
    axes[0, column].imshow(x[i, ..., 0], cmap="gray", vmin=0, vmax=1)
    axes[0, column].set_title(f"a {y[i]}", fontsize=10)
    for row, r in enumerate(results.values(), start=1):
        picture = axes[row, column].imshow((r.x_adv - x)[i, ..., 0], cmap="cividis", vmin=-0.6, vmax=0.6)
        axes[row, column].set_xlabel(f"seen as {r.prediction_adv[i]}", fontsize=9)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
for ax, name in zip(axes[:, 0], ("clean", "L∞ ≤ 0.12", "L2 ≤ 0.6", "L1 ≤ 1.5")):
    ax.set_ylabel(name)
fig.colorbar(picture, ax=axes[1:], label="added", shrink=0.6)
plt.show()
print("                fooled     largest pixel   length (L2)   sum (L1)   pixels changed by > 0.01")
for norm, r in results.items():
    d = r.distance
    changed = (np.abs(r.x_adv - x) > 0.01).reshape(len(x), -1).sum(axis=1).mean()
    print(f"{norm:<5} eps {norms[norm]:<4}  {100 * r.success.mean():5.1f} %   {d['linf'].mean():13.2f}   "
          f"{d['l2'].mean():11.2f}   {d['l1'].mean():8.2f}   {changed:.0f} of 64")

# %% [markdown]
# L∞ spreads a little over every pixel, L2 puts more where it counts, L1 spends all on a few pixels. A robustness figure
# without norm and ε says nothing.
#
# ## A case with an exact answer
#
# Is the attack any good, or is the model just lucky? For a *linear* classifier of two classes we know. With score
# $w \cdot x + b$ for the true class against the other, a change of at most ε per pixel lowers the score by at most
# $\epsilon\,\|w\|_1$. So the smallest radius that fools it is exactly
#
# $$r(x) = \frac{w \cdot x + b}{\|w\|_1}$$
#
# and a correct attack must fail at every ε below it and succeed at every ε above it. (Here the pixels may leave [0, 1]:
# wide `bounds`. The formula knows of no box.)

# %%
class Linear(mv.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = mv.nn.Linear(64, 2)

    def forward(self, images):
        return self.layer(mv.ops.reshape(images, shape=(len(images), 64)))


def threes_and_eights(data):
    keep = np.isin(data.labels, (3, 8))
    return mv.data.Dataset(data.images[keep], (data.labels[keep] == 8).astype(int), classes=("3", "8"))


two, two_test = threes_and_eights(train), threes_and_eights(test)
linear = Linear()
mv.train.fit(linear, two, epochs=20, lr=1e-2, progress=False)
linear.to(dtype="float64")
x2, y2 = two_test.images.astype(np.float64), two_test.labels

weight, bias = linear.layer.weight.numpy(), linear.layer.bias.numpy()
w, b = weight[:, 1] - weight[:, 0], bias[1] - bias[0]
margin = (x2.reshape(-1, 64) @ w + b) * np.where(y2 == 1, 1, -1)  # positive: right
radius = np.maximum(margin / np.abs(w).sum(), 0)
free = (-5, 6)  # bounds that nothing here reaches

fooled = {0.999: 0, 1.001: 0}
right = np.flatnonzero(radius > 0)
for factor in fooled:
    for i in right:
        r = mv.attacks.pgd(linear, x2[i : i + 1], y2[i : i + 1], eps=factor * radius[i], bounds=free)
        fooled[factor] += int(r.success[0])
print(f"{len(right)} of {len(x2)} images are classified correctly; PGD fools, with eps at")
print(f"0.999 of the exact radius: {fooled[0.999]} of {len(right)}\n1.001 of the exact radius: {fooled[1.001]} of {len(right)}")

grid = np.linspace(0, 1.1 * radius.max(), 12)
curve = mv.attacks.robust_accuracy(linear, (x2, y2), "pgd", eps=grid, bounds=free)
fig, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
exact = np.linspace(0, radius.max(), 500)
ax.plot(exact, [100 * (radius > eps).mean() for eps in exact], label="exact: share with r(x) > ε", color=line(0)["color"])
ax.plot(grid, 100 * curve.accuracy, label="PGD-20", **line(1) | {"linestyle": ""})
ax.set(xlabel="ε (L∞), no box", ylabel="accuracy under attack (%)", title="linear classifier, 3 against 8")
ax.legend()
plt.show()

# %% [markdown]
# The formula also says why small changes do so much: every pixel adds its $\epsilon\,|w_i|$, and $\|w\|_1$ grows with
# how many numbers an image has. A photograph of 224×224 pixels in three colors has not 64 but 150,528.
#
# ## Defense: adversarial training
#
# Lecture, *Defense*, names two ways: train from scratch on natural and adversarial images, or train on natural images
# first and fine-tune with adversarial ones. `mv.defenses.adversarial_train` is both; the model one gives it makes the
# difference. Each step attacks the batch with PGD-3, as the model is at that moment, and learns from what came out: four
# passes for an image instead of one. From scratch, half of the loss is that of the natural images (a fifth pass), and ε rises
# over the first epochs: a fresh model gets under way more easily under a weak attack.

# %%
EPS = 0.15
settings = {"eps": EPS, "steps": 3, "seed": 0, "progress": False}
fine_tuned = mv.defenses.adversarial_train(model, train, epochs=8, lr=3e-3, **settings)
from_scratch = mv.defenses.adversarial_train(new_model(), train, epochs=16, lr=5e-3, natural_weight=0.5, eps_warmup=5,
                                             **settings)
models = {"natural": model, "fine-tuned": fine_tuned, "from scratch": from_scratch}

columns = {
    "clean": {"eps": 0.0},
    f"FGSM {EPS}": {"attack": "fgsm", "eps": EPS},
    f"PGD-20 {EPS}": {"eps": EPS, "steps": 20},
    "PGD-20 L2 0.6": {"eps": 0.6, "norm": "l2", "steps": 20},
}
print(" " * 14 + "".join(f"{name:>22}" for name in columns))
for name, m in models.items():
    cells = [mv.attacks.robust_accuracy(m, test, **how) for how in columns.values()]
    print(f"{name:<14}" + "".join(f"{100 * c.accuracy[0]:8.1f} ({100 * c.low[0]:4.1f}-{100 * c.high[0]:5.1f})" for c in cells))
print("accuracy in %, in parentheses 95 % intervals")

# %%
radii = [0, 0.05, 0.1, 0.15, 0.2, 0.3]
mv.viz.robust_accuracy({name: mv.attacks.robust_accuracy(m, test, "pgd", eps=radii, steps=20) for name, m in models.items()})

# %% [markdown]
# Both hardened models keep most of their accuracy where the natural one has lost most of it, also in a norm that
# they were not trained against, and both fall when ε goes beyond what they were trained for. Between the two ways look
# at the intervals before you see a difference; and from scratch had twice the adversarial epochs, so this is no
# verdict.
#
# On natural images robustness is paid for with clean accuracy (on CIFAR-10 often about ten points). Look at the
# first column before you believe that it must be so here: with a thousand digits, adversarial images are also more
# data.
#
# ## Where do they look, before and after?
#
# Attention rollout over the image, for each model its own adversarial image: PGD-20 at ε = 0.15.

# %%
i = int(np.flatnonzero(mv.attacks.pgd(model, x, y, eps=EPS).success & ~mv.attacks.pgd(fine_tuned, x, y, eps=EPS).success)[0])
fig, axes = plt.subplots(2, 4, figsize=(8.4, 4.5), layout="constrained")
for row, (name, m) in enumerate((("natural", model), ("fine-tuned", fine_tuned))):
    r = mv.attacks.pgd(m, x[i : i + 1], y[i : i + 1], eps=EPS, index=[i])  # the random start that it had above
    for column, (image, said) in enumerate(((x[i], r.prediction[0]), (r.x_adv[0], r.prediction_adv[0]))):
        share = mv.models.attention_rollout(mv.models.attention_maps(m, image[None]))[0].mean(axis=0).reshape(4, 4)
        axes[row, 2 * column].imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        axes[row, 2 * column].set_title(f"{'adversarial' if column else 'clean'}: says {said}", fontsize=10)
        picture = axes[row, 2 * column + 1].imshow(share, cmap="viridis", vmin=0, vmax=2 / 16)  # a few reach more
        axes[row, 2 * column + 1].set_title("attention", fontsize=10)
    axes[row, 0].set_ylabel(name)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
fig.colorbar(picture, ax=axes, label="share of the attention (1/16 is even)", shrink=0.7, extend="max")
plt.show()
moved = {}
for name, m in models.items():
    adversarial = mv.attacks.pgd(m, x, y, eps=EPS).x_adv
    before, after = (mv.models.attention_rollout(mv.models.attention_maps(m, images)).mean(axis=1)
                     for images in (x, adversarial))
    print(f"{name:<13} share of the attention that the attack moves to other patches: "
          f"{100 * 0.5 * np.abs(after - before).sum(axis=1).mean():.1f} % (mean of all test images)")

# %% [markdown]
# In the natural model the attack moves more of the attention than in the hardened ones. Still, a
# picture of attention is a help, not an explanation; the values that are attended to, and the MLPs, are not in it.
#
# ## How far to believe such a table
#
# An attack that fails proves nothing: PGD-20 finds *some* adversarial images, so its accuracy is an upper bound on the
# true robust accuracy, and the danger it shows a lower bound. Three checks that cost little: a stronger attack should
# find only little more; each stronger adversary should win over the weaker one; and with ε large enough everything must
# fall, or else the attack is broken.

# %%
strong = {
    "random signs": np.clip(x + np.float32(EPS) * np.random.default_rng(1).choice(np.float32([-1, 1]), x.shape), 0, 1),
    "FGSM": mv.attacks.fgsm(fine_tuned, x, y, eps=EPS).x_adv,
    "PGD-20": mv.attacks.pgd(fine_tuned, x, y, eps=EPS, steps=20).x_adv,
    "PGD-50, 4 restarts": mv.attacks.pgd(fine_tuned, x, y, eps=EPS, steps=50, restarts=4).x_adv,
    "PGD-20 at eps 0.5": mv.attacks.pgd(fine_tuned, x, y, eps=0.5, steps=20).x_adv,
}
print(f"the fine-tuned model at eps {EPS}")
for name, images in strong.items():
    print(f"{name:<20} {accuracy(fine_tuned, images):5.1f} %")

# %% [markdown]
# Whoever reports robustness says: norm, ε, on which scale of pixels, which attack with how many steps and restarts, on
# how many images. And ε is a model of the adversary, not a fact about the world: a sticker on a stop sign (the lecture,
# *Physical Adversarial Examples*) obeys no ε at all.
#
# ## What to change next
#
# 1. In `pgd`, take the gradient at `x` instead of `x_t`. What is left of PGD's lead over FGSM?
# 2. `EPS = 0.3`: does adversarial training still learn, from scratch and by fine-tuning? What if `eps_warmup=0`?
# 3. `"eps": 0.6, "norm": "l2"` in `settings`: is the model then robust in L∞, too?
# 4. `"steps": 1` in `settings`: training against one step is much cheaper. Compare FGSM and PGD-20 on the result.
# 5. Attack `model`, and show the images to `from_scratch`, and the other way around: do adversarial images transfer?

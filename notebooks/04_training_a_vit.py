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
# # 4 Training a Vision Transformer
#
# The lecture, *Gradient Descent Revisited*: the gradient of the loss with respect to the parameters says how to change
# them, and
#
# $$\theta = \theta - \alpha\,\frac{\partial \ell}{\partial \theta}$$
#
# is repeated until the loss is low. This notebook does that by hand, then with `mv.train.fit`, and then asks the
# questions that come after "the loss went down": which learning rate, how good is the model really, where does it fail,
# and how many images does it need?
#
# Everything runs on the 1,797 real digits that come with the package, in one to two minutes on two cores. All seeds are
# fixed; another machine may round differently and then differ from the printed numbers by a few images.

# %%
import signal
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import minivit as mv
from minivit.viz.style import line

train, test = mv.data.load("digits")
learn, validation = train.split(0.1, seed=0)  # the same share of every digit in both
print("to learn from:    ", learn)
print("to choose by:     ", validation)
print("to be judged by:  ", test)


# %%
def new_model(seed=0):
    """A small ViT: 16 patches of 2x2 pixels, width 32, two layers."""
    return mv.models.ViT(image_size=8, patch_size=2, channels=1, embed_dim=32, depth=2, num_heads=4, num_classes=10,
                         pool="mean", seed=seed)


print(f"{new_model().num_parameters():,} parameters")
mv.viz.images(learn, limit=16)

# %% [markdown]
# ## The loop by hand
#
# Ten lines. Each step takes 64 images, asks the model, measures the cross-entropy, walks back through the graph, and
# moves every parameter against its gradient.
#
# Two small things the slide leaves out. The gradient is that of *a few* images, not of all of them: a noisy estimate at
# a twentieth of the price ("stochastic" gradient descent). And nobody waits for a minimum: one stops after a number of
# passes over the data, the *epochs*.

# %%
def gradient_descent(model, alpha, epochs=5):
    losses, rng = [], np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(learn))
        for batch in np.split(order, range(64, len(order), 64)):
            loss = mv.ops.cross_entropy(model(learn.images[batch]), learn.labels[batch])
            for p in model.parameters():
                p.grad = None  # backward adds to what is there
            loss.backward()
            for p in model.parameters():
                p.assign_(p.numpy() - alpha * p.grad.numpy())  # the slide's formula
            losses.append(float(loss))
    return losses


by_hand = new_model()
losses = {"the slide's formula, α = 0.05": gradient_descent(by_hand, alpha=0.05)}

# %% [markdown]
# Transformers are trained with **AdamW** instead (Loshchilov and Hutter 2019). It keeps two running means for every
# parameter, of its gradient $g$ and of $g^2$,
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g, \qquad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2, \qquad
#   \theta \leftarrow \theta - \alpha\left(\frac{\hat m}{\sqrt{\hat v} + \varepsilon} + \lambda\,\theta\right),$$
#
# where the hats divide by $1-\beta^t$, since both begin at zero. So the step is a smoothed gradient over its typical size,
# and rarely used parameters move, too; and weights shrink by a little, αλ, in every step (that is the W, for weight decay;
# only matrices do). In the loop only the step changes.

# %%
model, rng = new_model(), np.random.default_rng(0)
opt = mv.train.AdamW(model.parameters(), lr=3e-3)
losses["AdamW, lr = 0.003"] = []
for _ in range(5):
    order = rng.permutation(len(learn))
    for batch in np.split(order, range(64, len(order), 64)):
        loss = mv.ops.cross_entropy(model(learn.images[batch]), learn.labels[batch])
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses["AdamW, lr = 0.003"].append(float(loss))

fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for i, (name, values) in enumerate(losses.items()):
    ax.plot(values, label=name, **line(i) | {"marker": ""})
ax.axhline(np.log(10), color="gray", linewidth=1)
ax.text(len(values), np.log(10) + 0.03, "guessing: ln 10 = 2.30", ha="right", color="gray")
ax.set(xlabel="step", ylabel="cross-entropy of the batch", title="the loop by hand, five epochs",
       ylim=(0, 3.3))
ax.legend(loc="upper right")
plt.show()
for name, values in losses.items():
    print(f"{name:<30} first step {values[0]:.2f}, mean of the last ten {np.mean(values[-10:]):.2f}")
for name, m in (("the slide's formula", by_hand), ("AdamW", model)):
    print(f"{name:<20} {100 * mv.train.evaluate(m, validation)['accuracy']:.1f} % of the validation images")

# %% [markdown]
# The slide's formula has one step size for all parameters; what is right for some is too long for others. Hence the
# spikes, and its validation figure depends much on the step at which it happened to stop.
#
# The first number is worth a look in every training: a model that knows nothing should lose about $\ln 10 = 2.30$ on
# ten classes. Ours begins a little above, because its random head has opinions already. Far above would mean that
# something is wrong with the scale of the weights or of the pixels.
#
# ## The same with `mv.train.fit`
#
# `fit` is this loop, and what one wants besides: a learning rate that rises and falls, gradients that are cut when they
# are too long (`clip_norm`), measurements after each epoch, checkpoints. `validation=0.1` holds back a tenth of the
# training images, the very `validation` from above, to be measured after each epoch. We are still choosing, so `fit` is
# not even given the test set.

# %%
model = new_model()
history = mv.train.fit(model, train, validation=0.1, epochs=20, lr=3e-3, batch_size=64, seed=0, progress=False)
mv.viz.training(history)

# %% [markdown]
# Read it so: while both losses fall together, the model learns about digits. When the training loss goes on to zero
# and the other levels off, it learns these particular images by heart. (In the first epoch validation is the better one:
# training's figures are means over the epoch, while the model was still learning, and validation is measured at its end.)
#
# ## Warm-up and cosine
#
# The right-hand curve is a pure function of the step, `mv.train.warmup_cosine`: a straight line up during the first 5 %
# of all steps, half a cosine down to zero. Up, because Adam's first steps are long and badly informed; down, because
# the noise of the small batches keeps the model from settling as long as the steps are large.

# %%
steps = history[-1]["step"]
schedule = [mv.train.warmup_cosine(t, steps=steps, warmup=round(0.05 * steps), peak=3e-3) for t in range(steps)]
ends = history.column("step").astype(int)

fig, ax = plt.subplots(figsize=(6.4, 3), layout="constrained")
ax.plot(schedule, label="warmup_cosine", **line(0) | {"marker": ""})
ax.plot(ends - 1, history.column("lr"), label="used by fit, last step of each epoch", **line(1) | {"linestyle": ""})
ax.set(xlabel="step", ylabel="learning rate", title="warm-up, then cosine")
ax.legend()
plt.show()
print("fit used exactly these:", all(schedule[t - 1] == lr for t, lr in zip(ends, history.column("lr"))))

# %% [markdown]
# ## A learning rate too high, too low
#
# Six epochs each, everything else equal. The validation images say which is best.

# %%
rates = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
settings = {"validation": 0.1, "epochs": 6, "seed": 0, "progress": False}
runs = {lr: mv.train.fit(new_model(), train, lr=lr, **settings) for lr in rates}

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
for i, lr in enumerate((1e-5, 1e-3, 1e-2, 1e-1)):
    left.plot(runs[lr].column("epoch"), runs[lr].column("train_loss"), label=f"lr {lr:g}", **line(i))
left.set(xlabel="epoch", ylabel="training cross-entropy", title="too low crawls, too high stumbles",
         ylim=(0, 3.6))
left.legend(loc="upper right", ncols=2)
right.semilogx(rates, [100 * runs[lr][-1]["validation_accuracy"] for lr in rates], **line(0))
right.set(xlabel="learning rate", ylabel="validation accuracy (%)", title=f"after six epochs, {len(validation)} images")
plt.show()

print("     lr   first epoch's loss   last epoch's loss   validation accuracy")
for lr in rates:
    first, last = runs[lr][0], runs[lr][-1]
    print(f"{lr:>7g}   {first['train_loss']:>18.2f}   {last['train_loss']:>17.2f}   "
          f"{100 * last['validation_accuracy']:>17.1f} %")
best = max(rates, key=lambda lr: runs[lr][-1]["validation_accuracy"])
print(f"chosen by validation: lr = {best:g}")

# %% [markdown]
# Too low: the loss has hardly moved when time is up; the model would get there some day. Too high: the first steps
# throw the weights far away, and the training spends its time coming back. The curve has a broad top, which is good
# news: the right power of ten is enough. (This model is tiny. Larger Vision Transformers want less: 0.001, 0.0003.)
#
# ## Three sets: learn, choose, report
#
# Why not choose the learning rate by the test set? Because the best of many is partly the luckiest. To see how much
# luck can do, take a thousand "models" that know nothing at all and guess. We choose the one that does best on our
# 144 validation images, and then look how it does on images that had no part in the choice.

# %%
guesses = np.random.default_rng(0).integers(0, 10, size=(1000, len(validation) + len(test)))
right_on_validation = (guesses[:, : len(validation)] == validation.labels).mean(axis=1)
right_on_test = (guesses[:, len(validation) :] == test.labels).mean(axis=1)
winner = right_on_validation.argmax()
print(f"a thousand guessers on the validation images: {100 * right_on_validation.mean():.1f} % on average")
print(f"the best of them: {100 * right_on_validation[winner]:.1f} %")
print(f"the same one on the test images: {100 * right_on_test[winner]:.1f} %")

# %% [markdown]
# The winner's score was luck, and vanished on new images. The same happens, less visibly, whenever a number is used to
# choose: learning rate, epoch, seed. So the validation set chooses, and the test set is asked once, at the end. In
# minivit `fit(..., keep="best")` keeps the weights of the best validation accuracy; there is no way to select by
# `test`.
#
# ## The answer, once
#
# All choices are made: the learning rate that validation chose, 30 epochs, the weights of the last one. Now all
# training images may be learned from, and the test set is asked.

# %%
model = new_model()
history = mv.train.fit(model, train, epochs=30, lr=best, batch_size=64, seed=0, progress=False)
logits = mv.train.predict(model, test.images)  # (360, 10)
answers = logits.argmax(axis=1)
right = int((answers == test.labels).sum())


def interval(right, n, z=1.96):
    """Wilson's 95 % interval for a probability of which right/n was seen."""
    p = right / n
    center, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (center - half) / (1 + z**2 / n), (center + half) / (1 + z**2 / n)


low, high = interval(right, len(test))
print(f"test: {right} of {len(test)} right, {100 * right / len(test):.1f} %; "
      f"95 % interval {100 * low:.1f} to {100 * high:.1f} %")

# %% [markdown]
# The interval is part of the answer: 360 images cannot tell 97 % from 98 %.

# %%
mv.viz.confusion(test.labels, answers, classes=test.classes)

# %%
wrong = np.flatnonzero(answers != test.labels)
probability = mv.ops.softmax(logits.astype(np.float64))
columns = min(len(wrong), 8)
fig, axes = plt.subplots(-(-len(wrong) // columns), columns, figsize=(1.4 * columns, 1.9 * -(-len(wrong) // columns)),
                         layout="constrained", squeeze=False)
for ax in axes.flat:
    ax.axis("off")
for ax, i in zip(axes.flat, wrong):
    ax.imshow(test.images[i, ..., 0], cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"true {test.labels[i]}, said {answers[i]}\n({100 * probability[i, answers[i]]:.0f} % sure)", fontsize=8)
fig.suptitle(f"all {len(wrong)} test digits it gets wrong", fontsize=11)
plt.show()
sure = probability.max(axis=1)
print(f"mean confidence where right: {100 * sure[answers == test.labels].mean():.0f} %, "
      f"where wrong: {100 * sure[wrong].mean():.0f} %")

# %% [markdown]
# Some you would get wrong yourself. Note the confidences: being wrong is not always being unsure. Notebook 5 will make
# the model wrong *and* sure at will.
#
# ## Keep it, and go on where it stopped
#
# A model is a file of named arrays and the settings to rebuild it. No pickle: loading a file cannot run code.

# %%
folder = tempfile.TemporaryDirectory()
mv.models.save(model, f"{folder.name}/digits.safetensors")
again = mv.models.load(f"{folder.name}/digits.safetensors")
print("same logits after save and load:", np.array_equal(mv.train.predict(again, test.images), logits))

# %% [markdown]
# Training longer than a coffee break gets interrupted: Ctrl-C, a closed lid, a power cut. With a `run_dir`, `fit`
# writes checkpoints that hold everything a step depends on: weights, the optimizer's moments, the step. Randomness
# needs no saving: which images come in which step is a function of (seed, step).
#
# Below, one training runs through 4 epochs. A second one meets a Ctrl-C in its third epoch and goes on afterwards,
# beginning from a *different* fresh model, whose weights do not matter. If resuming is done right, both end with the
# same bits.

# %%
press_ctrl_c_at = None


def objective(model, images, labels, indices, step):
    """What `fit` descends in every step; ours also plays the impatient user."""
    if step == press_ctrl_c_at:
        signal.raise_signal(signal.SIGINT)
    logits = model(images)
    return mv.ops.cross_entropy(logits, labels), logits


settings = {"epochs": 4, "lr": best, "seed": 0, "objective": objective, "progress": False}
straight = new_model()
mv.train.fit(straight, learn, **settings)

run_dir, interrupted = f"{folder.name}/run", new_model()
press_ctrl_c_at = 50
try:
    mv.train.fit(interrupted, learn, run_dir=run_dir, **settings)
except mv.train.TrainingInterrupted as message:
    print(str(message).split(",")[0] + ",", "after", str(message).split("after ")[1].split(";")[0])

press_ctrl_c_at = None
resumed = new_model(seed=123)
mv.train.fit(resumed, learn, resume=run_dir, **settings)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(np.array_equal(a[name], b[name]) for name in a)


print("stopped one equal to the whole one: ", same(interrupted, straight))
print("resumed one equal to the whole one: ", same(resumed, straight), "(every bit of every weight)")
folder.cleanup()

# %% [markdown]
# ## How many images does a ViT need?
#
# The lecture, *ViTs are Effective at Scale*: "ViTs have less inductive biases than CNNs. So they need more data to
# train". Let us measure it. The opponent is a small convolutional network with two layers of 3×3 filters, written here
# with minivit's operations. What it knows before it has seen anything: neighboring pixels belong together, and a stroke
# is the same stroke everywhere. Our ViT knows only that pixels come in 2×2 patches, and that a patch's content means the same
# in every place, for all patches share their weights. Even which patch lies beside which it must learn (notebook 2).

# %%
class CNN(mv.nn.Module):
    """Two times 3x3 convolution, ReLU, 2x2 max pooling; then a linear layer. (B, 8, 8, 1) -> (B, 10)"""

    def __init__(self, seed=0):
        super().__init__()
        self.conv1 = mv.nn.Linear(3 * 3 * 1, 32, seed=3 * seed)
        self.conv2 = mv.nn.Linear(3 * 3 * 32, 64, seed=3 * seed + 1)
        self.head = mv.nn.Linear(2 * 2 * 64, 10, seed=3 * seed + 2)

    def forward(self, images):
        x = mv.Tensor(images) * 2 - 1
        for filters in (self.conv1, self.conv2):
            B, H, W, _ = x.shape
            x = mv.ops.pad(x, widths=((0, 0), (1, 1), (1, 1), (0, 0)))
            # every pixel's 3x3 neighborhood in one row: (B, H, W, 9 C), times the filters (9 C, D)
            x = mv.ops.concatenate(*[x[:, i : i + H, j : j + W] for i in range(3) for j in range(3)], axis=-1)
            x = mv.ops.relu(filters(x)).reshape(B, H // 2, 2, W // 2, 2, -1).max(axis=(2, 4))
        return self.head(x.reshape(len(x), -1))


print(f"parameters: ViT {new_model().num_parameters():,}, CNN {CNN().num_parameters():,}")

# %% [markdown]
# Three sizes, three seeds (each draws other images and other first weights), and for everyone about the same number of
# steps and the learning rate that was chosen above, for the ViT: if that favors anyone, it is not the CNN.

# %%
sizes, seeds, steps = (100, 400, len(train)), (0, 1, 2), 300
accuracy = {"ViT": np.zeros((3, 3)), "CNN": np.zeros((3, 3))}
for i, n in enumerate(sizes):
    for seed in seeds:
        some = train.shuffled(seed)[:n]
        for name, make in (("ViT", new_model), ("CNN", CNN)):
            model = make(seed=seed)
            mv.train.fit(model, some, epochs=round(steps / -(-n // 32)), batch_size=32, lr=best, seed=seed, progress=False)
            accuracy[name][i, seed] = 100 * mv.train.evaluate(model, test)["accuracy"]

fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for k, (name, values) in enumerate(accuracy.items()):
    ax.errorbar(sizes, values.mean(axis=1), yerr=values.std(axis=1, ddof=1), capsize=4, label=name, **line(k))
ax.set(xscale="log", xlabel="training images", ylabel="test accuracy (%)",
       title="mean and standard deviation of 3 seeds")
ax.set_xticks(sizes, [str(n) for n in sizes])
ax.minorticks_off()
ax.legend(loc="lower right")
plt.show()
print("images        ViT            CNN       difference    mistakes, ViT to CNN")
for i, n in enumerate(sizes):
    vit, cnn = (accuracy[name][i] for name in ("ViT", "CNN"))
    print(f"{n:>6}   {vit.mean():5.1f} ± {vit.std(ddof=1):3.1f}   {cnn.mean():5.1f} ± {cnn.std(ddof=1):3.1f}   "
          f"{cnn.mean() - vit.mean():5.1f} points    {(100 - vit.mean()) / (100 - cnn.mean()):4.1f} times as many")

# %% [markdown]
# The slide's sentence, measured: with 100 images the CNN is far ahead. With more images the gap shrinks in *points*, but then
# both come near 100 %, where there is no room for a gap. The *ratio* of mistakes stays where it was: up to 1,437 images our
# ViT catches up with nothing. (The lecture's other half, that with very many images the ViT overtakes, needs millions of them
# and not a notebook.) These curves compare two particular small models after about 300 steps, not two families in general.
#
# ## What to change next
#
# 1. `pool="mean"` to `pool="cls"` in `new_model`: the lecture's class token. Is it better with so few patches?
# 2. `shift=1` in `fit`: more data out of the data. It makes the task harder, too: compare 20 epochs with 60.
# 3. `lr=1e-1` without warm-up (`warmup=0`), and without clipping (`clip_norm=None`): which of them did the model need?
# 4. `patch_size=4, embed_dim=64, depth=4, pool="cls"` in `new_model`, `shift=1` and `epochs=60`: the model of
#    `minivit demo`. Look at the gap between training and validation loss.
# 5. `steps = 300` in the last experiment to `1000`: does the ViT with 100 images catch up, or does it only learn them
#    by heart?

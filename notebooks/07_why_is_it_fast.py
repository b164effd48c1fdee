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
# # 7 Why is it fast?
#
# An array library can compute the same numbers in one second or in five. What decides is seldom the arithmetic: it is how
# often the numbers travel between memory and processor, and whether every core has something to do. This notebook counts
# what a training step must do, measures what the machine can do, and then takes minivit's measures one at a time.
#
# The source that it explains: `minivit/backend/blocks.py` and `buffers.py`, `minivit/autograd/fused/` and
# `minivit/autograd/shares.py`; in sections 10 and 11 `minivit/backend/kernels/`. Up to there it is about array code, that is
# NumPy alone, and the compiled kernels are left out. *All times are those of the machine printed below*; on another one the
# curves move, and a measure may bring more, or nothing. Run it again on yours, with nothing beside it.

# %%
# To install, once, from the folder that holds pyproject.toml:  pip install ".[notebooks]"
import time
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import minivit as mv
from minivit.backend import buffers, for_shares, for_threads, set_num_threads, single_threaded_blas
from minivit.backend.blocks import BLOCK_BYTES
from minivit.viz.style import STYLE, line

plt.rcParams.update(STYLE)
CORES = mv.backend.num_threads()
rng = np.random.default_rng(0)
for fact in ("processor", "cores", "numpy", "blas"):
    print(f"{fact:10s} {mv.bench.machine()[fact]}")
watch = mv.bench.timing.cores_of_others()
others = watch.__enter__()  # to be asked what else ran meanwhile
without_kernels = mv.backend.array_code()
without_kernels.__enter__()  # until section 10


def seconds(calls, least=1e-3, budget=0.25):
    """Seconds per call of each candidate, timed in turn: the fastest round, since other programs only ever add.

    A round takes `least` seconds or one call, all rounds of a candidate `budget` seconds or three rounds.
    """
    often, best, rounds, start = {}, dict.fromkeys(calls, np.inf), 0, time.perf_counter()
    while rounds < 4 or time.perf_counter() - start < budget * len(calls):
        for name, call in calls.items():
            mv.bench.timing.settle()  # threads of the last one may still be waiting
            began = time.perf_counter()
            for _ in range(often.get(name, 1)):
                call()
            took = (time.perf_counter() - began) / often.get(name, 1)
            if name in often:
                best[name] = min(best[name], took)
            else:  # a first call to warm up
                often[name] = max(1, int(least / took))
        rounds += 1
    return best


def normal(*shape):
    return rng.standard_normal(shape, dtype=np.float32)


# %% [markdown]
# (The BLAS began with one thread here, hence the figure in brackets. Where it is to have more, it is told.)
#
# ## 1 What a training step is made of
#
# The model is ViT-Ti/16 with a batch of 8: B = 8 images, N = 197 tokens, width D = 192, h = 3 heads, L = 12 blocks, in
# float32. We write M = BN for the rows of tokens, and count both directions.
#
# - *A linear layer* from d to e multiplies three times: y = xW, ∂W = xᵀ∂y, ∂x = ∂y Wᵀ. That is 2Mde operations each (a
#   multiplication and an addition count as two), and each touches the same three matrices: 4(Md + de + Me) bytes.
# - *Attention* multiplies seven times, 2BN²D each: two products forward, then the scores once more and the four derivatives.
#   Another 7 passes over the BhN² scores. If the scores never leave the cache, what must be moved is q, k, v, the output and
#   their derivatives: 12MD numbers.
# - *Elementwise work*: one operation per number and pass. Counting passes in the source gives 29 for GELU (exact), 22 for
#   layer norm, 2 for the sum with the residual path. What must be moved are inputs, outputs and derivatives, once.
#
# In the last block only the class token is read: every token gives its key and value there, but only one asks, and the rest
# of the block has one row for each image instead of N. So what comes after the keys is counted L - 1 times.
#
# The bytes are a lower bound: what a program moves that touches everything once. The ratio, operations per byte, is called
# *arithmetic intensity*. We time each operation on one core, and the whole step on one and on all.

# %%
B, N, D, h, L = 8, 197, 192, 3, 12
M = B * N


def tensor(*shape):
    return mv.Tensor(normal(*shape), requires_grad=True)


def both_ways(f, *shapes):
    """A call of f and of its derivative by all inputs."""
    inputs = [tensor(*shape) for shape in shapes]
    g = normal(*f(*inputs).shape)
    return lambda: mv.grad(f(*inputs), inputs, gy=g)


def linear(d, e):
    return 6 * M * d * e, 12 * (M * d + d * e + M * e), both_ways(mv.ops.linear, (B, N, d), (d, e), (e,))


def attention(qkv):
    return mv.ops.multi_head_attention(qkv, num_heads=h)


x, y = normal(B, N, D), normal(B, N, D)
operations = {  # name: (how often, (operations, bytes, call))
    "linear D → 3D": (L, linear(D, 3 * D)),
    "attention": (L - 1, (14 * B * N**2 * D + 7 * B * h * N**2, 4 * 12 * M * D, both_ways(attention, (B, N, 3 * D)))),
    "linear D → D": (L - 1, linear(D, D)),
    "linear D → 4D": (L - 1, linear(D, 4 * D)),
    "GELU": (L - 1, (29 * 4 * M * D, 4 * 6 * 4 * M * D, both_ways(mv.ops.gelu, (B, N, 4 * D)))),
    "linear 4D → D": (L - 1, linear(4 * D, D)),
    "layer norm": (2 * L - 1, (22 * M * D, 4 * 5 * M * D, both_ways(mv.ops.layer_norm, (B, N, D), (D,), (D,)))),
    "residual sum": (2 * L - 2, (2 * M * D, 4 * 6 * M * D, lambda: (mv.ops.add(x, y), mv.ops.add(y, x)))),
}

task = mv.bench.ROWS["train-vit-ti"]  # the whole step, as `minivit bench` times it
model, labels = mv.models.ViT(task.config), rng.integers(0, task.config.num_classes, B)
images, parameters = rng.random((B, 224, 224, 3), dtype=np.float32), list(model.parameters())


def step():
    return mv.grad(mv.ops.cross_entropy(model(images), labels), parameters)


whole_all = seconds({"step": step}, budget=2)["step"]
set_num_threads(1)
whole = seconds({"step": step})["step"]
took = seconds({name: call for name, (_, (_, _, call)) in operations.items()}, budget=0.4)
set_num_threads(None)
print(f"{'':16s}{'times':>6s}{'GFLOP':>8s}{'MB':>8s}{'FLOP/byte':>11s}{'ms':>8s}{'GFLOP/s':>9s}")
total = np.zeros(3)
for name, (times, (flop, size, _)) in operations.items():
    t = took[name]
    total += times * np.array([flop, size, t])
    print(f"{name:16s}{times:6d}{times * flop / 1e9:8.2f}{times * size / 1e6:8.0f}{flop / size:11.2f}{1e3 * times * t:8.1f}"
          f"{flop / t / 1e9:9.1f}")
flop, size, t = total
print(f"{'sum of these':22s}{flop / 1e9:8.2f}{size / 1e6:8.0f}{flop / size:11.2f}{1e3 * t:8.1f}{flop / t / 1e9:9.1f}")
for name, t_step in ((f"the whole step, {CORES} cores", whole_all), ("the whole step, one core", whole)):
    print(f"{name:49s}{1e3 * t_step:8.1f}{flop / t_step / 1e9:9.1f}")
products = [name for name in operations if name.startswith("linear")]
share = sum(operations[n][0] * operations[n][1][0] for n in products) / flop
print(f"\nthe linear layers: {100 * share:.0f} % of the operations, "
      f"{100 * sum(operations[n][0] * took[n] for n in products) / t:.0f} % of the time")

# %% [markdown]
# The linear layers and attention do nearly all of the arithmetic, at dozens of operations for every byte. The rest does
# next to none, at about one operation per byte or less, and takes a part of the time all the same. (The whole step need not
# equal the sum: here each operation finds its inputs in cache from the last call; and the step also embeds patches, walks
# the graph and adds up gradients.)
#
# ## 2 What the machine can do
#
# Two limits matter. The *peak*: how many operations per second when nothing else counts, read off a large matrix product. And
# the *bandwidth*: bytes per second. Bandwidth depends on where the numbers are, so we measure it against size: `out = x + 1`,
# which reads and writes 4 bytes per number.

# %%
def copies(n):
    a, out = np.ones(n, np.float32), np.ones(n, np.float32)
    return lambda: np.add(a, 1, out=out)


def on_all_cores(n):
    todo = [copies(n // CORES) for _ in range(CORES)]
    return lambda: for_threads(lambda call: call(), todo)


sizes = 2 ** np.arange(13, 28)  # bytes of both arrays together
one = np.array([s / seconds({"": copies(s // 8)})[""] for s in sizes]) / 1e9
large = sizes[sizes >= 2**22]
every = np.array([s / seconds({"": on_all_cores(s // 8)})[""] for s in large]) / 1e9

a, b = normal(768, 768), normal(768, 768)
outs = [np.empty_like(a) for _ in range(CORES)]


def product(out):
    np.matmul(a, b, out=out)


with single_threaded_blas:
    peaks = seconds({"one": lambda: product(outs[0]), "all": lambda: for_threads(product, outs)}, budget=0.5)
peak_one = 2 * 768**3 / peaks["one"] / 1e9
peak_all = max(CORES * 2 * 768**3 / peaks["all"] / 1e9, peak_one)  # on a busy machine all may measure less than one
memory_one, memory_all = one[-2:].max(), every[-2:].max()
cache_one = one[(sizes >= 2**16) & (sizes <= 2**19)].max()

fig, ax = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
ax.loglog(sizes / 2**20, one, label="one core", **line(0))
ax.loglog(large / 2**20, every, label=f"{CORES} cores together", **line(1))
ax.set(xlabel="bytes that the loop touches (MiB)", ylabel="bandwidth (GB/s)", title="out = x + 1")
ax.set_yticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
ax.set_yticks([], minor=True)
ax.set_xticks([2.0**k for k in range(-6, 8, 2)], ["1/64", "1/16", "1/4", "1", "4", "16", "64"])
ax.set_xticks([], minor=True)
ax.grid(alpha=0.3)
ax.legend()
plt.show()
print(f"peak of the matrix product   one core {peak_one:5.0f} GFLOP/s   all cores {peak_all:5.0f} GFLOP/s")
print(f"bandwidth from memory        one core {memory_one:5.0f} GB/s      all cores {memory_all:5.0f} GB/s")
print(f"bandwidth from cache         one core {cache_one:5.0f} GB/s      (best of 64 KiB to 512 KiB)")
print(f"one NumPy pass, 8 bytes a number: at most {memory_one / 8:.1f} GFLOP/s from memory, {cache_one / 8:.1f} from cache")

# %% [markdown]
# On the left the call itself takes longer than its work. Then each step down is the end of a cache. On the right the numbers
# come from memory. (If your processor's last cache holds more than 128 MiB, as a server's may, it is that cache.)
#
# ## 3 The roofline
#
# Put both limits in one picture (Williams, Waterman and Patterson 2009). An operation with intensity I cannot run faster than
# I × bandwidth, nor faster than the peak: the roof is slanted on the left and flat on the right. A point under the slanted
# part waits for bytes, one under the flat part for arithmetic.

# %%
intensity = np.logspace(-1.6, 2.6, 200)
fig, ax = plt.subplots(figsize=(9.2, 5.2), layout="constrained")
roofs = [("one core: peak, cache", peak_one, cache_one, "black", "--"),
         ("one core: peak, memory", peak_one, memory_one, "black", "-"),
         (f"{CORES} cores: peak, memory", peak_all, memory_all, "0.6", "-")]
lines = [ax.loglog(intensity, np.minimum(top, intensity * width), color=color, linestyle=dash, linewidth=1.4, label=name)[0]
         for name, top, width, color, dash in roofs]
points = []
for i, (name, (times, (flop, size, _))) in enumerate(operations.items()):
    look = line(i) | {"linestyle": "", "markersize": 8, "markeredgecolor": "black", "markeredgewidth": 0.6}
    if i == 7:  # an eighth, beyond the seven colors
        look |= {"marker": "<", "color": "white"}
    points += ax.plot(flop / size, flop / took[name] / 1e9, **look, label=f"{name}: {1e3 * times * took[name]:.0f} ms")
for t_step, color, name in ((whole, "#F0E442", "one core"), (whole_all, "0.6", f"{CORES} cores")):
    points += ax.plot(total[0] / total[1], total[0] / t_step / 1e9, "*", color=color, markeredgecolor="black", markersize=15,
                      label=f"whole step, {name}: {1e3 * t_step:.0f} ms")
for name, place, side in (("GELU", (0, 8), "center"), ("layer norm", (0, -18), "center"), ("residual sum", (4, -18), "left")):
    flop, size, _ = operations[name][1]
    ax.annotate(name, (flop / size, flop / took[name] / 1e9), xytext=place, textcoords="offset points", ha=side,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
flop, size, _ = operations["attention"][1]
ax.annotate("attention", (flop / size, flop / took["attention"] / 1e9), xytext=(4, -18), textcoords="offset points")
ax.axvline(1 / 8, color="0.3", linestyle=":", linewidth=1)
ax.text(0.135, 0.75, "one NumPy pass", color="0.3", fontsize=9)
ax.annotate("linear layers", (100, peak_one), xytext=(0, -16), textcoords="offset points")
ax.set(xlabel="operations per byte that must be moved (FLOP/byte)", ylabel="GFLOP/s",
       title="A training step of ViT-Ti/16, batch 8: both directions of each operation, on one core")
ax.grid(alpha=0.3)
fig.legend(handles=[*points, *lines], loc="outside right center", fontsize=9)
plt.show()

# %% [markdown]
# The linear layers stand near the flat roof: they wait for arithmetic, and only a better matrix product or fewer of them
# would help. This is the wall, and `minivit bench` measures it as the *floor* of a step: its products alone, as NumPy
# computes them.
#
# GELU, layer norm and the residual sum are far below the flat roof, and no cleverer arithmetic would change that: a NumPy
# pass does one operation for 4 bytes in and 4 out, whatever happens before and after. Seen pass by pass their intensity is
# 1/8, that of `out = x + 1`, the dotted line. There the roof is low, and for numbers from memory much lower than for
# numbers from cache. Look from GELU's point to the left: at the dotted line it is above the roof of memory. So its passes
# run in cache. Attention is between: products of small matrices, with passes between them.
#
# So there are two kinds of measures: move fewer bytes, from nearer by (sections 4, 5, 6, 8), and keep all cores at work (7,
# 9).
#
# ## 4 Fusing: GELU in place
#
# The tanh form of GELU, written as in a textbook, has nine passes and makes a new array in each. Written in place, eight
# passes share one. The array is what the MLP hands to GELU for 64 images, too large for most caches. All compute the same:

# %%
x = normal(64 * N, 4 * D)
K, C = np.float32(0.7978845608), np.float32(0.044715)


def plain(x):
    return 0.5 * x * (1 + np.tanh(K * (x + C * x * x * x)))


def in_place(x, out):
    np.multiply(x, x, out=out)
    out *= C * K
    out += K
    out *= x
    np.tanh(out, out=out)
    out += 1
    out *= 0.5
    out *= x
    return out


def in_blocks(x, out, numbers=1 << 18):
    flat_x, flat_out = x.reshape(-1), out.reshape(-1)
    for start in range(0, x.size, numbers):
        in_place(flat_x[start : start + numbers], flat_out[start : start + numbers])
    return out


place, gelu = np.empty_like(x), mv.ops.gelu
variants = {
    "plain NumPy": lambda: plain(x),
    "in place": lambda: in_place(x, np.empty_like(x)),
    "in place, memory used again": lambda: in_place(x, place),
    "... in blocks of 1 MiB": lambda: in_blocks(x, place),
    f"mv.ops.gelu: the same on {CORES} cores": lambda: gelu(x, approximate=True),
}
results = [call() for call in variants.values()]
print(f"largest difference between them: {max(np.abs(r - results[0]).max() for r in results):.0e}")
del results
gelu_times = seconds(variants, budget=0.5)

fig, ax = plt.subplots(figsize=(7.4, 2.7), layout="constrained")
bars = ax.barh(list(gelu_times), [1e9 * s / x.size for s in gelu_times.values()], color=line(0)["color"])
ax.bar_label(bars, fmt="%.2f", padding=3)
ax.invert_yaxis()
ax.margins(x=0.1)
ax.set(xlabel="time per number (ns)", title=f"tanh-GELU forward, {x.shape[0]:,} × {x.shape[1]} numbers")
plt.show()

# %% [markdown]
# (The last bar needs that many free cores.) A backward pass gains likewise, and a fused operation gains once more: the graph
# keeps one value instead of nine.
#
# ## 5 Blocks that stay in cache
#
# How large should a block be? Too small, and the calls themselves cost (about a microsecond each, eight times). Too large,
# and every pass goes through memory, or the largest cache. The array has 64 MiB:

# %%
long = normal(1 << 24)
place = np.zeros_like(long)
block_sizes = 2 ** np.arange(10, 25, 2)  # numbers


def in_threads(numbers):
    starts = range(0, long.size, numbers)
    return for_threads(lambda s: in_place(long[s : s + numbers], place[s : s + numbers]), list(starts))


one_core = [seconds({"": lambda n=n: in_blocks(long, place, n)})[""] for n in block_sizes]
all_cores = [seconds({"": lambda n=n: in_threads(n)}, budget=0.5)[""] for n in block_sizes]
fig, ax = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
ax.semilogx(4 * block_sizes / 1024, 1e9 * np.array(one_core) / long.size, label="one core", **line(0))
ax.semilogx(4 * block_sizes / 1024, 1e9 * np.array(all_cores) / long.size, label=f"{CORES} cores, each takes the next block",
            **line(1))
ax.axvline(BLOCK_BYTES / 1024, ymax=0.75, color="gray", linewidth=1, linestyle=":")
ax.text(BLOCK_BYTES / 900, 0.1, "minivit's blocks", color="0.3", fontsize=9)
ax.set(xlabel="block (KiB of the input)", ylabel="time per number (ns)", ylim=(0, None), title="tanh-GELU in place, 64 MiB")
ax.set_xticks([4.0**k for k in range(1, 9)], ["4", "16", "64", "256", "1 Ki", "4 Ki", "16 Ki", "64 Ki"])
ax.set_xticks([], minor=True)
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %% [markdown]
# The curve is a bowl. On its left wall the interpreter is at work, and there threads fight over its lock. Towards the right
# fewer and fewer passes find their numbers in cache. Between them lies a wide bottom, so that one size serves many machines.
#
# ## 6 Memory used again
#
# A new large array has no memory yet. The system maps pages when they are first touched, clears them, and takes them back
# when the array dies. `minivit/backend/buffers.py` keeps what an array leaves and hands it to the next. Sixteen arrays are
# made and written, like activations on the way forward, and then all dropped:

# %%
ARRAYS = 16
bytes_ = 2 ** np.arange(16, 25)


def sixteen(make, source):
    return [np.add(source, 1, out=make(source.shape, np.float32)) for _ in range(ARRAYS)]


fresh, again = [], []
for s in bytes_:
    source = np.ones(s // 4, np.float32)
    pair = seconds({"fresh": lambda source=source: sixteen(np.empty, source),
                    "again": lambda source=source: sixteen(buffers.empty, source)})
    fresh.append(1e9 * pair["fresh"] / source.size / ARRAYS)
    again.append(1e9 * pair["again"] / source.size / ARRAYS)

fig, ax = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
ax.loglog(bytes_ / 2**20, fresh, label="new arrays each time, np.empty", **line(1))
ax.loglog(bytes_ / 2**20, again, label="memory used again, minivit.backend.empty", **line(0))
ax.set(xlabel="size of one array (MiB)", ylabel="time per number (ns)", ylim=(0.08, 9),
       title="out = x + 1 into 16 arrays, which are then dropped")
ax.set_xticks([2.0**k for k in range(-4, 6, 2)], ["1/16", "1/4", "1", "4", "16"])
ax.set_xticks([], minor=True)
ax.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
ax.set_yticks([], minor=True)
ax.grid(alpha=0.3)
ax.legend(loc="upper left")
plt.show()
costliest = np.argmax(np.divide(fresh, again))
print(f"new arrays take at most {fresh[costliest] / again[costliest]:.1f} times as long ({bytes_[costliest] >> 10} KiB each)")

# %% [markdown]
# While all sixteen together are small, the C library keeps their memory, too, and there is nothing to gain; at 64 KiB the
# microseconds that our bookkeeping takes can even lose, so `buffers.empty` leaves smaller arrays to NumPy. Where the library
# returns the memory to the system, writing to a new array takes some times as long as to an old one. A training step, with
# hundreds of arrays of a few MiB, lives there.
#
# ## 7 One BLAS thread per share
#
# The BLAS can use all cores for a product by itself. Its threads then wait *actively* for the next product, for a while, on
# cores that the elementwise work in between could use. minivit cuts the product instead, one share of rows per core, and
# holds the BLAS to one thread. Alone, and alternating with GELU as in the MLP. (Each way is timed by itself and not in turn
# with the others: soon after the BLAS's own threads were at work, shares take longer, on one machine nearly twice as long.)

# %%
rows, weight = normal(M, D), normal(D, 4 * D)
hidden = np.empty((M, 4 * D), np.float32)


def one_thread():
    with single_threaded_blas:
        np.matmul(rows, weight, out=hidden)


def blas_threads():
    np.matmul(rows, weight, out=hidden)


def shares():
    for_shares(lambda share: np.matmul(rows[share], weight, out=hidden[share]), M, M * D * 4 * D)


ways = {"one thread": one_thread, f"{CORES} shares, one BLAS thread each": shares, f"{CORES} threads of the BLAS": blas_threads}
with threadpool_limits(CORES, "blas"):
    alone = {name: seconds({name: f}, 0.02)[name] for name, f in ways.items()}
    with_gelu = {name: seconds({name: lambda f=f: (f(), mv.ops.gelu(hidden))}, 0.02)[name] for name, f in ways.items()}

fig, ax = plt.subplots(figsize=(7.4, 2.9), layout="constrained")
for i, (times, label) in enumerate(((alone, "product alone"), (with_gelu, f"product, then GELU on {CORES} cores"))):
    bars = ax.barh(np.arange(3) + 0.38 * i, [1e3 * s for s in times.values()], 0.36, color=line(i)["color"], label=label,
                   hatch=("", "///")[i], edgecolor="white")
    ax.bar_label(bars, fmt="%.2f", padding=3)
ax.set_yticks(np.arange(3) + 0.19, list(ways))
ax.invert_yaxis()
ax.margins(x=0.1)
ax.set(xlabel="time (ms)", title=f"({M}, {D}) @ ({D}, {4 * D})")
ax.legend(loc="lower right", bbox_to_anchor=(1, 1.08), ncols=2)
plt.show()

# %% [markdown]
# For the product alone the two ways are often about equal; with GELU after it, shares tend to be ahead. A single product is
# soon done, and what the threads take to begin is a part of it: neither way halves the time of one thread. In a whole step it
# adds up: the table in `docs/performance.md` has a ViT-Ti step at 523 ms instead of 601 when its small products, too, were
# held to one thread, and at 808 instead of 505 when the bias gradients alone escaped that rule.
#
# Bars for several threads mean something only if as many cores were free. (A share that no helper has begun is done by the
# thread that asked, so that on a busy machine shares fall back to the time of one thread.) Were the cores free?

# %%
print(f"so far, other programs kept {others() or 0:.1f} of {CORES} cores busy (below 0.1: trust the bars)")

# %% [markdown]
# ## 8 Attention with recomputed scores
#
# softmax(QKᵀ/√d) V goes through N² scores per head. The textbook's composition makes them, their softmax and the
# derivatives of both as whole arrays, and keeps what the way back needs. The fused operation makes some rows at a time,
# which stay in cache, and in the backward pass makes them again: a seventh product in exchange for N² numbers. (The time
# still grows with N². The relatives on the lecture's slide "Acceleration Techniques" compute fewer scores, or none.)

# %%
tokens = np.array([64, 128, 256, 512, 1024, 2048])
kinds = {"as composed: scores kept": mv.ops.scaled_dot_product_attention.reference,
         "fused: scores computed again": mv.ops.scaled_dot_product_attention}
memory, duration = {name: [] for name in kinds}, {name: [] for name in kinds}
for n in tokens:
    calls = {name: both_ways(f, (1, h, n, 64), (1, h, n, 64), (1, h, n, 64)) for name, f in kinds.items()}
    for name, call in calls.items():
        buffers._shelf.clear()  # nothing to use again: what is needed is asked from the system, and counted
        tracemalloc.start()
        call()
        memory[name].append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    set_num_threads(1)
    with single_threaded_blas:
        for name, s in seconds(calls).items():
            duration[name].append(1e3 * s)
    set_num_threads(None)

fig, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
for ax, values, label in zip(axes, (memory, duration), ("peak memory (MiB)", "time on one core (ms)")):
    for i, name in enumerate(kinds):
        ax.loglog(tokens, values[name], label=name, **line(i))
    ax.set(xlabel="tokens N", ylabel=label)
    ax.set_xticks(tokens, [str(n) for n in tokens])
    ax.set_xticks([], minor=True)
    ax.grid(alpha=0.3)
axes[0].set_title(f"one image, {h} heads of 64, both directions")
axes[0].legend()
plt.show()
for name in kinds:
    print(f"{name:30s} from N = 1024 to 2048: {memory[name][-1] / memory[name][-2]:.1f} times the memory, "
          f"{duration[name][-1] / duration[name][-2]:.1f} times the time")

# %% [markdown]
# Kept scores cost N² numbers several times over: four times the memory for twice the tokens. Recomputed, what grows with N
# is q, k, v and their derivatives; the rest is a few blocks of 2 MiB on every core, which small N do not even fill. They are
# most of the fused curve here, and why it flattens. Time grows with N² in the end, either way, for the products are the same
# and one more; from one N to the next it is three to five times as long, as the scores leave one cache after another.
# That this one more costs next to nothing at large N is what the cache gives back.
#
# ## 9 A batch computed in shares
#
# In a small model an operation takes a tenth of a millisecond, and waking a thread for half of it about as long. So the whole
# batch is cut once: every thread computes its images from end to end, and only the gradients of the parameters meet at the
# end. The model is the digits-sized one of `minivit bench`:

# %%
digits = mv.models.ViT(mv.bench.ROWS["train-digits"].config)
digits_parameters = list(digits.parameters())
batches = [4, 16, 64, 128]


def digits_step(batch):
    images, labels = rng.random((batch, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, batch)
    return lambda: mv.grad(mv.ops.cross_entropy(digits(images), labels), digits_parameters)


per_image = {"one thread": [], f"{CORES} threads, within each operation": [], f"{CORES} threads, the batch in shares": []}
in_shares, not_in_shares = (lambda batch: True), (lambda batch: False)
for batch in batches:
    call = digits_step(batch)

    def with_threads(n, cut, call=call):
        set_num_threads(n)
        digits._in_shares = cut  # whether the model cuts its batch
        call()

    found = seconds(dict(zip(per_image, (lambda: with_threads(1, not_in_shares), lambda: with_threads(CORES, not_in_shares),
                                         lambda: with_threads(CORES, in_shares)))), budget=0.5)
    for name, s in found.items():
        per_image[name].append(1e3 * s / batch)
set_num_threads(None)
del digits._in_shares

fig, ax = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
for i, (name, values) in enumerate(per_image.items()):
    ax.loglog(batches, values, label=name, **line(i))
ax.set(xlabel="batch", ylabel="training step, time per image (ms)", title="digits-sized ViT: D64, L4, N17")
ax.set_xticks(batches, [str(b) for b in batches])
ax.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
ax.set_yticks([], minor=True)
ax.set_ylim(0.2, 6)
ax.set_xticks([], minor=True)
ax.grid(alpha=0.3)
ax.legend()
plt.show()
one_thread_ms, within_ms, shares_ms = (values[2] for values in per_image.values())
print(f"batch 64: in shares {one_thread_ms / shares_ms:.2f} times as fast as one thread, threads within operations "
      f"{one_thread_ms / within_ms:.2f} times as fast")
busy = others() or 0
print(f"other programs kept {busy:.1f} of {CORES} cores busy while this notebook ran"
      + (": what it says of several threads is not to be trusted" if busy > 0.1 else ""))

# %% [markdown]
# Per image, a larger batch is cheaper on one thread already, as long as it fits into the caches: the interpreter's time is
# spread over more images. On idle cores shares lose where the batch is small, for then each thread has the interpreter's
# work for a whole step and both want its lock; with larger batches they may gain, and from 64 images on a model of this
# size uses them where kernels are not compiled. (On another machine, an AMD Zen 4, `docs/performance.md` has them against
# threads within operations: the digits-sized step, batch 64, from 33 ms to 30; MNIST-sized 123 to 106; ViT-Ti 496 to 447.
# The line above says what they bring on this one, even less than one thread on some; section 10 says what took their
# place.) If the last line above says that other programs were at work, the figure shows something else: the step is done
# when the slower of the threads is.

# %% [markdown]
# ## 10 One pass, compiled
#
# NumPy makes one pass over memory for every `+=`. A compiler makes one of all of them: `minivit/backend/kernels/kernels.c`
# says what becomes of an element or of a row, in a C that a GPU's compiler takes as well, and where the machine has a C
# compiler minivit uses it. Its threads do not meet Python's lock, so they are handed work in microseconds and shares are
# no longer needed. (Without a compiler this section compares array code with itself.)

# %%
rows, weights = rng.standard_normal((M, 4 * D), dtype=np.float32), np.ones(4 * D, np.float32)
tokens = rng.standard_normal((M, D), dtype=np.float32)
packed, into = rng.standard_normal((B, N, 3 * D), dtype=np.float32), rng.standard_normal((D, 4 * D), dtype=np.float32)
images = rng.random((64, *digits.config.image_size, 1), dtype=np.float32)
classes, params = rng.integers(0, 10, 64), list(digits.parameters())
work = {
    "GELU": lambda: mv.ops.gelu(rows),
    "layer norm": lambda: mv.ops.layer_norm(rows, weights, weights),
    "attention": lambda: mv.ops.multi_head_attention(packed, num_heads=h),
    "linear layer": lambda: mv.ops.linear(tokens, into, weights),
    "training step, digits, batch 64": lambda: mv.grad(mv.ops.cross_entropy(digits(images), classes), params),
}


def in_array_code(call):
    with mv.backend.array_code():
        return call()


without_kernels.__exit__(None, None, None)
print("kernels:", mv.backend.kernel_status())
gains = {}
for name, call in work.items():
    took_by = seconds({"array code": lambda call=call: in_array_code(call), "kernels": call}, budget=0.5)
    gains[name] = took_by["array code"] / took_by["kernels"]
    before, after = (1e3 * took_by[way] for way in ("array code", "kernels"))
    print(f"{name:32s} {before:8.2f} ms {after:8.2f} ms   {gains[name]:.1f} times as fast")

fig, ax = plt.subplots(figsize=(6.4, 2.2))
bars = ax.barh(list(gains), list(gains.values()), color=line(0)["color"])
ax.bar_label(bars, fmt="%.1f", padding=3)
ax.axvline(1, color="0.4", linewidth=1)
ax.invert_yaxis()
ax.set(xlabel="times as fast as array code", title="What compiling brings")
plt.show()

# %% [markdown]
# Where passes were the cost, as in GELU and layer norm, compiling brings most. The linear layer gains little: a library's
# product was fast before, and is matched by a page of C (`products.c`) that keeps a tile of the result in registers. A step
# gains more than its parts, weighted by their time, would make it: its blocks are computed as the next section says.
#
# ## 11 Several blocks at a time
#
# In a small model an operation is soon done, and the next one begins when the interpreter has come to it: by then the
# numbers between them have left the cache, and the cores have waited. But nobody needs the values between a block's input
# and its output. So all blocks, each z' = z + MSA(LN(z)) and z = z' + MLP(LN(z')), equations 2 and 3 of the ViT paper, can
# be one operation (`minivit/autograd/fused/encoder.py`). In its kernel each thread takes some of the images through all
# blocks. `mv.models.by_operation()` gives the single operations back; a change to a block gives back that block's.

# %%
def nodes(loss):
    """How many operations the graph of this loss holds."""
    return sum(vertex.kind == "operation" for vertex in mv.autograd.graph.graph(loss)[0])


def step_of(batch):
    return mv.grad(mv.ops.cross_entropy(digits(images_of[batch]), labels_of[batch]), params)


def by_operation(batch):
    with mv.models.by_operation():
        return step_of(batch)


batches = (4, 16, 64, 256)
images_of = {n: rng.random((n, *digits.config.image_size, 1), dtype=np.float32) for n in batches}
labels_of = {n: rng.integers(0, 10, n) for n in batches}
with mv.models.by_operation():
    print(f"{nodes(mv.ops.cross_entropy(digits(images_of[256]), labels_of[256]))} operations one by one, ", end="")
print(f"{nodes(mv.ops.cross_entropy(digits(images_of[256]), labels_of[256]))} with the blocks in one")
ways = {"one by one": by_operation, "blocks in one": step_of}
per_image = {way: [] for way in ways}
for n in batches:
    took_by = seconds({way: lambda f=f, n=n: f(n) for way, f in ways.items()}, least=0.02, budget=1)
    for way in ways:
        per_image[way].append(1e6 * took_by[way] / n)
    print(f"batch {n:3d}: " + ", ".join(f"{1e3 * took_by[way]:6.2f} ms {way}" for way in ways))

fig, ax = plt.subplots(figsize=(6.4, 3))
for i, way in enumerate(ways):
    ax.loglog(batches, per_image[way], label=way, **line(i))
ax.set_xticks(batches, batches)
ax.set(xlabel="images in a batch", ylabel="µs per image", title="A training step, digits-sized")
ax.legend()
plt.show()

# %% [markdown]
# With few images the interpreter is nearly all, and what is saved is its visits; with many it is the way to memory and
# back. (In large models, whose weights do not stay in a core's cache, neither matters much, and they are computed one by
# one. So are a few images that cannot be divided evenly among the cores of your machine: one image is not divided.)
#
# ## What it comes to
#
# - The products are the wall. A step cannot be faster than they are, and the larger the model the closer it stands to it.
# - Everything else is traffic. Fewer passes, in blocks that are still in cache, into memory that is already there.
# - Threads pay where they are handed much at a time, on cores that nobody else uses, and most where they share no lock.
#
# The whole against PyTorch and others, and what was tried and left: `minivit bench`, and `docs/performance.md`.
#
# ## What to change next
#
# - Give section 1 the shapes of the MNIST-sized model (B, N, D, h, L = 128, 50, 64, 4, 4). Predict first: which way do the
#   linear layers move in the roofline, and by what factor? (The whole step needs `train-mnist`, and 28×28×1 images.)
# - In float64 every number has 8 bytes. What becomes of both roofs? Check it.
# - Write `plain` of section 4 with `out=` in its last line only. How much of the gain is that?
# - In section 8, double the number of heads with N fixed. Which curve moves, and why?
# - Draw GELU's plain NumPy form into the roofline: 9 passes forward, each reading and writing what its arrays hold. Where
#   does the point go if the x-axis counts the bytes that it really moves?

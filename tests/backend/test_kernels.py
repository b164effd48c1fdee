"""The compiled kernels: right at the edges of their tiles and of float, one with the array code, and never in the way."""

import ctypes
import importlib
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import minivit as mv
import minivit.backend.kernels as kernels
from minivit.backend import array_code, kernel, kernel_status, set_num_threads
from minivit.backend.kernels import compiling

HERE = Path(kernels.__file__).parent
compiled = pytest.mark.skipif(
    not kernels._cpu_kernels(), reason=f"the kernels are not compiled here: {kernels._why_not or 'they are off'}"
)
multiplying = pytest.mark.skipif(
    kernel("linear", np.ones(1, np.float32)) is None, reason="there is no kernel for the linear layer on this machine"
)
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Whichever tests run before."""
    global rng
    rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    set_num_threads(request.param)
    yield request.param
    set_num_threads(None)


# ---- right ----


@compiled
@pytest.mark.parametrize(("approximate", "worst", "worst_slope"), [(False, 1.5e-7, 4e-7), (True, 1.5e-7, 2e-6)])
def test_gelu_to_the_last_digits(approximate, worst, worst_slope):
    x = np.concatenate([np.linspace(-12, 12, 200_001), [-1e30, -100.0, -0.0, 1e-40, 100.0, 1e30]]).astype(np.float32)
    y, slope = np.empty_like(x), np.empty_like(x)
    form = "gelu_tanh" if approximate else "gelu"
    kernel(form, x)(x.size, x, y)
    kernel(f"{form}_vjp", x)(x.size, np.ones_like(x), x, slope)
    exact = x.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        if approximate:
            u = math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3)
            phi = 0.5 * (1 + np.tanh(u))
            du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * exact**2)
            rest = np.where(np.abs(exact) > 50, 0, exact * 0.5 * (1 - np.tanh(u) ** 2) * du)
        else:
            phi = 0.5 * (1 + np.vectorize(math.erf)(exact / math.sqrt(2)))
            rest = exact * np.exp(-(exact**2) / 2) / math.sqrt(2 * math.pi)
        size = np.maximum(1, np.abs(exact))
    assert np.max(np.abs(y - exact * phi) / size) < worst
    assert np.max(np.abs(slope - (phi + rest))) < worst_slope


@compiled
def test_what_is_not_finite_goes_through():
    x = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    for form in ("gelu", "gelu_tanh"):
        y, slope = np.empty_like(x), np.empty_like(x)
        kernel(form, x)(4, x, y)
        kernel(f"{form}_vjp", x)(4, np.ones_like(x), x, slope)
        assert np.isnan(y[0])
        assert y[1] == np.inf
        assert np.isnan(slope[0])
        assert np.isfinite(y[3])
    for row, expected in [([np.nan, 0, 0], [np.nan] * 3), ([-np.inf, 0, 0], [0, 0.5, 0.5]), ([1e4, -1e4, 1e4], [0.5, 0, 0.5])]:
        row = np.tile(np.array(row, np.float32), 11)  # longer than a vector, and with a remainder
        expected = np.tile(np.array(expected) * 3 / 33, 11)
        np.testing.assert_allclose(mv.ops.softmax(row[None])[0], expected, rtol=1e-6)
    rows = normal(3, 64)
    rows[1, 40] = np.nan
    y = mv.ops.layer_norm(rows, np.ones(64, np.float32), np.zeros(64, np.float32))
    assert np.isnan(y).any(axis=1).tolist() == [False, True, False]
    q = normal(1, 2, 20, 16)
    k = q.copy()
    k[0, 1, 3, 5] = np.nan
    out = mv.ops.scaled_dot_product_attention(q, k, q)
    assert np.isfinite(out[0, 0]).all()
    assert np.isnan(out[0, 1]).all()


@compiled
@pytest.mark.parametrize(
    ("B", "h", "N", "M", "d", "dv"),
    [(1, 1, 1, 1, 1, 1), (2, 3, 17, 17, 16, 16), (1, 3, 64, 64, 64, 64), (2, 1, 65, 63, 24, 5), (1, 1, 3, 512, 8, 16),
     (1, 1, 130, 513, 16, 24), (1, 2, 70, 1030, 33, 32), (1, 5, 197, 197, 48, 48)],
)  # fmt: skip
def test_attention_at_the_edges_of_its_tiles(threads, B, h, N, M, d, dv):
    q, k, v, g = normal(B, h, N, d) * 2, normal(B, h, M, d) * 2, normal(B, h, M, dv), normal(B, h, N, dv)
    k[..., M // 2 :, :] *= 3  # the largest scores come late: what was summed before is scaled down
    f = mv.ops.scaled_dot_product_attention

    def run(dtype, op):
        tensors = [mv.Tensor(x.astype(dtype), requires_grad=True) for x in (q, k, v)]
        y = op(*tensors)
        return [y.data, *(t.data for t in mv.grad(y, tensors, g.astype(dtype)))]

    found = run(np.float32, f)
    for a, b in zip(found, run(np.float64, f.reference)):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    for a, b in zip(found, run(np.float32, f)):
        np.testing.assert_array_equal(a, b)  # the same threads, the same bytes


@compiled
@pytest.mark.parametrize("queries", [1, 16, 39])
def test_attention_of_the_first_tokens_only(threads, queries):
    qkv, g = normal(3, 40, 3 * 2 * 20), normal(3, queries, 2 * 20)
    found, expected = [], []
    for dtype, results, f in (("float32", found, mv.ops.multi_head_attention),
                              ("float64", expected, mv.ops.multi_head_attention.reference)):
        x = mv.Tensor(qkv.astype(dtype), requires_grad=True)
        y = f(x, num_heads=2, queries=queries)
        results += [y.data, mv.grad(y, [x], g.astype(dtype))[0].data]
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_gradient_where_nobody_asks_is_zero():
    q, k = mv.Tensor(normal(1, 2, 0, 4), requires_grad=True), mv.Tensor(normal(1, 2, 5, 4), requires_grad=True)
    y = mv.ops.scaled_dot_product_attention(q, k, k)
    np.testing.assert_array_equal(mv.grad(y.sum(), [k])[0].data, 0)


@multiplying
def test_a_bias_of_one_number(threads):
    """With one chunk, as for weights so large that they are divided: one thread adds up the bias' gradient."""
    rows = 20_000  # enough to wake the threads
    x, w, g = whole(rows, 1), whole(1, 1), whole(rows, 1)
    for _ in range(20):
        gw, gb = np.empty((1, 1), np.float32), np.empty(1, np.float32)
        kernel("linear_vjp", g)(1, rows, 1, 1, g, x, w, None, gw, gb, None)
        assert gb[0] == g.sum()
        assert gw[0, 0] == (x * g).sum()


@compiled
def test_attention_of_views_and_of_no_tokens(threads):
    packed = normal(3, 40, 3 * 2 * 20)
    whole = mv.ops.multi_head_attention(packed, num_heads=2)
    q, k, v = mv.ops.split_heads(packed, 2)
    np.testing.assert_allclose(whole, mv.ops.merge_heads(mv.ops.scaled_dot_product_attention(q, k, v)), rtol=1e-6, atol=1e-6)
    backwards = [np.ascontiguousarray(x[..., ::-1])[..., ::-1] for x in (q, k, v)]  # a last axis that runs backwards
    np.testing.assert_allclose(mv.ops.scaled_dot_product_attention(*backwards), mv.ops.scaled_dot_product_attention(q, k, v),
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    assert mv.ops.multi_head_attention(packed[:0], num_heads=2).shape == (0, 40, 40)


@compiled
def test_layer_norm_far_from_zero_and_in_threads(threads):
    x, w, b, g = normal(5000, 77) + 300, normal(77), normal(77), normal(5000, 77)
    tensors = [mv.Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = mv.ops.layer_norm(*tensors)
    exact = [mv.Tensor(a.astype(np.float64), requires_grad=True) for a in (x, w, b)]
    y64 = mv.ops.layer_norm.reference(*exact)
    np.testing.assert_allclose(y.data, y64.data, atol=3e-5 * np.abs(w).max())  # a last digit of 300, times the weight
    for a, e in zip(mv.grad(y, tensors, g), mv.grad(y64, exact, g.astype(np.float64))):
        np.testing.assert_allclose(a.data, e.data, rtol=1e-5, atol=1e-5 * np.abs(e.data).max())


@compiled
def test_a_large_eps_and_a_large_score_anywhere():
    x, w, b = normal(5, 70), normal(70), normal(70)
    exact = mv.ops.layer_norm.reference(*(a.astype(np.float64) for a in (x, w, b)), eps=0.7)
    np.testing.assert_allclose(mv.ops.layer_norm(x, w, b, eps=0.7), exact, rtol=1e-5, atol=1e-5)
    for n in (5, 16, 64, 70):
        for place in range(n):
            scores = normal(1, n)
            scores[0, place] = 1000
            np.testing.assert_allclose(mv.ops.softmax(scores)[0], np.eye(n)[place], atol=1e-30)


@compiled
@pytest.mark.parametrize("good", [[512], [511], [0], [600, 1029], [1029]])
def test_attention_whose_scores_overflow_but_for_some(good):
    """Of a tile of keys all may be -∞, and the running maximum with them."""
    q, k, v = np.full((3, 4), 1e20, np.float32), np.full((1030, 4), -1e20, np.float32), normal(1030, 5)
    k[good] = 1e-20
    tensors = [mv.Tensor(a[None, None], requires_grad=True) for a in (q, k, v)]
    y = mv.ops.scaled_dot_product_attention(*tensors)
    np.testing.assert_allclose(y.data[0, 0], np.tile(v[good].mean(axis=0), (3, 1)), rtol=1e-5, atol=1e-6)
    gv = mv.grad(y, tensors, np.ones_like(y.data))[2].data[0, 0]
    expected = np.zeros_like(v)
    expected[good] = 3 / len(good)
    np.testing.assert_allclose(gv, expected, rtol=1e-5)


@compiled
def test_attention_whose_scores_are_all_minus_infinity_has_no_answer():
    q, k = np.full((1, 1, 2, 4), 1e20, np.float32), np.full((1, 1, 600, 4), -1e20, np.float32)
    assert np.isnan(mv.ops.scaled_dot_product_attention(q, k, k)).all()


@compiled
@pytest.mark.parametrize("beta2", [0.99, 0.999, 0.9999])
def test_adam_is_the_formula(beta2):
    start, gradients = normal(300, 50), [normal(300, 50) for _ in range(4)]
    fast, plain = mv.nn.Parameter(start), mv.Tensor(start.astype(np.float64), requires_grad=True)
    optimizers = [mv.train.AdamW([p], lr=0.01, betas=(0.9, beta2)) for p in (fast, plain)]
    for g in gradients:
        fast.grad, plain.grad = mv.Tensor(g), mv.Tensor(g.astype(np.float64))
        for optimizer in optimizers:
            optimizer.step()
    np.testing.assert_allclose(fast.numpy(), plain.numpy(), rtol=1e-6, atol=1e-6)
    for moment in ("m", "v"):
        a, b = (optimizer.state_dict()[f"{moment}.0"] for optimizer in optimizers)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7 * np.abs(b).max())


# ---- on threads of their own ----


def gelu_of(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x.astype(np.float64) / math.sqrt(2)))


@compiled
def test_several_threads_of_pythons_at_once(threads):
    xs = [normal(400, 200) for _ in range(4)]
    expected = [mv.ops.gelu(x) for x in xs]
    wrong = []

    def user(i):
        for _ in range(50):
            if not np.array_equal(mv.ops.gelu(xs[i]), expected[i]):
                wrong.append(i)

    users = [threading.Thread(target=user, args=(i,)) for i in range(4)]
    for u in users:
        u.start()
    for u in users:
        u.join(60)
    assert not wrong
    np.testing.assert_allclose(expected[0], gelu_of(xs[0]), atol=1e-6)


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork():
    code = """
import os, numpy as np, minivit as mv
mv.backend.set_num_threads(2)
x = np.linspace(-3, 3, 100_000, dtype=np.float32)
total = mv.ops.gelu(x).sum()  # threads are there
child = os.fork()
if child == 0:
    os._exit(0 if mv.ops.gelu(x).sum() == total and mv.ops.gelu(x).sum() == total else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n", done.stderr


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("threads", [1, 2])
def test_without_memory_there_is_an_error(threads):
    code = f"""
import resource, numpy as np, minivit as mv
mv.backend.set_num_threads({threads})
d = 30_000
q, k, small = np.ones((1, 4, 9, d), np.float32), np.ones((1, 4, 300, d), np.float32), np.ones((1, 4, 300, 8), np.float32)
mv.ops.scaled_dot_product_attention(small, small, small)  # the threads and the kernels are there
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 20), resource.RLIM_INFINITY))
try:
    mv.ops.scaled_dot_product_attention(q, k, small)
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print((mv.ops.scaled_dot_product_attention(q, k, small) == 1).all())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "there is no memory for a kernel's work\nTrue\n", done.stderr


@compiled
def test_the_number_of_threads_may_change():
    x, w = normal(700, 96), normal(96, 130)
    try:
        for n in (1, 5, 2, 64, 1, 3):
            set_num_threads(n)
            for _ in range(3):
                np.testing.assert_allclose(mv.ops.linear(x, w), x @ w, rtol=1e-4, atol=1e-4)
    finally:
        set_num_threads(None)


def whole(*shape):
    """Numbers so small and whole that float adds up their products without rounding, in any order."""
    return rng.integers(-3, 4, shape).astype(np.float32)


@compiled
@pytest.mark.parametrize(("rows", "K", "J"), [
    (1, 1, 1), (2, 300, 5), (1500, 20, 64), (1029, 64, 20), (0, 4, 3), (64, 64, 64), (5, 7, 96), (31, 16, 48), (47, 33, 18),
    (390, 1100, 48), (33, 1030, 800), (800, 385, 113), (7, 64, 1600), (13, 900, 1000), (194, 401, 386),
    (801, 385, 113), (1602, 320, 330), (35, 50, 3090), (3080, 9, 40),
])  # on either side of every tile, panel and block of products.c
def test_linear_of_any_shape(threads, rows, K, J):
    x, w, b, g = whole(rows, K), whole(K, J), whole(J), whole(rows, J)
    for bias in (b, None):
        tensors = [mv.Tensor(a, requires_grad=True) for a in (x, w, *([] if bias is None else [b]))]
        y = mv.ops.linear(*tensors)
        np.testing.assert_array_equal(y.data, x @ w + (0 if bias is None else b))
        expected = [g @ w.T, x.T @ g, g.sum(axis=0)][: len(tensors)]
        for found, right in zip(mv.grad(y, tensors, g, retain_graph=True), expected):
            np.testing.assert_array_equal(found.data, right)
        for tensor, right in zip(tensors, expected):
            np.testing.assert_array_equal(mv.grad(y, [tensor], g, retain_graph=True)[0].data, right)


@compiled
@pytest.mark.parametrize(("rows", "K", "J"), [(700, 900, 60), (60, 64, 900), (2000, 48, 64)])
def test_linear_rounds_no_more_than_numpy(threads, rows, K, J):
    x, w, g = normal(rows, K), normal(K, J), normal(rows, J)
    tensors = mv.Tensor(x, requires_grad=True), mv.Tensor(w, requires_grad=True)
    y = mv.ops.linear(*tensors)
    found = [y.data, *(t.data for t in mv.grad(y, tensors, g))]
    for ours, (left, right) in zip(found, ((x, w), (g, w.T), (x.T, g))):
        exact = left.astype(float) @ right.astype(float)
        assert np.linalg.norm(ours - exact) < 1.5 * np.linalg.norm(left @ right - exact)


BLOCKS = [  # (B, N, D, heads, H, queries, blocks): on either side of the 400 rows that are taken at a time, and of vectors
    (1, 1, 1, 1, 1, None, 1), (3, 17, 20, 5, 33, 1, 2), (5, 170, 16, 2, 64, None, 1), (2, 401, 6, 2, 7, 1, 1),
    (7, 9, 48, 4, 96, 5, 3), (3, 200, 33, 3, 20, 200, 1), (4, 1, 12, 3, 5, 1, 2), (90, 10, 16, 2, 32, 1, 2),
    (2, 430, 24, 3, 40, 7, 2),
]  # fmt: skip


@compiled
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("shape", BLOCKS, ids=str)
def test_blocks_of_any_shape(threads, shape, biases):
    B, N, D, heads, H, queries, blocks = shape
    options = {"num_heads": heads, "queries": queries, "approximate": B % 2 == 0}
    arrays = [normal(B, N, D)]
    for i in range(blocks):
        some = biases or i == 1  # the blocks need not be alike in that
        arrays += [normal(D), normal(D), normal(D, 3 * D) / D**0.5, normal(3 * D) if some else None,
                   normal(D, D) / D**0.5, normal(D) if some else None, normal(D), normal(D), normal(D, H) / D**0.5,
                   normal(H) if some else None, normal(H, D) / H**0.5, normal(D) if biases else None]  # fmt: skip
    wanted = [i for i, a in enumerate(arrays) if a is not None]
    g = normal(B, queries or N, D)
    op = mv.ops.encoder

    def run(f, dtype, targets):
        tensors = [a if a is None else mv.Tensor(a.astype(dtype), requires_grad=True) for a in arrays]
        y = f(*tensors, **options)
        return [y.data, *(t.data for t in mv.grad(y, [tensors[i] for i in targets], g.astype(dtype)))]

    right = run(op.reference, np.float64, wanted)
    found = run(op, np.float32, wanted)
    for a, b in zip(found, right):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(np.abs(b).max(), np.abs(right[1]).max()))
    for a, b in zip(found, run(op, np.float32, wanted)):
        np.testing.assert_array_equal(a, b)  # the same threads, the same bytes
    for i, target in enumerate(wanted):  # and each alone, as for an attack
        np.testing.assert_array_equal(run(op, np.float32, [target])[1], found[1 + i])
    np.testing.assert_array_equal(op(*arrays, **options), found[0])  # nothing kept


@multiplying
def test_blocks_run_in_kernels(monkeypatch):
    called = []
    monkeypatch.setattr(kernels, "_on_cpu", {
        name: lambda *a, name=name, f=f: (called.append(name), f(*a)) for name, f in kernels._on_cpu.items()
    })
    block = mv.models.EncoderBlock(16, 2, 32)
    z = mv.Tensor(normal(8, 5, 16), requires_grad=True)
    mv.grad(block(z).sum(), [z])
    assert called == ["encoder", "encoder_vjp"]


def sanitizer():
    """The environment in which gcc's address sanitizer watches Python, or None where it cannot."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        return None
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    environment = {**os.environ, "LD_PRELOAD": found, "ASAN_OPTIONS": "detect_leaks=0"}
    if not os.path.isabs(found) or subprocess.run([sys.executable, "-c", ""], env=environment, capture_output=True).returncode:
        return None
    return environment


def once_more(tests, compiler, options, folder, environment):
    """Runs tests of this file by kernels that are compiled in another way."""
    wrapper = folder / "cc"
    wrapper.write_text(f'#!/bin/sh\nexec {compiler} "$@" {options}\n')
    wrapper.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", __file__, "-k",
         f"({tests}) and not device and not outside and not processors"],
        env={**environment, "CC": str(wrapper), "XDG_CACHE_HOME": str(folder)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert " passed" in done.stdout
    assert "compiled" not in done.stdout, "skipped: the kernels were not compiled"


@compiled
def test_nothing_is_touched_outside_of_an_array(tmp_path):
    """The tests of shapes once more, by kernels that stop the process where they leave an array."""
    environment = sanitizer()
    if environment is None:
        pytest.skip("gcc with its address sanitizer does not run here")
    tests = "linear or attention or layer_norm or large or several or blocks"
    once_more(tests, "gcc", "-O1 -fsanitize=address", tmp_path, environment)


@compiled
@pytest.mark.parametrize("options", ["-march=haswell", "-march=x86-64 -D__ARM_NEON"], ids=["vectors of 8", "of 4, as ARM's"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_other_processors_and_compilers(tmp_path, compiler, options):
    """As on machines with narrower vectors, among them those of most laptops."""
    if platform.machine() != "x86_64" or " avx2 " not in compiling._processor():
        pytest.skip("this machine does not run the code of an x86-64 processor with AVX2")
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    once_more("linear_of_any_shape or attention or layer_norm or gelu", compiler, options, tmp_path, os.environ)


@compiled
def test_the_lines_that_only_arm_gets_are_c():
    text = kernels._source()
    for here in ("defined __x86_64__ || defined __i386__", "defined __AVX512F__", "defined __AVX__"):
        assert here in text
        text = text.replace(here, "0")
    for there in ("defined __aarch64__", "defined __ARM_NEON"):
        assert there in text
        text = text.replace(there, "1")
    command = [compiling.compiler(), *compiling.OPTIONS, "-x", "c", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- never in the way ----


def test_arrays_that_no_kernel_takes_get_none():
    assert kernel("gelu", np.ones(3)) is None  # float64
    assert kernel("gelu", normal(4, 4).T) is None
    assert kernel("gelu", normal(4, 4)[:, :2]) is None
    assert kernel("attention", normal(4, 4)[:, ::2], strided=True) is None
    with array_code():
        assert kernel("gelu", normal(4)) is None


def test_rows_that_lie_no_whole_number_of_floats_apart():
    records = np.zeros((1, 1, 6), dtype=[("x", "f4", (8,)), ("tag", "i1")])
    records["x"] = normal(1, 1, 6, 8)
    q = records["x"]
    assert kernel("attention", q, strided=True) is None
    copy = q.copy()
    found, expected = (mv.ops.scaled_dot_product_attention(a, a, a) for a in (q, copy))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@compiled
def test_a_kernel_is_there_for_float32():
    assert callable(kernel("gelu", normal(4, 4)))
    assert callable(kernel("attention", normal(4, 4)[:, :2], strided=True))
    assert kernel_status().startswith("compiled by ")


# ---- on a GPU ----


def test_the_cuda_compiler_takes_every_kernel(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    shutil.copy(HERE / "kernels.c", tmp_path / "kernels.cu")
    for half in ([], ["-DHALF"]):
        done = subprocess.run([nvcc, "-arch=sm_80", "-cubin", *half, "-o", "out.cubin", "kernels.cu"], cwd=tmp_path,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


class RawModule:
    """The stand-in's: compiles the text for this processor, checks a launch as CUDA would not, and runs it once."""

    def __init__(self, *, code, options=()):
        assert set(options) <= {"-DHALF"}
        self.half = "-DHALF" in options
        self.signatures = dict(kernels._signatures(code))
        glue = "\n".join(
            f"void call_{name}({', '.join('void *' + w if '*' in k else k + ' ' + w for k, w in parameters)}) "
            f"{{ {name}({', '.join(w for _, w in parameters)}); }}"
            for name, parameters in self.signatures.items()
        )
        folder = RawModule.folder
        (folder / "k.c").write_text((HERE / "threads.c").read_text() + code + glue)
        subprocess.run(["cc", *compiling.OPTIONS, "-o", folder / "k.so", folder / "k.c", "-lm"], check=True)
        self.library = ctypes.CDLL(folder / "k.so")

    def get_function(self, name):
        def launch(grid, block, args):
            assert block == (32, 8)
            assert len(grid) == 1
            assert grid[0] >= 1
            assert len(args) == len(self.signatures[name])
            given, back = [], []
            for a, (kind, _) in zip(args, self.signatures[name]):
                if "*" not in kind:
                    assert type(a) is {"size": np.int64, "float": np.float32}[kind]
                    given.append({"size": ctypes.c_longlong, "float": ctypes.c_float}[kind](a))
                    continue
                if a is None:
                    given.append(None)
                    continue
                real = np.float16 if self.half else np.float32
                dtype = {"size *": np.int64, "float *": np.float32, "real *": real}[kind]
                assert a.dtype == dtype, f"{name}: an array of {a.dtype}, {dtype} expected"
                assert a._host.flags.c_contiguous
                host = a._host.astype(np.float32) if dtype == np.float16 else a._host
                back.append((a._host, host))
                given.append(ctypes.c_void_p(host.ctypes.data))
            self.library[f"call_{name}"](*given)
            for array, computed in back:
                if array is not computed:
                    array[...] = computed

        return launch


@pytest.fixture(params=["standin", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request, monkeypatch, tmp_path):
    """A GPU; or the stand-in with kernels: what runs them on a GPU runs, on the kernels' text for the processor."""
    monkeypatch.setattr(kernels, "_on_gpu", {})
    if request.param == "cupy":
        return importlib.import_module("cupy")
    standin = request.getfixturevalue("standin")
    RawModule.folder = tmp_path
    monkeypatch.setattr(standin, "RawModule", RawModule, raising=False)
    return standin


def on_device(xp, f, *arrays):
    tensors = [mv.Tensor(xp.asarray(a), requires_grad=True) for a in arrays]
    y = f(*tensors)
    g = np.random.default_rng(1).standard_normal(y.shape).astype(arrays[0].dtype)
    return [y.numpy(), *(t.numpy() for t in mv.grad(y, tensors, xp.asarray(g)))]


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("f", [
    lambda x: mv.ops.gelu(x), lambda x: mv.ops.gelu(x, approximate=True), lambda x: mv.ops.softmax(x),
    lambda x: mv.ops.layer_norm(x, x[0] * 0 + 1, x[1]), lambda x: mv.ops.cross_entropy(x, np.arange(40), reduction="none"),
    lambda x: mv.ops.cross_entropy(x, np.arange(40)[::-1], label_smoothing=0.1),
    lambda x: mv.ops.multi_head_attention(x.reshape(2, 20, 48), num_heads=2),
], ids=["gelu", "gelu_tanh", "softmax", "layer_norm", "cross_entropy", "smoothed", "attention"])  # fmt: skip
def test_launches_on_a_device(device, f, dtype):
    x = (2 * normal(40, 48)).astype(dtype)
    found = on_device(device, f, x)
    assert any(kernels._on_gpu.values())  # something was launched
    exact = on_device(np, f, x.astype(np.float64))
    for a, b in zip(found, exact):
        assert a.dtype == dtype
        tolerance = 1e-5 if dtype == np.float32 else 5e-3
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@compiled
def test_adam_on_a_device(device):
    start, g = normal(50, 7), normal(50, 7)
    p, host = mv.Tensor(device.asarray(start), requires_grad=True), mv.Tensor(start, requires_grad=True)
    for parameter, xp in ((p, device), (host, np)):
        opt = mv.train.Adam([parameter], lr=0.1)
        parameter.grad = mv.Tensor(xp.asarray(g))
        opt.step()
    assert ("adam", "float32", device) in kernels._on_gpu
    np.testing.assert_allclose(p.numpy(), host.numpy(), rtol=1e-6)

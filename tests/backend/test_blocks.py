"""Blocks and threads: everything is covered once, results do not depend on who computed them, and nothing is left behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivit as mv
from minivit.backend import blocks, for_blocks, for_shares, num_threads, set_num_threads
from minivit.backend.blocks import BLOCK_BYTES

module = sys.modules["minivit.backend.blocks"]  # the package shows the function of that name
MANY = 1 << 20  # bytes a row: each row is a block of its own, and threads pay


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    set_num_threads(request.param)
    yield request.param
    set_num_threads(None)


@pytest.fixture
def two_threads():
    set_num_threads(2)
    yield
    set_num_threads(None)


def blas_threads():
    from threadpoolctl import threadpool_info

    return [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]


@pytest.fixture
def blas():
    """The BLAS at three threads, and a function that tells its number."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(3, "blas"):
        if set(blas_threads()) != {3}:
            pytest.skip("this BLAS does not take the number of threads it is told")
        yield blas_threads


@given(st.integers(0, 5000), st.integers(0, 3 * BLOCK_BYTES))
def test_blocks_cover_the_rows_exactly(rows, row_bytes):
    cut = list(blocks(rows, row_bytes))
    assert [i for block in cut for i in range(rows)[block]] == list(range(rows))
    sizes = [b.stop - b.start for b in cut]
    assert all(size == 1 or size * row_bytes <= BLOCK_BYTES for size in sizes)
    assert len(set(sizes[:-1])) <= 1


@pytest.mark.parametrize("rows", [1, 10, 8192, 8193, 20_000, 10**6])
def test_blocks_are_few_and_equal(rows):
    sizes = [b.stop - b.start for b in blocks(rows, 128)]
    assert len(sizes) == -(-rows * 128 // BLOCK_BYTES)
    assert max(sizes) - min(sizes) < len(sizes)


def test_on_a_device_there_is_one_block(standin):
    assert list(blocks(10**6, 10**6, standin)) == [slice(0, 10**6)]
    assert for_shares(lambda share: share, 10**6, 1e12, standin) == [slice(0, 10**6)]


@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
@pytest.mark.parametrize("row_bytes", [8, MANY])
def test_results_come_in_the_order_of_the_blocks(threads, rows, row_bytes):
    assert for_blocks(lambda b: (b.start, b.stop), rows, row_bytes) == [(b.start, b.stop) for b in blocks(rows, row_bytes)]


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 8, 1001])
@pytest.mark.parametrize("operations", [1, 1e9])
def test_shares_cover_the_rows_exactly(threads, rows, operations):
    shares = for_shares(lambda share: share, rows, operations)
    assert [i for share in shares for i in range(rows)[share]] == list(range(rows))
    assert len(shares) <= threads
    if operations == 1e9 and rows >= 1000:
        assert len(shares) == threads
    if rows == 0:
        assert shares == [slice(0, 0)], "a product without rows is still asked for its shape"


def test_threads_take_part_where_it_pays(two_threads):
    meeting = threading.Barrier(2, timeout=20)  # passes only if two threads are in `work` at once
    names = for_blocks(lambda _: (meeting.wait(), threading.current_thread().name)[1], 2, MANY)
    assert len(set(names)) == 2
    assert len(set(for_blocks(lambda _: threading.current_thread().name, 2, MANY // 8))) == 1


def test_an_exception_is_carried_from_any_thread(threads):
    def work(block):
        if block.start == 5:
            raise KeyError("block five")

    with pytest.raises(KeyError, match="block five"):
        for_blocks(work, 20, MANY)
    assert for_blocks(lambda b: b.start, 20, MANY) == list(range(20))


def test_an_exception_in_a_helper_is_raised_when_all_have_stopped():
    set_num_threads(3)
    me, inside, after = threading.current_thread(), [0], []
    meeting = threading.Barrier(3, timeout=20)

    def work(block):
        if block.start < 3:
            meeting.wait()
        if threading.current_thread() is not me:
            inside[0] += 1
            time.sleep(0.02 * block.start)
            inside[0] -= 1
            raise OSError("helper")

    try:
        with pytest.raises(OSError, match="helper"):
            for_blocks(work, 6, MANY)
        after.append(inside[0])
    finally:
        set_num_threads(None)
    assert after == [0], "a helper was still at work on the caller's arrays"


def test_ctrl_c_stops_the_helpers_and_leaves_the_pool_usable(two_threads, blas):
    main, done = threading.current_thread(), []

    def work(block):
        if threading.current_thread() is main:
            raise KeyboardInterrupt
        time.sleep(0.005)
        done.append(block.start)

    with pytest.raises(KeyboardInterrupt):
        for_blocks(work, 1000, MANY)
    assert len(done) < 20
    so_far = len(done)
    assert blas() == [3] * len(blas())
    assert for_blocks(lambda b: b.start, 10, MANY) == list(range(10))
    assert len(done) == so_far


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
def test_a_real_ctrl_c(two_threads):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    gc.disable()  # hypothesis is called at every collection, and Python drops an exception that is raised in such a call
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            for_blocks(lambda _: time.sleep(0.002), 10_000, MANY)
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert for_blocks(lambda b: b.start, 10, MANY) == list(range(10))


def test_work_may_itself_walk_in_blocks(two_threads):
    def inner(block):
        return sum(for_blocks(lambda b: b.start, 8, MANY))

    results = []
    outer = threading.Thread(target=lambda: results.append(for_blocks(inner, 6, MANY)), daemon=True)
    outer.start()
    outer.join(20)
    assert results == [[28] * 6], "threads that wait for each other"


def test_several_threads_at_once(two_threads):
    results = {}

    def user(i):
        results[i] = [for_blocks(lambda b: i * 100 + b.start, 20, MANY) for _ in range(20)]

    users = [threading.Thread(target=user, args=(i,)) for i in range(4)]
    for u in users:
        u.start()
    for u in users:
        u.join(30)
    assert results == {i: [[i * 100 + j for j in range(20)]] * 20 for i in range(4)}


# ---- the BLAS ----


def test_products_within_run_on_one_thread_each_and_the_blas_gets_its_threads_back(two_threads, blas):
    def work(_):
        return max(get() for get, _ in module.single_threaded_blas._libraries)

    assert set(for_blocks(work, 4, MANY)) == {1}
    assert blas() == [3] * len(blas())

    def fail(_):
        raise ValueError

    with pytest.raises(ValueError):
        for_blocks(fail, 4, MANY)
    assert blas() == [3] * len(blas())


def test_the_blas_has_one_thread_where_no_thread_helps_too(blas):
    set_num_threads(1)
    try:
        assert [min(blas()) for _ in for_blocks(lambda _: None, 2, MANY)] == [3, 3]
        assert all(1 in threads for threads in for_blocks(lambda _: tuple(blas()), 2, MANY))
    finally:
        set_num_threads(None)
    assert blas() == [3] * len(blas())


def test_single_threaded_blas_may_be_nested(blas):
    with module.single_threaded_blas:
        with module.single_threaded_blas:
            pass
        assert 1 in blas()
    assert blas() == [3] * len(blas())


# ---- how many ----


def test_the_number_of_threads():
    default = num_threads()
    assert 1 <= default <= os.cpu_count()
    set_num_threads(7)
    assert num_threads() == 7
    set_num_threads(None)
    assert num_threads() == default
    with pytest.raises(ValueError, match="n: expected at least 1 thread, got 0"):
        set_num_threads(0)
    assert num_threads() == default


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own(two_threads):
    meeting = threading.Barrier(2, timeout=20)
    for_blocks(lambda _: meeting.wait(), 2, MANY)  # the pool is there
    held, leave = threading.Event(), threading.Event()

    def hold():  # another thread holds the lock while the process forks
        with module.single_threaded_blas._lock:
            held.set()
            leave.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        again = threading.Barrier(2, timeout=15)
        names = for_blocks(lambda b: (again.wait(), b.start)[1], 2, MANY)
        os._exit(0 if names == [0, 1] else 1)
    leave.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("whose", ["another thread's", "its own"])
def test_a_child_forked_within_a_block_has_all_threads_for_products(whose):
    code = f"""
import os, signal, threading
from threadpoolctl import threadpool_info
import numpy as np
from minivit.backend.blas import single_threaded_blas
def blas_threads():
    return max(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")
before, held, leave = blas_threads(), threading.Event(), threading.Event()
def hold():
    with single_threaded_blas:
        held.set()
        leave.wait(20)
def child():
    if os.fork() == 0:
        signal.alarm(20)
        return True
    leave.set()
    return os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
if {whose == "its own"}:
    with single_threaded_blas:
        child()
else:
    threading.Thread(target=hold).start()
    held.wait(20)
    child()
outside = blas_threads()
with single_threaded_blas:
    inside = blas_threads()
os._exit(0 if (outside, inside, blas_threads()) == (before, 1, before) else 1)
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, timeout=60)
    assert done.returncode == 0


# ---- the operations ----

OPERATIONS = {  # large enough that threads take part
    "linear": (mv.ops.linear, (1024, 96), (96, 128), (128,)),
    "gelu": (mv.ops.gelu, (600, 400)),
    "gelu, tanh": (lambda x: mv.ops.gelu(x, approximate=True), (600, 400)),
    "layer_norm": (mv.ops.layer_norm, (1400, 128), (128,), (128,)),
    "attention": (mv.ops.scaled_dot_product_attention, *[(30, 3, 65, 16)] * 3),
    "attention with bias": (mv.ops.scaled_dot_product_attention, *[(30, 3, 65, 16)] * 3, (3, 65, 65)),
    "multi-head attention": (lambda qkv: mv.ops.multi_head_attention(qkv, num_heads=3), (30, 65, 144)),
}


def results(name, n, dtype="float64"):
    """The value and all gradients, computed by n threads."""
    f, *shapes = OPERATIONS[name]
    draw = np.random.default_rng(1)
    xs = [mv.Tensor(draw.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]
    set_num_threads(n)
    try:
        y = f(*xs)
        gs = mv.grad(y, xs, draw.standard_normal(y.shape).astype(dtype))
        return [t.numpy().copy() for t in (y, *gs)]
    finally:
        set_num_threads(None)


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_number_of_threads_gives_the_same(name):
    one = results(name, 1)
    for n in (2, 3):
        for a, b in zip(one, results(name, n)):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(a).max())


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("n", [1, 2])
def test_one_number_of_threads_gives_the_same_bits_every_time(name, n):
    first = results(name, n, "float32")
    for _ in range(3):
        for a, b in zip(first, results(name, n, "float32")):
            np.testing.assert_array_equal(a, b)


def test_the_operations_above_do_use_threads(two_threads, monkeypatch):
    seen = set()
    run = module._run

    def spy(work, todo, worth_it):
        seen.add(worth_it and len(todo) > 1)
        return run(work, todo, worth_it)

    monkeypatch.setattr(module, "_run", spy)
    for name in OPERATIONS:
        seen.clear()
        results(name, 2)
        assert True in seen, name


@pytest.mark.parametrize("block_bytes", [1, 40, 200, 5000, 1 << 19])
@pytest.mark.parametrize("shape", [(2, 3, 21, 5), (7, 1, 2, 3), (1, 4, 1, 1), (3, 2, 100, 6)])
def test_pieces_cover_everything_once(monkeypatch, block_bytes, shape):
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    by_piece, by_part = np.zeros(shape[:3], int), np.zeros(shape[:3], int)
    for piece in module.pieces(shape, 8):
        by_piece[piece.images, piece.heads, piece.rows] += 1
        assert piece.whole == (piece.rows == slice(0, shape[2]))
        for part in piece.parts:
            by_part[part] += 1
            assert by_part[part].size * shape[3] * 8 <= max(2 * block_bytes, shape[3] * 8)
    assert (by_piece == 1).all()
    assert (by_part == 1).all()

"""Buffers: memory is used again when the last view of it is gone, never before, and never kept without bound."""

import gc
import subprocess
import sys
import threading
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivit as mv
from minivit.backend import add, buffers, concatenate, empty, empty_like, zeros

LARGE = 1 << 18  # bytes, well above the size from which memory is pooled


@pytest.fixture(autouse=True)
def own_shelf(monkeypatch):
    """An empty shelf for each test; what other tests still hold comes back to it, so sizes here are unusual ones."""
    gc.collect()
    buffers._take_back()
    monkeypatch.setattr(buffers, "_shelf", {})
    monkeypatch.setattr(buffers, "_on_shelf", 0)


def address(a):
    return a.__array_interface__["data"][0]


def on_shelf():
    buffers._take_back()
    return sum(len(memory) for memories in buffers._shelf.values() for memory in memories)


@given(st.lists(st.integers(0, 40), max_size=4), st.sampled_from(["float32", "float64", "int64", "bool", "complex128"]))
def test_shape_dtype_order(shape, dtype):
    a = empty(tuple(shape), dtype)
    assert a.shape == tuple(shape)
    assert a.dtype == dtype
    assert a.flags.c_contiguous
    assert a.flags.writeable
    assert a.flags.aligned
    a[...] = 1
    assert (a == 1).all()


def test_empty_like_takes_shape_and_dtype_but_not_the_order():
    x = np.ones((300, 400), "float32").T
    a = empty_like(x)
    assert (a.shape, a.dtype, a.flags.c_contiguous) == (x.shape, x.dtype, True)


def test_aligned():
    assert {address(empty((LARGE + 1000 * i,), "uint8")) % 64 for i in range(9)} == {0}


def test_small_arrays_are_numpys_own():
    assert empty((10, 10), "float64").base is None
    assert empty(((1 << 16) - 1,), "uint8").base is None
    assert not buffers._shelf


def test_memory_is_used_again_when_the_array_is_gone():
    a = empty((LARGE,), "uint8")
    where = address(a)
    del a
    assert on_shelf() == LARGE == buffers._on_shelf
    b = empty((LARGE // 4,), "float32")
    assert address(b) == where
    assert on_shelf() == 0 == buffers._on_shelf


def test_nearly_equal_sizes_share():
    a = empty((LARGE - 100,), "uint8")
    where = address(a)
    del a
    assert address(empty((LARGE - 5000,), "uint8")) == where


VIEWS = {
    "itself": lambda a: a,
    "slice": lambda a: a[3:9, ::2],
    "reshape": lambda a: a.reshape(-1),
    "transpose": lambda a: a.T,
    "dtype": lambda a: a.view("uint8"),
    "view of a view of a view": lambda a: a[1:].T[2:][:, 5:],
    "one element": lambda a: a[7, 7:8],
    "broadcast": lambda a: np.broadcast_to(a[0], (9, a.shape[1])),
    "memoryview": lambda a: memoryview(a),
    "frombuffer": lambda a: np.frombuffer(a, "float32"),
    "iterator": lambda a: np.nditer(a),
    "flat": lambda a: a.flat,
    "asarray": lambda a: np.asarray(a),
}


@pytest.mark.parametrize("name", VIEWS)
def test_no_memory_comes_back_while_a_view_lives(name):
    a = empty((256, 256), "float32")
    where = address(a)
    view = VIEWS[name](a)
    del a
    gc.collect()
    assert on_shelf() == 0
    b = empty((256, 256), "float32")
    assert address(b) != where
    b[...] = 5
    del view
    gc.collect()
    assert on_shelf() == 256 * 256 * 4
    assert address(empty((256, 256), "float32")) == where


def test_no_python_code_runs_when_an_array_goes():
    """A Ctrl-C that came meanwhile would be printed and forgotten, and the memory with it."""
    a = empty((LARGE,), "uint8")
    seen = []
    sys.setprofile(lambda frame, event, _: seen.append(event))
    try:
        del a
    finally:
        sys.setprofile(None)
    assert "call" not in seen
    assert on_shelf() == LARGE


def test_a_closure_and_an_exception_hold_on_too():
    a = empty((256, 256), "float32")
    hold = lambda a=a[2:]: a  # noqa: E731
    del a
    assert on_shelf() == 0
    del hold
    assert on_shelf() == 256 * 256 * 4


def test_the_shelf_has_a_limit_and_forgets_what_was_not_asked_for_longest(monkeypatch):
    monkeypatch.setattr(buffers, "_SHELF_LIMIT", 4 * LARGE)
    old = [empty((LARGE,), "uint8") for _ in range(4)]
    del old
    assert on_shelf() == 4 * LARGE
    new = [empty((2 * LARGE,), "uint8") for _ in range(2)]
    del new
    assert on_shelf() == buffers._on_shelf == 4 * LARGE
    assert {size: len(kept) for size, kept in buffers._shelf.items()} == {LARGE: 0, 2 * LARGE: 2}


def test_many_sizes_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(buffers, "_SHELF_LIMIT", 8 * LARGE)
    lent = len(buffers._lent)
    for i in range(300):
        empty((LARGE + i * 65536,), "uint8")
        assert len(buffers._lent) <= lent + 1
    for i in range(300):
        empty((LARGE + i * 65536,), "uint8")
        assert on_shelf() == buffers._on_shelf <= 8 * LARGE
    assert len(buffers._lent) == lent


def test_what_is_larger_than_the_shelf_is_given_back(monkeypatch):
    monkeypatch.setattr(buffers, "_SHELF_LIMIT", LARGE)
    empty((2 * LARGE,), "uint8")
    assert on_shelf() == buffers._on_shelf == 0


@given(st.lists(st.tuples(st.sampled_from(["take", "drop", "view"]), st.integers(0, 9)), max_size=60))
def test_live_arrays_never_share_memory(steps):
    live: list[np.ndarray] = []
    marks: list[int] = []
    for mark, (what, i) in enumerate(steps):
        if what == "take":
            live.append(empty(((1 << 16) + 4096 * (i % 3),), "uint8"))
            live[-1][:] = mark
            marks.append(mark)
        elif live and what == "drop":
            del live[i % len(live)], marks[i % len(marks)]
        elif live:  # a smaller view takes the array's place
            live[i % len(live)] = live[i % len(live)][10:-10:3]
    for a, mark in zip(live, marks):
        assert (a == mark).all()


def test_threads_never_get_the_same_memory():
    """Each thread writes its own number everywhere, waits for others to write theirs, and must find its own."""
    wrong = []

    def user(number):
        draw = np.random.default_rng(number)
        held = deque(maxlen=3)
        for step in range(300):
            a = empty(((1 << 16) * int(draw.integers(1, 3)),), "uint8")
            a[:] = number
            held.append(a[5:])
            if any(int(h[0]) != number or int(h[-1]) != number for h in held):
                wrong.append((number, step))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        users = [threading.Thread(target=user, args=(i,)) for i in range(6)]
        for u in users:
            u.start()
        for u in users:
            u.join(60)
    finally:
        sys.setswitchinterval(before)
    assert not wrong
    gc.collect()
    assert on_shelf() == buffers._on_shelf


def test_a_memory_error_or_a_bad_dtype_takes_nothing():
    lent = len(buffers._lent)
    with pytest.raises(TypeError):
        empty((LARGE,), "no such dtype")
    with pytest.raises((MemoryError, ValueError)):
        empty((1 << 62,), "uint8")
    assert len(buffers._lent) == lent


def test_arrays_that_live_at_exit_make_no_noise():
    code = "from minivit.backend import empty; a = empty((1 << 20,), 'uint8'); b = [a[3:]]; b.append(b)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_little_less_is_served_from_a_little_more():
    a = empty((LARGE * 10,), np.uint8)
    where = address(a)
    del a
    b = empty((LARGE * 9,), np.uint8)  # within an eighth
    assert address(b) == where
    del b
    assert address(empty((LARGE * 10,), np.uint8)) == where  # all of it came back
    c = empty((LARGE * 8,), np.uint8)
    assert address(c) != where
    assert on_shelf() == LARGE * 10


# ---- what is written into memory used again ----


def pooled(a):
    """Whether the array lies in memory that comes back."""
    return any(address(a) == address(np.frombuffer(memory, np.uint8)) for _, memory in buffers._lent.values())


@pytest.mark.parametrize(("x", "y"), [
    ((128, 50, 64), (128, 50, 64)), ((128, 50, 64), (1, 50, 64)), ((128, 50, 64), (64,)), ((300, 1, 64), (1, 40, 1)),
    ((3, 4), (4,)),
])  # fmt: skip
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "float64"), ("int64", "float32")])
def test_add_is_numpys_sum(x, y, dtypes):
    rng = np.random.default_rng(0)
    x, y = ((10 * rng.standard_normal(shape)).astype(dtype) for shape, dtype in zip((x, y), dtypes))
    found, expected = add(x, y), x + y
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert pooled(found) == (x.nbytes >= 1 << 16)
    out = np.empty_like(expected)
    assert add(x, y, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_zeros_are_zeros_in_memory_that_was_not():
    a = empty((300, 300), "float32")
    a.fill(5)
    where = address(a)
    del a
    found = zeros((300, 300), "float32")
    assert address(found) == where
    assert not found.any()
    assert not zeros((3,), "float64").any()


def test_concatenate_is_numpys():
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal((40, n, 30)).astype(dtype) for n, dtype in ((1, "float32"), (50, "float32"), (7, "float64")))
    for arrays, axis in (((a, b), 1), ((a, b, c), -2), ((b, b), 0), ((a, a), 2), ((a,), 1)):
        found, expected = concatenate(arrays, axis), np.concatenate(arrays, axis)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert pooled(found) == (expected.nbytes >= 1 << 16)
    np.testing.assert_array_equal(concatenate(([1, 2], [3]), 0), [1, 2, 3])
    for arrays, axis in (((a, b), 0), ((a, b), 3), ((b, b[0]), 0), ((), 0)):
        with pytest.raises(ValueError, match=r"concatenat|dimension"):
            mv.ops.concatenate(*arrays, axis=axis)

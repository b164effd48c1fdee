"""Products are NumPy's numbers on both devices, and a GPU gets its stacks of matrices without a copy."""

import itertools
import warnings

import numpy as np
import pytest

from minivit.backend import products, to_numpy
from minivit.backend.products import allow_tf32, matmul, plan
from tests import cupy_standin

RNG = np.random.default_rng(0)
ERRORS = {"float16": 5e-3, "float32": 1e-5, "float64": 1e-13}


def gemm_by_columns(asked, b, a, out):
    """What cuBLAS does with a plan: every matrix read from flat memory column by column, every number by a loop."""
    memory = [np.lib.stride_tricks.as_strided(x, (span(x),), (x.itemsize,)) for x in (b, a, out)]
    m, n, k = asked.sizes

    def read(which, start, image, row, column):
        if which < 2 and asked.transposed[which]:
            row, column = column, row
        return start[which] + image * asked.strides[which] + row + column * asked.leading[which]

    for start in asked.starts:
        for image, row, column in itertools.product(range(asked.batch), range(m), range(n)):
            total = sum(
                memory[0][read(0, start, image, row, i)] * memory[1][read(1, start, image, i, column)] for i in range(k)
            )
            memory[2][read(2, start, image, row, column)] = total


def span(x):
    return 1 + sum((n - 1) * s // x.itemsize for n, s in zip(x.shape, x.strides))


def heads(B, N, h, d, parts=1, part=0):
    """A view (B, h, N, d) into packed projections (B, N, parts·h·d), as attention has it."""
    x = RNG.normal(size=(B, N, parts * h * d))
    return x.reshape(B, N, parts, h, d).transpose(2, 0, 3, 1, 4)[part]


def stack(*shape):
    return RNG.normal(size=shape)


LAYOUTS = {  # name -> (a, b, out); how many calls it takes
    "two matrices": (lambda: (stack(3, 4), stack(4, 2), stack(3, 2)), 1),
    "both transposed": (lambda: (stack(4, 3).T, stack(2, 4).T, stack(3, 2)), 1),
    "rows of a wider matrix": (lambda: (stack(3, 9)[:, 2:6], stack(4, 5)[:, :2], stack(3, 7)[:, 1:3]), 1),
    "a stack": (lambda: (stack(5, 3, 4), stack(5, 4, 2), stack(5, 3, 2)), 1),
    "a stack, transposed": (lambda: (stack(5, 4, 3).swapaxes(1, 2), stack(5, 2, 4).swapaxes(1, 2), stack(5, 3, 2)), 1),
    "two leading axes": (lambda: (stack(2, 3, 4, 5), stack(2, 3, 5, 2), stack(2, 3, 4, 2)), 1),
    "one matrix for all": (lambda: (stack(5, 3, 4), stack(4, 2), stack(5, 3, 2)), 1),
    "one matrix for every image": (lambda: (stack(2, 3, 4, 5), stack(3, 5, 2), stack(2, 3, 4, 2)), 2),
    "a column": (lambda: (stack(2, 3, 4, 5), stack(5, 1), stack(2, 3, 4, 1)), 1),
    "a row": (lambda: (stack(3, 1, 4), stack(3, 4, 2), stack(3, 1, 2)), 1),
    "an outer product": (lambda: (stack(3, 4, 1), stack(3, 1, 2), stack(3, 4, 2)), 1),
    "every second row and image": (lambda: (stack(6, 8, 4)[::2, ::2], stack(3, 4, 2), stack(3, 4, 2)), 1),
    "q kᵀ of packed heads": (lambda: (heads(5, 4, 3, 2, 3, 0), heads(5, 4, 3, 2, 3, 1).swapaxes(2, 3), stack(5, 3, 4, 4)), 3),
    "more heads than images": (lambda: (heads(2, 4, 3, 2, 3), heads(2, 4, 3, 2, 3, 1).swapaxes(2, 3), stack(2, 3, 4, 4)), 2),
    "A v of packed heads": (lambda: (stack(2, 3, 4, 4), heads(2, 4, 3, 2, 3, 2), heads(2, 4, 3, 2)), 2),
    "Aᵀ g": (lambda: (stack(2, 3, 4, 4).swapaxes(2, 3), heads(2, 4, 3, 2), heads(2, 4, 3, 2, 3, 1)), 2),
    "one image": (lambda: (heads(1, 4, 3, 2, 3), heads(1, 4, 3, 2, 3, 1).swapaxes(2, 3), stack(1, 3, 4, 4)), 1),
    "one head": (lambda: (heads(5, 4, 1, 2, 3), heads(5, 4, 1, 2, 3, 1).swapaxes(2, 3), stack(5, 1, 4, 4)), 1),
    "one of everything": (lambda: (stack(1, 1, 1, 1), stack(1, 1, 1, 1), stack(1, 1, 1, 1)), 1),
}
REFUSED = {
    "steps within a row and a column": lambda: (stack(6, 8)[::2, ::2], stack(4, 2), stack(3, 2)),
    "backwards": lambda: (stack(3, 4)[::-1], stack(4, 2), stack(3, 2)),
    "one row for all": lambda: (np.broadcast_to(stack(4), (3, 4)), stack(4, 2), stack(3, 2)),
    "a transposed result": lambda: (stack(3, 4), stack(4, 2), stack(2, 3).T),
    "one place for many results": lambda: (stack(5, 3, 4), stack(4, 2), np.broadcast_to(stack(3, 2), (5, 3, 2))),
    "nothing": lambda: (stack(0, 3, 4), stack(0, 4, 2), stack(0, 3, 2)),
    "sums of nothing": lambda: (stack(2, 3, 0), stack(2, 0, 2), stack(2, 3, 2)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_plan_carried_out_by_columns_is_the_product(name):
    make, calls = LAYOUTS[name]
    a, b, out = make()
    expected, asked = a @ b, plan(a, b, out)
    gemm_by_columns(asked, b, a, out)
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    assert len(asked.starts) == calls


@pytest.mark.parametrize("name", REFUSED)
def test_no_plan_where_a_copy_is_needed(name):
    assert plan(*REFUSED[name]()) is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", [*LAYOUTS, *REFUSED])
def test_the_same_on_both_devices(standin, name, dtype):
    made = {**{n: make for n, (make, _) in LAYOUTS.items()}, **REFUSED}[name]()
    expected = np.matmul(made[0], made[1])
    for xp, with_out in itertools.product((np, standin), (False, True)):
        a, b, out = (moved(x, xp, dtype) for x in made)
        found = matmul(a, b, out=out if with_out else None)
        assert found is out or not with_out
        assert found.dtype == dtype
        np.testing.assert_allclose(to_numpy(found), expected, rtol=ERRORS[dtype], atol=ERRORS[dtype])


def moved(view, xp, dtype):
    """The same view, into the same memory, in another module and dtype."""
    if 0 in view.strides or min(view.strides) < 0 or view.size == 0:
        return xp.asarray(view.astype(dtype))
    base = view
    while base.base is not None:
        base = base.base
    first = (view.ctypes.data - base.ctypes.data) // view.itemsize
    memory = xp.asarray(base.reshape(-1).astype(dtype))[first:]
    steps = [s // view.itemsize * memory.itemsize for s in view.strides]
    return xp.lib.stride_tricks.as_strided(memory, view.shape, steps)


@pytest.mark.parametrize("name", LAYOUTS)
def test_views_go_to_cublas_as_they_are(standin, name):
    make, calls = LAYOUTS[name]
    a, b, out = (moved(x, standin, "float32") for x in make())
    assert matmul(a, b, out=out) is out
    assert len(cupy_standin.products) == calls
    assert "copies" not in {call["name"] for call in cupy_standin.products}


@pytest.mark.parametrize("xp_name", ["numpy", "standin"])
def test_half_precision_is_added_up_in_float32(standin, xp_name):
    xp = {"numpy": np, "standin": standin}[xp_name]
    ones = xp.ones((2, 1, 5000), "float16")
    assert float(matmul(ones, ones.swapaxes(1, 2))[0, 0, 0]) == 5000  # float16 alone gets stuck at 2048
    out = xp.empty((2, 1, 1), "float32")
    assert matmul(ones * 100, ones.swapaxes(1, 2), out=out) is out
    assert float(out[0, 0, 0]) == 500_000  # beyond float16
    out = xp.empty((1, 1), "float32")
    matmul(ones[0] * 100, ones[0].T, out=out)
    assert float(out[0, 0]) == 500_000
    assert np.isinf(float(matmul(ones * 100, ones.swapaxes(1, 2))[0, 0, 0]))  # and without a warning


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sums_of_products_of_rows(xp, dtype):
    a, b = heads(2, 3, 4, 5), heads(2, 3, 4, 5)
    found = to_numpy(products.dot_rows(xp.asarray(a.astype(dtype)), xp.asarray(b.astype(dtype))))
    assert found.dtype == products.wide(dtype)
    np.testing.assert_allclose(found, (a * b).sum(axis=-1), rtol=2 * ERRORS[dtype], atol=2 * ERRORS[dtype])
    ones = xp.ones((1, 5000), dtype)
    assert float(products.dot_rows(ones, ones)[0]) == 5000


def test_without_the_private_function_the_product_is_the_same(standin, monkeypatch):
    a, b = standin.asarray(stack(2, 3, 4)), standin.asarray(stack(2, 4, 2))
    monkeypatch.setattr(products, "_FOUND", {})
    monkeypatch.delattr(cupy_standin.MODULES["cupy_backends.cuda.libs.cublas"], "gemmStridedBatchedEx")
    with pytest.warns(UserWarning, match="slow way"):
        found = matmul(a, b)
    assert np.allclose(found.get(), a.get() @ b.get())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matmul(a, b)  # said once


@pytest.mark.parametrize("error", [TypeError("23 arguments"), RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")])
def test_if_the_private_function_refuses_the_product_is_the_same(standin, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(products, "_FOUND", {})
    monkeypatch.setattr(cupy_standin.MODULES["cupy_backends.cuda.libs.cublas"], "gemmStridedBatchedEx", refuse)
    a, b = standin.asarray(stack(2, 3, 4)), standin.asarray(stack(2, 4, 2))
    with pytest.warns(UserWarning, match=str(error)):
        found = matmul(a, b)
    assert np.allclose(found.get(), a.get() @ b.get())


# ---- TF32 ----


@pytest.fixture
def untold(monkeypatch):
    monkeypatch.setattr(products, "_allowed", None)
    monkeypatch.setattr(products, "_told", {})


def used(xp, dtype="float32"):
    """Whether TF32 was used, by a product of two matrices and by one of two stacks."""
    del cupy_standin.products[:]
    a = xp.ones((2, 3, 3), dtype)
    matmul(a[0], a[0])
    matmul(a, a)
    return [call["tf32"] for call in cupy_standin.products]


def test_tf32_is_off_until_it_is_allowed(standin, untold):
    assert used(standin) == [False, False]
    allow_tf32()
    assert used(standin) == [True, True]
    assert used(standin, "float64") == used(standin, "float16") == [False, False]
    allow_tf32(False)
    assert used(standin) == [False, False]


def test_tf32_for_a_block(standin, untold):
    with allow_tf32():
        assert used(standin) == [True, True]
        with allow_tf32(False):
            assert used(standin) == [False, False]
        assert used(standin) == [True, True]
    assert used(standin) == [False, False]


def test_what_cupy_was_told_otherwise_stands(standin, untold):
    cupy_standin._set_compute_type("float32", 7)  # what CUPY_TF32=1 does
    assert used(standin) == [True, True]
    with allow_tf32(False):
        assert used(standin) == [False, False]
    assert used(standin) == [True, True]


def test_tf32_is_a_yes_or_a_no(untold):
    with pytest.raises(TypeError, match=r"allowed: expected True or False, got 'yes'"):
        allow_tf32("yes")


def test_on_the_cpu_tf32_is_nothing(untold):
    a = stack(3, 3).astype("float32")
    with allow_tf32():
        assert (matmul(a, a) == a @ a).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_on_a_gpu(name, dtype):
    import cupy

    made = LAYOUTS[name][0]()
    a, b, out = (moved(x, cupy, dtype) for x in made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matmul(a, b, out=out)
    np.testing.assert_allclose(out.get(), made[0] @ made[1], rtol=ERRORS[dtype], atol=ERRORS[dtype])

"""The floor multiplies exactly what the step multiplies."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import minivit as mv
from minivit.bench import floor
from minivit.bench.rows import ROWS, STEPS
from minivit.models.counting import macs_of
from tests.bench import tiny


def counted(task):
    """(multiply-accumulates of the forward pass, those of attention, those of the patch embedding), of the whole batch."""
    c = task.config
    patches = c.image_size[0] * c.image_size[1] // c.patch_size**2
    N = patches + 1
    attention = 2 * ((c.depth - 1) * N + 1) * N * c.embed_dim  # in the last block only the class token asks
    first = patches * c.patch_size**2 * c.channels * c.embed_dim
    image = mv.Tensor(np.zeros((1, *c.image_size, c.channels), np.float32), requires_grad=True)
    whole = macs_of(mv.models.ViT(c)(image))
    return np.array([whole, attention, first]) * task.batch


@pytest.mark.parametrize("task", [tiny.TRAIN, tiny.INFER, tiny.PGD, ROWS["train-digits"], ROWS["tokens-50"]],
                         ids=lambda task: task.about)  # fmt: skip
def test_as_many_multiplications_as_the_step(task):
    forward, attention, first = counted(task)
    expected = {
        "train": 3 * forward - first,  # forward, and two products for each; nobody asks for the gradient of the pixels
        "infer": forward,
        "pgd": STEPS * (2 * forward + attention),  # no gradient of a weight, but attention multiplies two variables
    }
    assert sum(product.macs for product in floor.products(task)) == expected[task.what]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_shares_make_the_product(threads):
    todo = [floor.Product(1, 7, 4, 5), floor.Product(1, 7, 4, 5, "left"), floor.Product(6, 5, 4, 3, "right"),
            floor.Product(13, 5, 4, 3, "left"), floor.Product(2, 8, 4, 3)]  # fmt: skip
    for left, right, out in floor._operands(todo):
        out.fill(np.nan)
        for i in range(threads):
            floor._multiply([floor._share(left, right, out, i, threads)])
        np.testing.assert_allclose(out, left @ right, rtol=1e-6)


def test_a_transposed_operand_is_a_view_of_a_contiguous_one():
    ((left, right, out),) = floor._operands([floor.Product(1, 7, 4, 5, "left")])
    assert left.shape == (7, 4)
    assert left.T.flags.c_contiguous
    assert right.flags.c_contiguous
    assert out.shape == (7, 5)


def test_each_way_uses_the_threads_it_says(monkeypatch):
    seen = []

    def watch(triples):
        blas = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
        seen.append((threading.current_thread().name.partition("_")[0], len(triples), set(blas)))

    ways = floor.candidates(tiny.TRAIN, threads=2)
    monkeypatch.setattr(floor, "_multiply", watch)
    count = len(floor.products(tiny.TRAIN))
    ways["floor, threaded BLAS"]()
    assert seen == [("MainThread", count, {2})]
    seen.clear()
    ways = floor.candidates(tiny.TRAIN, threads=2)
    ways["floor, BLAS per thread"]()
    assert seen == [("floor", count, {1})] * 2

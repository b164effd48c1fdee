"""The floor of a row: its matrix products alone, as NumPy computes them, and nothing else. No NumPy program that multiplies
these matrices is faster.

(Compiled products of one's own, as the kernels have them, may still be; so may products that stay in cache because they
are cut into blocks: attention of thousands of tokens, say.) The shapes, the numbers of products and their transposes are
those of the step. The outputs have their place beforehand, the operands are shared by all layers, nothing waits for
anything. Two ways to use the cores are timed, and the better one counts: products one after the other on the BLAS's
threads, and threads that each take their share of every product on a BLAS of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from minivit.bench.rows import STEPS, Task


class Product(NamedTuple):
    """batch × (n, d) @ (d, e); a transposed operand is kept as (d, n) or (e, d) and handed over as a view."""

    batch: int
    n: int
    d: int
    e: int
    transposed: str = ""  # "left" or "right"

    @property
    def macs(self) -> int:
        return self.batch * self.n * self.d * self.e


def products(task: Task) -> list[Product]:
    """The products of one step, in the order of the forward pass, each followed by those of its derivative."""
    c: Any = task.config
    B = task.batch
    patches = (c.image_size[0] // c.patch_size) * (c.image_size[1] // c.patch_size)
    N, D, h = patches + (c.pool == "cls"), c.embed_dim, c.num_heads
    training, attacking = task.what == "train", task.what == "pgd"

    def linear(rows: int, d_in: int, d_out: int, input_gradient: bool = training or attacking) -> list[Product]:
        found = [Product(1, rows, d_in, d_out)]  # y = x W
        if training:
            found.append(Product(1, d_in, rows, d_out, "left"))  # dW = xᵀ dy
        if input_gradient:
            found.append(Product(1, rows, d_out, d_in, "right"))  # dx = dy Wᵀ
        return found

    def attention(batch: int, queries: int, d: int) -> list[Product]:
        found = [Product(batch, queries, d, N, "right"), Product(batch, queries, N, d)]  # S = Q Kᵀ, O = A V
        if training or attacking:
            found += [Product(batch, queries, d, N, "right"), Product(batch, N, queries, d, "left")]  # dA = dO Vᵀ, dV = Aᵀ dO
            found += [Product(batch, queries, N, d), Product(batch, N, queries, d, "left")]  # dQ = dS K, dK = dSᵀ Q
        return found

    def block(tokens: int) -> list[Product]:  # `tokens`: how many are wanted of the result
        hidden = round(D * c.mlp_ratio)
        return [*linear(B * N, D, 3 * D), *attention(B * h, tokens, D // h), *linear(B * tokens, D, D),
                *linear(B * tokens, D, hidden), *linear(B * tokens, hidden, D)]  # fmt: skip

    # an attack wants the gradient of the pixels, training does not
    first = linear(B * patches, c.patch_size**2 * c.channels, D, input_gradient=attacking)
    blocks = (c.depth - 1) * block(N) + block(1 if c.pool == "cls" else N) if c.depth else []
    once = [*first, *blocks, *linear(B, D, c.num_classes)]
    return once * (STEPS if attacking else 1)


def candidates(task: Task, threads: int) -> dict[str, Callable[[], Any]]:
    """The two ways, by name."""
    from threadpoolctl import ThreadpoolController

    blas = ThreadpoolController()
    whole = _operands(products(task))
    shares = [[_share(*triple, i, threads) for triple in whole] for i in range(threads)]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="floor")

    def one_after_the_other() -> None:
        with blas.limit(limits=threads, user_api="blas"):
            _multiply(whole)

    def shared_out() -> None:
        with blas.limit(limits=1, user_api="blas"):
            list(pool.map(_multiply, shares))

    return {"floor, threaded BLAS": one_after_the_other, "floor, BLAS per thread": shared_out}


def _multiply(triples: list[tuple[Any, Any, Any]]) -> None:
    for left, right, out in triples:
        np.matmul(left, right, out=out)


def _operands(todo: list[Product]) -> list[tuple[Any, Any, Any]]:
    """(left, right, out) of each product; equal products use the same arrays."""
    rng = np.random.default_rng(0)

    def matrices(batch: int, rows: int, columns: int, transposed: bool = False) -> Any:
        shape = (columns, rows) if transposed else (rows, columns)
        array = rng.random((batch, *shape) if batch > 1 else shape, dtype=np.float32)
        return array.swapaxes(-1, -2) if transposed else array

    made = {
        p: (matrices(p.batch, p.n, p.d, p.transposed == "left"), matrices(p.batch, p.d, p.e, p.transposed == "right"),
            matrices(p.batch, p.n, p.e))
        for p in set(todo)
    }  # fmt: skip
    return [made[p] for p in todo]


def _share(left: Any, right: Any, out: Any, i: int, of: int) -> tuple[Any, Any, Any]:
    """The i-th part of a product: some matrices of a batch, or some rows of the result where they do not go round."""
    if out.ndim == 3 and (len(out) % of == 0 or len(out) >= 4 * of):
        part = slice(i * len(out) // of, (i + 1) * len(out) // of)
        return left[part], right[part], out[part]
    rows = slice(i * out.shape[-2] // of, (i + 1) * out.shape[-2] // of)
    return left[..., rows, :], right, out[..., rows, :]

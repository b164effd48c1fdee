"""Matrix products where arrays live: NumPy's on the CPU, cuBLAS's tensor cores on a GPU, without copies.

    products.matmul(a, b, out=scores)       # (..., n, k) @ (..., k, m) -> (..., n, m), on either device
    with allow_tf32(): ...                  # on a GPU, float32 products may round their operands to 10 bits

Two things are the same on both devices. Operands of float16 are multiplied exactly and added up in float32 (Micikevicius
et al. 2018, "Mixed Precision Training", section 3.3), and `out` may be float32 then, so that nothing is rounded twice.

Why not `cupy.matmul` alone: for two matrices it hands views and transposed views to cuBLAS as they are. For stacks of
matrices, of which attention consists, it copies every transposed view, converts float16 to float32 and knows no TF32.
cuBLAS itself needs none of this: `gemmStridedBatchedEx` takes a stack if its matrices lie at equal distances, and a
transposed matrix by a flag. `plan` finds these numbers for the arrays at hand; it is plain arithmetic on shapes and
strides. CuPy offers the function in a module that it does not call public: where it is missing or refuses,
`cupy.matmul` computes the same more slowly.
"""

from __future__ import annotations

import importlib
import itertools
import warnings
from typing import Any, NamedTuple

import numpy as np

from minivit.backend.arrays import array_module


def matmul(a: Any, b: Any, out: Any = None) -> Any:
    """a @ b over the last two axes; the leading ones broadcast. Both have two axes at least, and one dtype.

    Args:
        out: where to write, of the result's shape, any view; in the operands' dtype, or float32 for float16 operands.
    """
    if type(a) is np.ndarray:
        return _on_cpu(a, b, out)
    xp = array_module(a, b)
    return _on_cpu(a, b, out) if xp is np else _on_gpu(xp, a, b, out)


def dot_rows(a: Any, b: Any) -> Any:
    """Σ a b over the last axis, (..., n), (..., n) -> (...); of float16, in float32.

    On a CPU einsum reads each number once. CuPy's einsum would make a matrix product of every row, 1×n times n×1.
    """
    xp, dtype = array_module(a, b), wide(a.dtype)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    return xp.einsum("...n,...n->...", a, b) if xp is np else (a * b).sum(axis=-1)


def wide(dtype: Any) -> np.dtype:
    """The dtype in which products of this dtype are added up: float32 for float16, otherwise itself."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _on_cpu(a: Any, b: Any, out: Any) -> Any:
    if a.dtype != np.float16 or b.dtype != np.float16:
        return np.matmul(a, b, out=out)
    with np.errstate(over="ignore", invalid="ignore"):  # what float16 does not hold is inf, as on a GPU
        product = np.matmul(a.astype(np.float32), b.astype(np.float32))  # exact products: 11 bits times 11 bits
        if out is None:
            return product.astype(np.float16)
        out[...] = product
    return out


# ---- a GPU ----


class Gemm(NamedTuple):
    """The arguments of `cublasGemmStridedBatchedEx`; strides and places count elements.

    cuBLAS reads memory column by column. To it a matrix of ours, stored row by row, is its transpose. So it is asked for
    outᵀ = bᵀ aᵀ: its first operand is our b, its second our a, and nothing is moved.
    """

    transposed: tuple[bool, bool]  # whether its first and second operand are to be transposed
    sizes: tuple[int, int, int]  # rows and columns of outᵀ, and the length of the sums
    leading: tuple[int, int, int]  # from one column, as it reads them, to the next: in b, a, out
    strides: tuple[int, int, int]  # from one matrix of the stack to the next: in b, a, out
    batch: int  # matrices in the stack
    starts: tuple[tuple[int, int, int], ...]  # where b, a, out begin: one call for each


def plan(a: Any, b: Any, out: Any) -> Gemm | None:
    """How cuBLAS computes out = a @ b for arrays of these shapes and strides, or None where it cannot without a copy.

    A stack has one stride only. Leading axes that can be walked in one stride count as one; what is left, such as the
    images and heads of `_head_views` in attention, is a stack along the longest axis, with a call for each place of the
    others.
    """
    if 0 in out.shape or a.shape[-1] == 0:
        return None
    steps = [[s // x.itemsize for s in x.strides] for x in (b, a, out)]
    matrices = [_read_by_columns(x.shape[-2:], step[-2:]) for x, step in zip((b, a, out), steps)]
    if None in matrices or any(s % x.itemsize for x in (b, a, out) for s in x.strides):
        return None
    (b_flag, b_leading), (a_flag, a_leading), (out_flag, out_leading) = matrices  # type: ignore[misc]
    if out_flag:
        return None
    axes: list[tuple[int, ...]] = []  # (length, stride in b, in a, in out), from the outermost to the innermost
    for i, n in enumerate(out.shape[:-2], -out.ndim):
        walk = [step[i] if x.ndim >= -i and x.shape[i] > 1 else 0 for x, step in zip((b, a, out), steps)]
        if n == 1:
            continue
        if walk[2] == 0:
            return None  # many results for one place
        if axes and all(outer == n * inner for outer, inner in zip(axes[-1][1:], walk)):
            axes[-1] = (axes[-1][0] * n, *walk)
        else:
            axes.append((n, *walk))
    *others, (batch, *strides) = sorted(axes, key=lambda axis: axis[0]) or [(1, 0, 0, 0)]
    starts = tuple(
        tuple(sum(i * axis[1 + x] for i, axis in zip(place, others)) for x in range(3))
        for place in itertools.product(*(range(axis[0]) for axis in others))
    )
    sizes = (out.shape[-1], out.shape[-2], a.shape[-1])
    return Gemm((b_flag, a_flag), sizes, (b_leading, a_leading, out_leading), tuple(strides), batch, starts)  # type: ignore[arg-type]


def _read_by_columns(shape: tuple[int, int], steps: list[int]) -> tuple[bool, int] | None:
    """(whether to transpose, leading dimension) so that one who reads by columns finds the transpose of this matrix."""
    (rows, columns), (down, across) = shape, steps
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):  # row by row: it is found as it is
        return False, columns if rows == 1 else down
    if (down == 1 or rows == 1) and (across >= rows or columns == 1):  # a transposed view
        return True, rows if columns == 1 else across
    return None


_ONE, _ZERO = ({size: np.array(x, dtype) for size, dtype in ((2, "f4"), (4, "f4"), (8, "f8"))} for x in (1, 0))


def _on_gpu(cupy: Any, a: Any, b: Any, out: Any) -> Any:
    _settle_tf32(cupy)
    plain = out is None or (out.dtype == a.dtype and out.flags.c_contiguous)
    if a.dtype != b.dtype or a.dtype.char not in "efd" or (plain and a.ndim == b.ndim == 2):
        return _by_cupy(cupy, a, b, out)
    if out is None:
        out = cupy.empty((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
    asked = plan(a, b, out) if out.dtype in (a.dtype, wide(a.dtype)) else None
    cublas = _cublas(cupy)
    if asked is None or cublas is None:
        return _by_cupy(cupy, a, b, out)
    types = [cublas.TYPES[x.dtype.char] for x in (b, a, out)]
    compute = cublas.compute_type(a.dtype)
    pointers = b.data.ptr, a.data.ptr, out.data.ptr
    one, zero = (number[a.itemsize].ctypes.data for number in (_ONE, _ZERO))
    try:
        for start in asked.starts:
            first, second, result = (p + i * x.itemsize for p, i, x in zip(pointers, start, (b, a, out)))
            cublas.gemm(
                cupy.cuda.get_cublas_handle(), *map(int, asked.transposed), *asked.sizes,
                one, first, types[0], asked.leading[0], asked.strides[0],
                second, types[1], asked.leading[1], asked.strides[1],
                zero, result, types[2], asked.leading[2], asked.strides[2],
                asked.batch, compute, cublas.algorithm,
            )  # fmt: skip
    except (TypeError, RuntimeError) as error:  # another signature; or cuBLAS's own refusal
        warnings.warn(f"products of stacks of matrices take the slow way through cupy.matmul: {error}", stacklevel=3)
        return _by_cupy(cupy, a, b, out)
    return out


def _by_cupy(cupy: Any, a: Any, b: Any, out: Any) -> Any:
    if out is None or (out.dtype == cupy.result_type(a, b) and out.flags.c_contiguous):
        return cupy.matmul(a, b, out=out)
    out[...] = cupy.matmul(a.astype(out.dtype, copy=False), b.astype(out.dtype, copy=False))
    return out


class _Cublas:
    """What is needed of CuPy's inner modules, under one roof. Raises ImportError or AttributeError where it is missing."""

    def __init__(self) -> None:
        library = importlib.import_module("cupy_backends.cuda.libs.cublas")
        runtime = importlib.import_module("cupy_backends.cuda.api.runtime")
        self._linalg = importlib.import_module("cupy._core._routines_linalg")
        self.gemm = library.gemmStridedBatchedEx
        self.algorithm = library.CUBLAS_GEMM_DEFAULT
        self.TYPES = {"e": runtime.CUDA_R_16F, "f": runtime.CUDA_R_32F, "d": runtime.CUDA_R_64F}
        self._single, self._double = library.CUBLAS_COMPUTE_32F, library.CUBLAS_COMPUTE_64F
        self._tf32 = library.CUBLAS_COMPUTE_32F_FAST_TF32

    def compute_type(self, dtype: Any) -> int:
        """In what operands of a dtype are multiplied and added up. CuPy remembers for both of us whether TF32 is allowed."""
        if dtype.char == "f" and self._linalg.get_compute_type("float32") == self._linalg.COMPUTE_TYPE_TF32:
            return self._tf32
        return self._double if dtype.char == "d" else self._single


_FOUND: dict[Any, _Cublas | None] = {}  # the module cupy -> its cuBLAS, or None


def _cublas(cupy: Any) -> _Cublas | None:
    if cupy not in _FOUND:
        try:
            _FOUND[cupy] = _Cublas()
        except (ImportError, AttributeError) as error:
            warnings.warn(f"products of stacks of matrices take the slow way through cupy.matmul: {error}", stacklevel=4)
            _FOUND[cupy] = None
    return _FOUND[cupy]


# ---- TF32 ----


_allowed: bool | None = None  # what `allow_tf32` said last; None: nothing, and CuPy's own setting stands
_told: dict[Any, list[Any]] = {}  # the module cupy -> [its own setting, what it was told last]


class allow_tf32:  # noqa: N801, read as a function
    """On a GPU, lets products of float32 matrices round their operands to TF32, which keeps 10 bits of 23.

        mv.allow_tf32()                 # from now on; mv.allow_tf32(False) ends it
        with mv.allow_tf32(): ...       # at the end of the block it is as before

    Off at first, unless CuPy was started with CUPY_TF32=1. Sums stay float32. It holds for the whole process, in all
    threads, since CuPy keeps it so; GPUs without TF32 (before NVIDIA's Ampere), the CPU and other dtypes ignore it.
    """

    def __init__(self, allowed: bool = True) -> None:
        global _allowed
        if not isinstance(allowed, bool):
            raise TypeError(f"allowed: expected True or False, got {allowed!r}")
        self._before, _allowed = _allowed, allowed

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        global _allowed
        _allowed = self._before


def _settle_tf32(cupy: Any) -> None:
    """Tells CuPy, before a product, what was allowed; not sooner, since CuPy then asks the GPU whether it has TF32."""
    if _allowed is None and cupy not in _told:
        return
    if cupy in _told and _told[cupy][1] is _allowed:
        return
    linalg = importlib.import_module("cupy._core._routines_linalg")
    own = _told.setdefault(cupy, [linalg.get_compute_type("float32"), None])
    setting = own[0] if _allowed is None else linalg.COMPUTE_TYPE_TF32 if _allowed else linalg.COMPUTE_TYPE_DEFAULT
    linalg.set_compute_type("float32", setting)
    own[1] = _allowed

"""Compiled twins of the fused operations' array code, where something can compile them.

    fast = kernel("gelu", x)            # a function, or None: then use the array code
    if fast: fast(x.size, x, out)

`kernels.c` holds them, written once for both machines: CuPy compiles it for a GPU, the system's C compiler for the
processor, when the first one is asked for; the result is kept in the user's cache. Beside it stands what only the
processor needs: its threads (`threads.c`), products (`products.c`), and with them the linear layer, attention and whole
blocks (`linear.c`, `attention.c`, `encoder.c`). Where there is no compiler, the array code computes the same,
with more passes over memory.
A kernel takes float32 arrays in C order (on a GPU float16 too), divides large ones among the cores, and lets Python's
other threads run meanwhile.

MINIVIT_KERNELS=off in the environment, or `with array_code():` for a while, leaves everything to the array code.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minivit.backend.blocks import num_threads

_HERE = Path(__file__).parent
_SIGNATURE = re.compile(r"^KERNEL (\w+)\((.*?)\) \{", re.MULTILINE | re.DOTALL)
_FILES = ("threads.c", "kernels.c", "products.c", "linear.c", "attention.c", "encoder.c")
WORTH_THREADS = 1 << 14  # elements of one of a kernel's first arrays; the threads take some microseconds to begin and to end

_FLOAT32 = np.dtype(np.float32)  # which is quicker to compare with than its class
_off = ["MINIVIT_KERNELS"] if os.environ.get("MINIVIT_KERNELS", "").lower() in ("off", "0", "no") else []  # by what
_lock = threading.RLock()
_compiling = False
_on_cpu: dict[str, Callable[..., None]] | None = None  # None: not compiled yet; empty: cannot be
_why_not = ""
_on_gpu: dict[tuple[str, str, Any], Callable[..., None] | None] = {}


def kernel(name: str, *arrays: Any, strided: bool = False) -> Callable[..., None] | None:
    """The kernel of that name for these arrays, or None: then use the array code.

    The kernel takes numbers and arrays in the order of its line in `kernels.c`; None stands for an array that is not
    wanted. It writes to its last arguments and returns nothing. With `strided`, only the numbers along the last axis need
    to lie side by side.
    """
    if _off:
        return None
    for a in arrays:
        if type(a) is not np.ndarray:
            return _gpu_kernel(name, arrays)
        flags = a.flags
        if a.dtype != _FLOAT32 or not (a.strides[-1] == 4 if strided else flags.c_contiguous) or not flags.aligned:
            return None
    return (_cpu_kernels() if _on_cpu is None else _on_cpu).get(name)


@contextmanager
def array_code() -> Iterator[None]:
    """Within this block no kernel is used, in any thread: for tests and comparisons."""
    _off.append("array_code()")  # blocks of several threads may overlap
    try:
        yield
    finally:
        _off.remove("array_code()")


def kernels_on_cpu() -> bool:
    """Whether the processor's kernels can be used."""
    return not _off and bool(_cpu_kernels())


def kernel_status() -> str:
    """For `minivit info`: what compiles the CPU's kernels, or why the array code runs alone."""
    if _off:
        return f"off ({_off[0]})"
    if not _cpu_kernels():
        return f"none: {_why_not}"
    from minivit.backend.kernels.compiling import compiler

    return f"compiled by {Path(compiler() or '?').name}"


# ---- on the processor ----


def _cpu_kernels() -> dict[str, Callable[..., None]]:
    global _on_cpu, _why_not, _compiling
    with _lock:
        if _compiling:
            return {}  # a signal came while this thread compiles, and who answers it computes something
        if _on_cpu is None:
            from minivit.backend.kernels import compiling

            _compiling = True
            try:
                _on_cpu = _load(compiling.library(_source()))
            except Exception as error:
                _on_cpu, _why_not = {}, str(error) or repr(error)
            finally:
                _compiling = False
        return _on_cpu


def _after_fork() -> None:
    """In the child: a lock that another thread held stays locked there."""
    global _lock, _compiling
    _lock, _compiling = threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _source() -> str:
    """All kernels, and for each a function `call_...` that finds the data of the NumPy arrays it is handed.

    An array is handed over as its address, which Python knows at once, where asking NumPy for the address of its data
    takes a microsecond. In the array's struct the data pointer follows the object's header, in every version of NumPy:
    extension modules compiled years ago read it there too. `DATA` finds it for arrays whose addresses are in another one.

    A kernel `..._end` takes what the one of the same name took, on one thread when that one is done.
    """
    text = f"typedef struct {{ char header[{object.__basicsize__}]; void *data; }} array;\n"
    text += "#define DATA(a) ((a) ? ((array *)(a))->data : 0)\n"
    text += "".join((_HERE / name).read_text(encoding="utf-8") for name in _FILES)
    names = [name for name, _ in _SIGNATURE.findall(text)]
    glue = []
    for name, parameters in _signatures(text):
        handed = ", ".join(f"{'array *' if '*' in kind else kind + ' '}{word}" for kind, word in parameters)
        fields = " ".join(f"{'void *' if '*' in kind else kind + ' '}{word};" for kind, word in parameters)
        values = ", ".join(f"DATA({word})" if "*" in kind else word for kind, word in parameters)
        taken = ", ".join(f"a->{word}" for _, word in parameters)
        end = f"{name}_end({taken.replace('a->', 'a.')});" if f"{name}_end" in names else ""
        glue.append(f"""
typedef struct {{ {fields} }} arguments_of_{name};
static void work_of_{name}(const void *arguments) {{ const arguments_of_{name} *a = arguments; {name}({taken}); }}
int call_{name}(size threads, {handed}) {{
    arguments_of_{name} a = {{{values}}};
    if (!in_parts(work_of_{name}, &a, threads)) return 0;
    {end}
    return 1;
}}
""")
    return text + "".join(glue)


def _signatures(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """(name, [(type, parameter), ...]) of every kernel: of arrays "real *", "float *" or "size *"."""
    found = []
    for name, parameters in _SIGNATURE.findall(text):
        if name.endswith("_end"):
            continue
        pairs = []
        for parameter in parameters.split(","):
            kind, _, word = parameter.strip().removeprefix("const ").rpartition(" ")
            pairs.append((f"{kind} *", word[1:]) if word.startswith("*") else (kind, word))
        found.append((name, pairs))
    return found


def _load(path: Path) -> dict[str, Callable[..., None]]:
    import ctypes

    library = ctypes.CDLL(str(path))
    found = {name: _caller(library[f"call_{name}"], parameters) for name, parameters in _signatures(_source())}
    if not library.products_pay():
        found = {name: call for name, call in found.items() if not name.startswith(("linear", "encoder"))}
    return found


def _caller(function: Any, parameters: list[tuple[str, str]]) -> Callable[..., None]:
    from ctypes import c_float, c_int, c_longlong, c_void_p

    function.restype = c_int
    function.argtypes = [c_longlong, *({"size": c_longlong, "float": c_float}.get(kind, c_void_p) for kind, _ in parameters)]
    first = [i for i, (kind, _) in enumerate(parameters) if kind == "real *"][:4]

    def call(*args: Any) -> None:
        large = any(args[i] is not None and args[i].size >= WORTH_THREADS for i in first)
        threads = num_threads() if large else 1
        if not function(threads, *[id(a) if type(a) is np.ndarray else a for a in args]):
            raise MemoryError("there is no memory for a kernel's work")

    return call


# ---- on a GPU ----


def _gpu_kernel(name: str, arrays: tuple[Any, ...]) -> Callable[..., None] | None:
    from minivit.backend.arrays import array_module

    xp = array_module(*arrays)
    dtypes = {a.dtype for a in arrays}
    if len(dtypes) > 1 or dtypes.pop() not in (np.float32, np.float16) or not all(a.flags.c_contiguous for a in arrays):
        return None
    key = name, arrays[0].dtype.name, xp
    if key not in _on_gpu:
        _on_gpu[key] = _gpu_caller(name, arrays[0].dtype, xp)
    return _on_gpu[key]


def _gpu_caller(name: str, dtype: Any, xp: Any) -> Callable[..., None] | None:
    text = (_HERE / "kernels.c").read_text(encoding="utf-8")
    parameters = dict(_signatures(text)).get(name)
    if parameters is None or not hasattr(xp, "RawModule"):
        return None
    module = xp.RawModule(code=text, options=("-DHALF",) if dtype == np.float16 else ())
    function = module.get_function(name)
    numbers: list[Any] = [{"size": np.int64, "float": np.float32}.get(kind) for kind, _ in parameters]
    by_row = parameters[0][1] != "n"  # a warp of 32 threads for each row; else a thread for each element

    def call(*args: Any) -> None:
        warps = args[0] if by_row else -(-args[0] // 32)
        if warps:
            given = tuple(a if number is None else number(a) for number, a in zip(numbers, args))
            function((min(-(-warps // _WARPS), 1 << 20),), (32, _WARPS), given)

    return call


_WARPS = 8  # of a block: 256 threads

"""What only a GPU has: work that goes on while the program does, a pool that keeps memory, a name. For measuring.

A call to a GPU returns before it is done. A clock has to be read after `synchronize()`, or it tells how long asking takes.
"""

from __future__ import annotations

from minivit.backend.arrays import _cupy


def synchronize() -> None:
    """Waits until the GPU has done all that it was asked for."""
    _cupy().cuda.Device().synchronize()


def pool_bytes() -> int:
    """Bytes of GPU memory that CuPy holds: in use, or freed and kept for the next array. It grows to what was needed."""
    return int(_cupy().get_default_memory_pool().total_bytes())


def free_pool() -> None:
    """Gives back what is kept and not in use."""
    _cupy().get_default_memory_pool().free_all_blocks()


def description() -> str:
    """The GPU's name, and the versions of CUDA and CuPy."""
    cupy = _cupy()
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
    version = cupy.cuda.runtime.runtimeGetVersion()
    name = name.decode() if isinstance(name, bytes) else name
    return f"{name}, CUDA {version // 1000}.{version % 1000 // 10}, CuPy {cupy.__version__}"

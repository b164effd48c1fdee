"""Where arrays live: NumPy on the CPU, CuPy on a GPU, decided by the data and by nothing else.

An array carries its device. A function that needs array routines asks its arguments which module they belong to,

    xp = array_module(x, weight)        # numpy, or cupy

and the same lines then run on both. There is no global switch, so both devices can be compared in one process.
This room is the only one that names CuPy, and it imports it only when it is handed a CuPy array or told to use a GPU.
"""

from minivit.backend import products
from minivit.backend.arrays import (
    add_at,
    array_module,
    device_of,
    gpu_status,
    is_array,
    resolve_device,
    to_device,
    to_floats,
    to_numpy,
)
from minivit.backend.blas import single_threaded_blas
from minivit.backend.blocks import (
    blocks,
    for_blocks,
    for_pieces,
    for_shares,
    for_threads,
    num_threads,
    set_num_threads,
)
from minivit.backend.buffers import add, concatenate, empty, empty_like, zeros
from minivit.backend.kernels import array_code, kernel, kernel_status, kernels_on_cpu
from minivit.backend.products import allow_tf32

__all__ = [
    "add",
    "add_at",
    "allow_tf32",
    "array_code",
    "array_module",
    "blocks",
    "concatenate",
    "device_of",
    "empty",
    "empty_like",
    "for_blocks",
    "for_pieces",
    "for_shares",
    "for_threads",
    "gpu_status",
    "is_array",
    "kernel",
    "kernel_status",
    "kernels_on_cpu",
    "num_threads",
    "products",
    "resolve_device",
    "set_num_threads",
    "single_threaded_blas",
    "to_device",
    "to_floats",
    "to_numpy",
    "zeros",
]

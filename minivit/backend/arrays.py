"""Which module an array belongs to, and how it moves between devices."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np

_ON_GPU: dict[type, bool] = {np.ndarray: False}  # type -> is it an array of CuPy's? Filled as types are met
_worked: ModuleType | None = None  # the module cupy that has computed something here


def _is_gpu_array(value: Any) -> bool:
    kind = type(value)
    known = _ON_GPU.get(kind)
    if known is None:
        known = _ON_GPU[kind] = kind.__module__.partition(".")[0] == "cupy" and hasattr(value, "get")
    return known


def is_array(value: Any) -> bool:
    """Whether `value` is a NumPy or a CuPy array (a Tensor, a list and a number are not)."""
    return isinstance(value, np.ndarray) or _is_gpu_array(value)


def array_module(*values: Any) -> Any:
    """The module, `numpy` or `cupy`, whose arrays are among `values`; `numpy` if there are only numbers.

    Raises:
        TypeError: if arrays of both are among them.
    """
    gpu = cpu = False
    for value in values:
        if type(value) is np.ndarray:
            cpu = True
        elif _is_gpu_array(value):
            gpu = True
        elif isinstance(value, np.ndarray):
            cpu = True
    if gpu and cpu:
        where = ", ".join(f"argument {i} on {device_of(v)}" for i, v in enumerate(values) if is_array(v))
        raise TypeError(f"arrays on two devices: {where}; move one of them with .to('cuda') or .to('cpu')")
    return _cupy() if gpu else np


def device_of(value: Any) -> str:
    """`"cuda"` for a CuPy array, `"cpu"` for everything else."""
    return "cuda" if _is_gpu_array(value) else "cpu"


def to_numpy(value: Any) -> np.ndarray:
    """The values as a NumPy array: the same memory on the CPU, a copy from a GPU."""
    return value.get() if _is_gpu_array(value) else np.asarray(value)


def to_device(value: Any, device: str) -> Any:
    """`value` as an array on `device`, `"cpu"` or `"cuda"`; not copied if it is there already.

    Raises:
        ValueError: for another name of a device.
        RuntimeError: if there is no GPU that can be used; the message says why.
    """
    device = resolve_device(device)
    if device == "cpu":
        return to_numpy(value)
    return value if _is_gpu_array(value) else _cupy().asarray(np.asarray(value))


def to_floats(*values: Any) -> list[float]:
    """Single values, 0-d arrays and numbers, as Python floats. From a GPU all come at once, so that it is waited for once."""
    xp = array_module(*values)
    if xp is np:
        return [float(value) for value in values]
    return xp.stack([xp.asarray(value, dtype="float64") for value in values]).get().tolist()


def resolve_device(device: str) -> str:
    """Turns `"auto"` into `"cuda"` where a GPU can be used, else `"cpu"`; checks the other two names."""
    if device == "cpu":
        return "cpu"
    if device not in ("auto", "cuda"):
        raise ValueError(f"device: expected 'cpu', 'cuda' or 'auto', got {device!r}")
    usable, why = gpu_status()
    if usable:
        return "cuda"
    if device == "auto":
        return "cpu"
    raise RuntimeError(f"device='cuda', but no GPU can be used: {why}")


def gpu_status() -> tuple[bool, str]:
    """Whether a GPU can be used, and the reason if not. Tries a tiny computation: an importable CuPy proves nothing.

    One that has worked is not asked again: that would mean waiting for it, whenever an array is moved.
    """
    global _worked
    try:
        cupy = _cupy()
        if cupy is _worked:
            return True, ""
    except ModuleNotFoundError:
        return False, "CuPy is not installed (pip install 'minivit[cuda12]' or 'minivit[cuda13]', whichever your driver has)"
    except Exception as error:
        return False, f"CuPy is installed, but cannot be imported: {error}"
    try:
        if not cupy.cuda.is_available():
            return False, "CuPy is installed, but finds no CUDA driver or device"
        ready = int(cupy.asarray(np.ones(2, np.float32)).sum()) == 2
    except Exception as error:  # whatever a broken driver raises is the answer
        return False, f"CuPy is installed, but a first computation failed: {error}"
    _worked = cupy if ready else None
    return ready, "" if ready else "CuPy is installed, but a first computation gave a wrong result"


def add_at(array: Any, index: Any, values: Any) -> None:
    """`array[index] += values` in place, where an index that occurs several times adds several times."""
    array_module(array).add.at(array, index, values)


def _cupy() -> ModuleType:
    return sys.modules.get("cupy") or importlib.import_module("cupy")

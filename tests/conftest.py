"""What every test can ask for: array modules, the stand-in for CuPy, and how hypothesis and the `gpu` mark behave."""

import os
import signal

# Small products on a shared machine: two threads that wait for each other are slower than one. Set before NumPy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

from tests import cupy_standin

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores Ctrl-C for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["MPLBACKEND"] = "Agg"  # no test opens a window; matplotlib, loaded when used, reads it

# The same examples in every run, and no deadline: shared machines are slow at times, and that is no fault of the code.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.load_profile("ci")


def why_no_gpu() -> str:
    """The reason why the real CuPy cannot be used here; empty where it can."""
    from minivit.backend import gpu_status

    usable, reason = gpu_status()
    return "" if usable else reason


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := why_no_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))


@pytest.fixture
def standin(monkeypatch):
    """The strict stand-in for CuPy, installed as `cupy` while the test runs."""
    return cupy_standin.install(monkeypatch)


@pytest.fixture(params=["numpy", "standin", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """An array module: NumPy, the stand-in for CuPy, and CuPy itself where there is a GPU."""
    if request.param == "numpy":
        return np
    if request.param == "standin":
        return request.getfixturevalue("standin")
    import cupy

    return cupy

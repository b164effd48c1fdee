"""Which module an array belongs to, devices by name, and the reasons why there is no GPU."""

import sys
import types

import numpy as np
import pytest

from minivit.backend import (
    add_at,
    array_module,
    device_of,
    empty,
    gpu_status,
    is_array,
    resolve_device,
    to_device,
    to_floats,
    to_numpy,
)
from tests.cupy_standin import synchronizations

HOST = np.arange(3.0)


@pytest.mark.parametrize("values", [(), (1, 2.5), (HOST,), (HOST, 3, None), (np.float32(2),), ([1, 2],),
                                    (HOST.view(np.matrix),)])  # fmt: skip
def test_numpy_is_inferred(standin, values):
    assert array_module(*values) is np


def test_cupy_is_inferred(standin):
    device = standin.asarray(HOST)
    assert array_module(device) is array_module(1, device, None) is array_module(np.float64(1), device) is standin
    assert device_of(device) == "cuda"
    assert is_array(device)
    assert not is_array(standin)


def test_what_is_an_array():
    assert is_array(HOST)
    for value in ([1.0], 1.0, np.float32(1), None):
        assert not is_array(value)
        assert device_of(value) == "cpu"


def test_arrays_on_two_devices_are_named(standin):
    with pytest.raises(TypeError, match=r"two devices: argument 0 on cpu, argument 2 on cuda; move one of them with \.to\("):
        array_module(HOST, 1.0, standin.asarray(HOST))


def test_moving(standin):
    device = to_device(HOST, "cuda")
    assert type(device) is standin.ndarray
    assert to_device(device, "cuda") is device
    assert to_device(HOST, "cpu") is HOST
    assert to_numpy(HOST) is HOST
    back = to_device(device, "cpu")
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, HOST)
    np.testing.assert_array_equal(to_device([1, 2], "cuda").get(), [1, 2])


def test_devices_by_name(standin):
    assert [resolve_device(d) for d in ("cpu", "cuda", "auto")] == ["cpu", "cuda", "cuda"]
    for name in ("gpu", "cuda:0", None):
        with pytest.raises(ValueError, match="device: expected 'cpu', 'cuda' or 'auto', got"):
            resolve_device(name)


def test_add_at_adds_every_time(xp):
    a = xp.zeros(3)
    add_at(a, xp.asarray([0, 2, 0]), 1.5)
    np.testing.assert_array_equal(to_numpy(a), [3, 0, 1.5])


# ---- no GPU ----


def no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    return "CuPy is not installed .*minivit\\[cuda12\\]"


def broken_import(monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)

    def fail(name):
        raise ImportError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr("minivit.backend.arrays.importlib.import_module", fail)
    return "installed, but cannot be imported: libnvrtc"


def fake_cupy(monkeypatch, available=True, asarray=None):
    cuda = types.SimpleNamespace(is_available=lambda: available)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda, asarray=asarray))


def no_driver(monkeypatch):
    fake_cupy(monkeypatch, available=False)
    return "finds no CUDA driver or device"


def broken_driver(monkeypatch):
    def fail(_):
        raise OSError("cudaErrorInsufficientDriver")

    fake_cupy(monkeypatch, asarray=fail)
    return "a first computation failed: cudaErrorInsufficientDriver"


def wrong_result(monkeypatch):
    fake_cupy(monkeypatch, asarray=lambda a: a * 3)
    return "gave a wrong result"


@pytest.mark.parametrize("reason", [no_cupy, broken_import, no_driver, broken_driver, wrong_result])
def test_the_reason_why_there_is_no_gpu(monkeypatch, reason):
    message = reason(monkeypatch)
    usable, why = gpu_status()
    assert not usable
    assert resolve_device("auto") == "cpu"
    with pytest.raises(RuntimeError, match=f"no GPU can be used: .*{message}"):
        to_device(HOST, "cuda")
    assert to_device(HOST, "cpu") is HOST
    assert why in str(pytest.raises(RuntimeError, resolve_device, "cuda").value)


def test_the_stand_in_passes_for_a_gpu(standin):
    assert gpu_status() == (True, "")


def test_a_gpu_that_has_worked_is_not_asked_again(standin):
    to_device(HOST, "cuda")
    before = synchronizations()
    to_device(HOST, "cuda")
    assert resolve_device("auto") == "cuda"
    assert synchronizations() == before


def test_single_values_come_in_one_reading(xp):
    values = [xp.asarray(np.float32(0.1)), xp.asarray(3), 2.5, xp.asarray(True)]
    before = synchronizations()
    assert to_floats(*values) == [float(np.float32(0.1)), 3.0, 2.5, 1.0]
    assert synchronizations() - before <= 1
    assert to_floats() == []


def test_empty_on_a_device_is_the_devices_own(standin):
    a = empty((1000, 100), np.float32, standin)
    assert type(a) is standin.ndarray
    assert a.shape == (1000, 100)
    assert a.dtype == np.float32

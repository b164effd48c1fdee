"""The stand-in for CuPy is strict where CuPy is, silent where CuPy is, and offers nothing that CuPy lacks."""

import copy
import importlib
import inspect
import re

import numpy as np
import pytest

from minivit.backend import array_module, device_of, gpu_status, to_device, to_numpy
from tests import cupy_standin
from tests.cupy_standin import synchronizations


@pytest.fixture
def a(standin):
    return standin.asarray(np.arange(6, dtype="float32").reshape(2, 3))


HOST = np.ones((2, 3), "float32")
REFUSED = {
    "np.asarray": lambda cp, a: np.asarray(a),
    "np.array": lambda cp, a: np.array(a),
    "np.array of a list": lambda cp, a: np.array([a, a]),
    "host[...] = device": lambda cp, a: HOST.copy().__setitem__(..., a),
    "device[...] = host": lambda cp, a: a.__setitem__(..., HOST),
    "device[...] = list": lambda cp, a: a.__setitem__(0, [1.0, 2.0, 3.0]),
    "device + host": lambda cp, a: a + HOST,
    "host + device": lambda cp, a: HOST + a,
    "host += device": lambda cp, a: np.add(HOST, a, out=HOST.copy()),
    "device += host": lambda cp, a: a.__iadd__(HOST),
    "device == host": lambda cp, a: a == HOST,
    "host @ device": lambda cp, a: HOST.T @ a,
    "device @ host": lambda cp, a: a @ HOST.T,
    "device + list": lambda cp, a: a + [1.0, 2.0, 3.0],
    "device + 0-d host": lambda cp, a: a + np.asarray(2.0),
    "np.exp": lambda cp, a: np.exp(a),
    "np.sum": lambda cp, a: np.sum(a),
    "np.where": lambda cp, a: np.where(a > 1, a, 0),
    "np.stack": lambda cp, a: np.stack([a, a]),
    "np.einsum": lambda cp, a: np.einsum("ij->ji", a),
    "np.add.reduce": lambda cp, a: np.add.reduce(a),
    "cp.exp of host": lambda cp, a: cp.exp(HOST),
    "cp.maximum of list": lambda cp, a: cp.maximum(a, [1.0, 2.0, 3.0]),
    "cp.sum of host": lambda cp, a: cp.sum(HOST),
    "cp.matmul of host": lambda cp, a: cp.matmul(a, HOST.T),
    "cp.einsum of host": lambda cp, a: cp.einsum("ij,ij->i", a, HOST),
    "cp.stack of host": lambda cp, a: cp.stack([a, HOST]),
    "cp.stack of lists": lambda cp, a: cp.stack([[1.0], [2.0]]),
    "cp.where with host": lambda cp, a: cp.where(a > 1, a, HOST),
    "cp.where of a bool": lambda cp, a: cp.where(True, a, a),
    "cp.pad of host": lambda cp, a: cp.pad(HOST, 1),
    "cp.take with host": lambda cp, a: cp.take(a, np.array([0]), axis=0),
    "cp.copyto from host": lambda cp, a: cp.copyto(a, HOST),
    "cp.clip of host": lambda cp, a: cp.clip(HOST, 0, 1),
    "cp.result_type with host": lambda cp, a: cp.result_type(a, HOST),
    "out= of the host": lambda cp, a: cp.add(a, a, out=HOST.copy()),
    "out= of the host, reduction": lambda cp, a: cp.sum(a, axis=0, out=np.empty(3, "float32")),
    "out= of the host, method": lambda cp, a: a.sum(axis=0, out=np.empty(3, "float32")),
    "where= of a ufunc": lambda cp, a: cp.add(a, a, where=a > 1),
    "where= of a ufunc, a bool": lambda cp, a: cp.add(a, a, where=True),
    "initial= of a reduction": lambda cp, a: cp.max(a, initial=0.0),
    "where= of a reduction": lambda cp, a: cp.sum(a, where=a > 1),
    "mode= of take": lambda cp, a: cp.take(a, 0, mode="clip"),
    "item of an index": lambda cp, a: a.item(0),
    "add.at with host": lambda cp, a: cp.add.at(a, 0, HOST[0]),
    "add.at of int64": lambda cp, a: cp.add.at(cp.zeros(3, "int64"), cp.asarray([0, 0]), 1),
    "a NumPy index": lambda cp, a: a[np.array([0, 1])],
    "range of a 0-d array": lambda cp, a: range(cp.sum(a)),
    "index of a Python list": lambda cp, a: [1, 2, 3][cp.asarray(1)],
    "hash": lambda cp, a: hash(a),
    "0-d has no length": lambda cp, a: len(a.sum()),
    "0-d does not iterate": lambda cp, a: list(a.sum()),
    "float of many": lambda cp, a: float(a),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_type_error(standin, a, name):
    with pytest.raises((TypeError, ValueError) if name == "float of many" else TypeError):
        REFUSED[name](standin, a)


def test_the_text_of_the_implicit_conversion_is_cupys(a):
    with pytest.raises(TypeError, match=r"Implicit conversion to a NumPy array is not allowed.*`\.get\(\)`"):
        np.asarray(a)


@pytest.mark.parametrize("name", ["vecdot", "unstack", "errstate", "seterr", "random", "insert", "erf"])
def test_names_that_cupy_lacks_are_missing(standin, name):
    with pytest.raises(AttributeError, match=name):
        getattr(standin, name)


@pytest.mark.parametrize("name", ["maximum", "subtract", "logical_or"])
def test_reductions_of_ufuncs_that_cupy_lacks_are_missing(standin, a, name):
    with pytest.raises(NotImplementedError):
        getattr(standin, name).reduce(a)


@pytest.mark.parametrize("dtype", [object, "longdouble", "U3", [("x", "f4")], "datetime64[s]"])
def test_dtypes_that_no_gpu_has_are_refused(standin, dtype):
    with pytest.raises(ValueError, match="Unsupported dtype"):
        standin.zeros(2, dtype)
    with pytest.raises(ValueError, match="Unsupported dtype"):
        standin.asarray(np.zeros(2, dtype))


def test_memory_cannot_be_locked(a):
    with pytest.raises(AttributeError):
        a.flags.writeable = False


def test_writing_twice_to_one_place_is_refused_where_cupy_leaves_it_undefined(standin, a):
    twice = standin.asarray(np.array([0, 0]))
    with pytest.raises(ValueError, match="more than once"):
        a[twice] = standin.ones((2, 3), "float32")
    with pytest.raises(ValueError, match="more than once"):
        a[twice] += 1.0
    a[twice] = 7.0  # one number: no matter who wins
    assert a.get()[0].tolist() == [7.0] * 3


def test_results_are_arrays_on_the_device(standin, a):
    for value in (a.sum(), a[0, 0], standin.max(a), a.mean(axis=0), a > 1, standin.allclose(a, a), a.T, -a, 2.0 * a):
        assert type(value) is standin.ndarray
    assert a.sum().shape == ()
    assert type(np.float32(2) * a) is standin.ndarray
    assert all(type(part) is standin.ndarray for part in standin.split(a, 3, axis=1))
    assert type(standin.add(1.0, 2.0)) is standin.ndarray


def test_what_makes_the_host_wait_is_counted(standin, a):
    before = synchronizations()
    _ = (a @ a.T).sum() / a.size + a.mean() ** 2
    a[0] = a.max()
    a[:, standin.asarray([0, 2])] -= 1.0
    assert synchronizations() == before
    waits = [
        a.get, a.tolist, a.sum().item, lambda: float(a.sum()), lambda: int(a.sum()), lambda: bool(a.all()),
        lambda: standin.asnumpy(a), lambda: f"{a.sum():.2f}", lambda: a[a > 1], lambda: a.nonzero(),
        lambda: standin.cuda.Device().synchronize(), lambda: standin.unique(a),
    ]  # fmt: skip
    for i, wait in enumerate(waits):
        before = synchronizations()
        wait()
        assert synchronizations() == before + 1, i


def test_views_share_memory(standin, a):
    for view in (a.reshape(3, 2), a.T, a[0], a[:, 1:], a.ravel(), a[0, 0], a.view("int32"), standin.swapaxes(a, 0, 1)):
        before = a.get()
        view[...] = 1
        assert (a.get() != before).any()
        a[...] = standin.asarray(np.arange(6, dtype="float32").reshape(2, 3))
    assert not standin.shares_memory(a, a.copy())
    assert not standin.shares_memory(a, copy.deepcopy(a))
    assert standin.asarray(a) is a


def test_moving_to_the_device_copies(standin):
    host = np.zeros(3)
    device = standin.asarray(host)
    host[0] = 1.0
    assert device.get()[0] == 0.0
    device.get()[1] = 5.0
    assert device.get()[1] == 0.0


def test_index_arrays_out_of_range_wrap_silently(standin, a):
    index = standin.asarray(np.array([2, -3, 5]))
    assert a[index].get().tolist() == a.get()[[0, 1, 1]].tolist()
    assert a[:, index].get().tolist() == a.get()[:, [2, 0, 2]].tolist()
    assert a[..., index].get().tolist() == a.get()[..., [2, 0, 2]].tolist()
    assert standin.take(a, index, axis=1).get().tolist() == a.get()[:, [2, 0, 2]].tolist()
    assert a.take(index).get().tolist() == [2.0, 3.0, 5.0]
    assert standin.take_along_axis(a, index[None], axis=1)[0].get().tolist() == a.get()[0, [2, 0, 2]].tolist()
    a[standin.asarray(np.array([7]))] = 9.0
    assert a.get()[1].tolist() == [9.0] * 3
    with pytest.raises(IndexError):
        a[2]


def test_add_at_adds_every_time(standin, a):
    standin.add.at(a, standin.asarray(np.array([0, 0, 2])), standin.ones((3, 3), "float32"))
    assert a.get().tolist() == [[3.0, 4.0, 5.0], [3.0, 4.0, 5.0]]


def test_nothing_warns(standin):
    zero = standin.zeros(2, "float32")
    assert np.isnan((zero / zero).get()).all()
    standin.exp(zero + 1e4)
    (standin.full(2, 2**63, "uint64") * np.uint64(2)).get()


def test_dtypes_follow_numpy_2(standin, a):
    assert (a * 2.0).dtype == np.float32
    assert (a * np.float64(2)).dtype == np.float64
    assert (a * standin.asarray(2.0)).dtype == np.float64


def test_strangers_on_the_right_get_their_turn(a):
    class Stranger:
        __array_ufunc__ = None

        def __radd__(self, other):
            return "mine"

    assert a + Stranger() == "mine"


def test_numpy_gives_the_values(standin, a):
    b = standin.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    host = b.get()

    def windows(xp):
        return xp.lib.stride_tricks.sliding_window_view

    pairs = [
        (a @ b, a.get() @ host),
        (standin.einsum("ij,jk->ik", a, b), np.einsum("ij,jk->ik", a.get(), host)),
        (standin.where(b > 0, b, 0.0), np.where(host > 0, host, 0.0)),
        (standin.pad(a, ((0, 0), (1, 2))), np.pad(a.get(), ((0, 0), (1, 2)))),
        (windows(standin)(b, 2, axis=1), windows(np)(host, 2, axis=1)),
        (b.argmax(axis=1, keepdims=True), host.argmax(axis=1, keepdims=True)),
        (standin.argmax(b, 1), np.argmax(host, 1)),
        (standin.concatenate([b, b], axis=-1), np.concatenate([host, host], -1)),
        (standin.tensordot(a, b, 1), a.get() @ host),
        (1.0 - b, 1.0 - host),
        (standin.clip(b, -0.1, 0.1), np.clip(host, -0.1, 0.1)),
        (standin.var(b, 0, ddof=1), np.var(host, 0, ddof=1)),
    ]  # fmt: skip
    for i, (device, expected) in enumerate(pairs):
        np.testing.assert_array_equal(device.get(), expected, err_msg=str(i))


def test_the_backend_takes_it_for_a_gpu(standin, a):
    assert gpu_status() == (True, "")
    assert array_module(a, 1.0) is standin
    assert device_of(a) == "cuda"
    moved = to_device(HOST, "cuda")
    assert type(moved) is standin.ndarray
    assert to_numpy(moved).tolist() == HOST.tolist()
    with pytest.raises(TypeError, match="two devices"):
        array_module(a, HOST)


def test_it_is_gone_when_the_test_is_over():
    import sys

    assert sys.modules.get("cupy") is not cupy_standin.cupy


# Against the real CuPy, which imports without a GPU


@pytest.fixture(scope="module")
def real():
    return pytest.importorskip("cupy", reason="CuPy is not installed, so the names of the stand-in cannot be compared")


def _words(signature):
    """A signature as the stand-in writes it: names, with `*` before those that go by keyword only."""
    words, keyword_only = [], False
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not keyword_only and not any(w.startswith("*") for w in words):
            words.append("*")
        keyword_only = p.kind is p.KEYWORD_ONLY
        words.append({p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name)
    return " ".join(words)


@pytest.mark.parametrize("name", cupy_standin.FUNCTIONS)
def test_functions_are_the_real_ones(real, name):
    function = real
    for part in name.split("."):
        function = getattr(function, part)
    assert _words(inspect.signature(function)) == cupy_standin.FUNCTIONS[name]


@pytest.mark.parametrize("name", cupy_standin.METHODS)
def test_methods_are_the_real_ones(real, name):
    line = getattr(real.ndarray, name).__doc__.strip().splitlines()[0]  # "_ndarray_base.sum(self, axis=None, ...)"
    inside = re.search(r"\((.*)\)", line).group(1)
    words = [part.partition("=")[0].split()[-1] for part in inside.split(",")]
    assert " ".join(words[1:]) == cupy_standin.METHODS[name]


def test_every_name_is_a_real_one(real):
    for name in cupy_standin.UFUNCS:
        assert isinstance(getattr(real, name), real.ufunc), name
        theirs = getattr(real, name)._scatter_op
        assert bool(theirs) == (name in cupy_standin._SCATTER), name
    for path, module in cupy_standin.MODULES.items():
        names = [n for n in vars(module) if not n.startswith("_")]
        try:
            theirs = importlib.import_module(path)
            assert [n for n in names if not hasattr(theirs, n)] == [], path
        except ImportError:  # CuPy's cuBLAS module, where there is no cuBLAS
            if not path.startswith("cupy_backends.cuda.libs"):
                raise
    for name in vars(cupy_standin.ndarray):
        if name not in ("_host", "__module__", "__dict__", "__weakref__"):
            assert hasattr(real.ndarray, name), name
    assert not hasattr(real.ndarray, "__index__")
    assert real.ndarray.__hash__ is None
    assert set(vars(cupy_standin._Flags)) - {"__slots__"} <= set(dir(real._core.flags.Flags)) | {"__init__"}
    assert {n for n in vars(cupy_standin.Device) if not n.startswith("_")} <= set(dir(real.cuda.Device))


def test_cublas_takes_these_arguments_and_numbers(real):
    cublas = pytest.importorskip("cupy_backends.cuda.libs.cublas", reason="there is no cuBLAS here", exc_type=ImportError)
    runtime, linalg = map(importlib.import_module, ("cupy_backends.cuda.api.runtime", "cupy._core._routines_linalg"))
    words = re.search(r"\((.*)\)", cublas.gemmStridedBatchedEx.__doc__.splitlines()[0]).group(1).split(",")
    ours = inspect.signature(cupy_standin._gemm_strided_batched_ex)
    assert [word.split()[-1] for word in words] == list(ours.parameters)
    for module, numbers in ((cublas, "_CUBLAS"), (runtime, "_RUNTIME"), (linalg, "_LINALG")):
        for name, number in getattr(cupy_standin, numbers).items():
            assert getattr(module, name) == number, name


def test_what_the_stand_in_lacks_on_purpose_is_missing_from_the_real_one(real):
    for name in ("vecdot", "unstack", "errstate", "seterr", "insert", "erf"):
        assert not hasattr(real, name), name
    for name in ("permutation", "shuffle", "choice", "normal"):
        assert not hasattr(real.random.Generator, name), name
    with pytest.raises(TypeError, match="Wrong arguments"):
        real.add(1, 2, where=True)
    with pytest.raises(NotImplementedError):
        real.maximum.reduce(1)

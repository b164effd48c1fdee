"""A strict stand-in for CuPy 14.2 that needs no GPU: device code runs through it on any machine, in every test run.

It computes with NumPy, and refuses what CuPy refuses. Passing here says that code keeps the rules of the device; it
says nothing about kernels, speed, or the last bits of a sum: tests marked `gpu` say that, on a machine that has one.

What is refused, as CuPy does:
- implicit conversion (`np.asarray(a)`, `np_array + a`, a NumPy array given to a function of the device): moving data is
  said aloud, `cupy.asarray(x)` and `a.get()`;
- lists and other strangers in arithmetic; keywords CuPy does not have (`where=` of ufuncs, `initial=`, `np.argmax`'s
  order of arguments, ...): every function here has the parameters of the real one, and `test_standin.py` holds names
  and parameters against the real CuPy wherever that can be imported;
- dtypes that no GPU has (object, structured, strings), a 0-d array as an index of Python's, `errstate`, `vecdot`;
- scalars: a reduction gives a 0-d array on the device, never a number. `float()`, `bool()`, `.item()`, `.get()` and all
  else that makes the host wait for the device is counted (`synchronizations`).

What is silent, as in CuPy: integer index arrays out of range wrap around; nothing warns of overflow or 0/0.

Where it is stricter on purpose, to catch what would be slow or undefined:
- `np.exp(a)` is refused ("np." where "xp." was meant); CuPy would dispatch;
- NumPy arrays as indices are refused (CuPy would move them, each time);
- `a[index] = values` with an index that occurs twice is refused (on a GPU, who wins is not defined);
- `broadcast_to` gives a view that cannot be written to (in CuPy one can, and writes to all of its shadows).
"""

import ctypes
import math
import sys
import types

import numpy as np

_DTYPES = "?bhilqBHILQefdFD"
_SCALARS = (bool, int, float, complex, np.bool_, np.number)
_waits = 0


def synchronizations() -> int:
    """How many times so far the host has waited for the device; a test looks at the difference."""
    return _waits


def _synchronize():
    global _waits
    _waits += 1


# --- Crossing the border ---------------------------------------------------------------------------------------------


def _wrap(value):
    """A result of NumPy's, as CuPy would hand it out: an array on the device, 0-d for a scalar."""
    if isinstance(value, (np.ndarray, np.generic, bool)):
        array = np.asarray(value)
        if array.dtype.char not in _DTYPES:
            raise ValueError(f"Unsupported dtype {array.dtype}")
        device = object.__new__(ndarray)
        device._host = array
        return device
    if isinstance(value, (tuple, list)):
        return type(value)(map(_wrap, value)) if type(value) in (tuple, list) else tuple(map(_wrap, value))
    return value


def _unwrap(value, strict=False):
    """An argument for NumPy; `strict` where CuPy takes arrays and scalars only."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray) or (strict and not isinstance(value, _SCALARS)):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_unwrap, value))
    return value


def _array(value, name):
    if not isinstance(value, ndarray):
        raise TypeError(f"{name}: expected cupy.ndarray, got {type(value)}")
    return value._host


def _quiet(function, *args, **kwargs):
    with np.errstate(all="ignore"):  # a GPU does not tell
        return function(*args, **kwargs)


class _Parameters:
    """The parameters of a function of CuPy's, "a axis=None * dtype": binds a call as CuPy would, hands it to NumPy."""

    def __init__(self, name, text):
        words = text.split()
        self.name = name
        self.positional = [w for w in words[: words.index("*") if "*" in words else None] if not w.startswith("*")]
        self.names = [w for w in words if not w.startswith("*")]
        self.any_number = any(w.startswith("*") and w.strip("*") and not w.startswith("**") for w in words)
        self.any_keyword = any(w.startswith("**") for w in words)

    def bind(self, args, kwargs, leading):
        """(args, kwargs) for NumPy: the first `leading` by position, the others by CuPy's name."""
        for word in kwargs:
            if word not in self.names and not self.any_keyword:
                raise TypeError(f"{self.name}() got an unexpected keyword argument {word!r}")
        if self.any_number:
            return args, kwargs
        if len(args) > len(self.positional):
            raise TypeError(f"{self.name}() takes {len(self.positional)} positional arguments, {len(args)} were given")
        named = dict(zip(self.positional[leading:], args[leading:], strict=False))
        if clash := set(named) & set(kwargs):
            raise TypeError(f"{self.name}() got multiple values for argument {clash.pop()!r}")
        return args[:leading], {**named, **kwargs}


# --- Indices ---------------------------------------------------------------------------------------------------------


def _index(key, shape):
    """A key of `a[key]` for NumPy: index arrays unwrapped, and wrapped around where out of range."""
    parts = []
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, ndarray):
            part = part._host
            if part.dtype.kind not in "biu":
                raise IndexError(f"arrays used as indices must be of integer or boolean type, not {part.dtype}")
            if part.dtype.kind == "b":
                _synchronize()  # how many are True decides the shape
        elif isinstance(part, list):
            part = np.asarray(part) if part else np.zeros(0, np.int64)
        elif isinstance(part, np.ndarray):
            raise TypeError("a NumPy array as an index of a device array: move it with cupy.asarray first")
        parts.append(part)
    width = [
        0 if p is None or p is Ellipsis else p.ndim if isinstance(p, np.ndarray) and p.dtype.kind == "b" else 1
        for p in parts
    ]
    if Ellipsis not in [p for p in parts if not isinstance(p, np.ndarray)]:
        parts.append(Ellipsis)  # so that full indexing, too, gives a view
        width.append(0)
    axis = 0
    for i, part in enumerate(parts):
        if part is Ellipsis:
            axis += max(0, len(shape) - sum(width))
        elif isinstance(part, np.ndarray) and part.dtype.kind != "b" and axis < len(shape):
            parts[i] = _wrap_around(part, shape[axis])
        axis += width[i]
    return tuple(parts)


def _wrap_around(indices, size):
    return indices if size == 0 else np.mod(indices, size)


def _refuse_duplicates(shape, key, value):
    if any(isinstance(p, np.ndarray) and p.dtype.kind != "b" for p in key) and np.ndim(value):
        touched = np.arange(math.prod(shape)).reshape(shape)[key]
        if len(np.unique(touched)) < touched.size:
            raise ValueError("an index occurs more than once in a[index] = values: which one wins is not defined")


# --- The array -------------------------------------------------------------------------------------------------------


class _Flags:
    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")  # so nothing else, `writeable` least of all, can be set


class _Pointer:
    """Where an array begins. The address is real, so that `_gemm_strided_batched_ex` can read what lies there."""

    def __init__(self, ptr):
        self.ptr = ptr


class _Pool:
    """The memory pool: of a device whose memory is the host's, so its size is that of nothing."""

    def total_bytes(self):
        return 0

    def free_all_blocks(self):
        pass


class Device:
    """The one device there is."""

    def __init__(self, device=0):
        self.id = int(device)

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self):
        return hash(self.id)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def use(self):
        pass

    def synchronize(self):
        _synchronize()


class ndarray:
    """An array on the device, in truth a NumPy array that only the functions of this file may touch."""

    __slots__ = ("_host", "__weakref__")
    __module__ = "cupy"
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float):
        self._host = _wrap(np.empty(shape, dtype))._host

    # Implicit conversion

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        scalar_first = len(inputs) == 2 and isinstance(inputs[0], np.generic) and isinstance(inputs[1], ndarray)
        if method == "__call__" and scalar_first and not kwargs:
            return getattr(cupy, ufunc.__name__)(*inputs)  # np.float32(2) * a comes here
        strangers = [type(x) for x in inputs if not isinstance(x, ndarray)]
        raise TypeError(f"Unsupported type {strangers}: np.{ufunc.__name__} of a device array; use the array's module")

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"np.{function.__name__} of a device array; use the array's module")

    # To the host: each waits for the device

    def get(self, stream=None, order="C", out=None, blocking=True):
        _synchronize()
        if out is not None:
            out[...] = self._host
            return out
        return self._host.copy(order="C" if order == "A" else order)

    def item(self):
        _synchronize()
        return self._host.item()

    def tolist(self):
        _synchronize()
        return self._host.tolist()

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError(f"Only numpy.ndarray can be set to cupy.ndarray, got {type(arr)}")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError(f"set: expected {self.dtype} {self.shape}, got {arr.dtype} {arr.shape}")
        self._host[...] = arr

    def __bool__(self):
        _synchronize()
        return bool(self._host)

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __complex__(self):
        return complex(self.item())

    def __format__(self, spec):
        _synchronize()
        return format(self._host[()], spec)

    def __repr__(self):
        return f"cupy.{self._host!r}"

    # Items

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        return _wrap(self._host[_index(key, self.shape)])

    def __setitem__(self, key, value):
        key = _index(key, self.shape)
        value = _unwrap(value, strict=True)
        _refuse_duplicates(self.shape, key, value)
        _quiet(self._host.__setitem__, key, value)

    # Layout

    def reshape(self, *shape, order="C", copy=None):
        return _wrap(self._host.reshape(*_unwrap(shape), order=order))

    def transpose(self, *axes):
        return _wrap(self._host.transpose(*axes))

    def view(self, dtype=None, type=None):
        return _wrap(self._host.view() if dtype is None else self._host.view(dtype))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    flags = property(lambda self: _Flags(self._host.flags))
    device = property(lambda self: Device(0))
    T = property(lambda self: _wrap(self._host.T))
    mT = property(lambda self: _wrap(self._host.mT))
    real = property(lambda self: _wrap(self._host.real))
    imag = property(lambda self: _wrap(self._host.imag))
    shape = property(lambda self: self._host.shape)  # CuPy lets one assign it; here reshape
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    itemsize = property(lambda self: self._host.itemsize)
    data = property(lambda self: _Pointer(self._host.ctypes.data))


METHODS = {  # name -> parameters, CuPy's
    "all": "axis out keepdims",
    "any": "axis out keepdims",
    "argmax": "axis out dtype keepdims",
    "argmin": "axis out dtype keepdims",
    "argsort": "axis kind",
    "astype": "dtype order casting subok copy",
    "clip": "min max out",
    "conj": "",
    "copy": "order",
    "cumprod": "axis dtype out",
    "cumsum": "axis dtype out",
    "diagonal": "offset axis1 axis2",
    "dot": "b out",
    "fill": "value",
    "flatten": "order",
    "max": "axis out keepdims",
    "mean": "axis dtype out keepdims",
    "min": "axis out keepdims",
    "nonzero": "",
    "prod": "axis dtype out keepdims",
    "ravel": "order",
    "repeat": "repeats axis",
    "round": "decimals out",
    "searchsorted": "v side sorter",
    "sort": "axis kind",
    "squeeze": "axis",
    "std": "axis dtype out ddof keepdims",
    "sum": "axis dtype out keepdims",
    "swapaxes": "axis1 axis2",
    "take": "indices axis out",
    "trace": "offset axis1 axis2 dtype out",
    "var": "axis dtype out ddof keepdims",
}
_BY_POSITION = {"swapaxes": 2}  # NumPy takes these by position only
_WAITS = {"nonzero", "flatnonzero", "argwhere", "unique"}  # what comes out decides a shape


def _method(name, text):
    parameters = _Parameters(name, text)
    leading = _BY_POSITION.get(name, 1)

    def method(self, *args, **kwargs):
        args, kwargs = parameters.bind(args, kwargs, leading)
        if isinstance(kwargs.get("out"), np.ndarray):
            raise TypeError(f"{name}: out must be cupy.ndarray, got {type(kwargs['out'])}")
        if name in _WAITS:
            _synchronize()
        if name == "take":
            return cupy.take(self, *args, **kwargs)
        if name == "dot":
            args = (_array(args[0], "dot"),)
        result = _quiet(getattr(self._host, name), *_unwrap(args), **{k: _unwrap(v) for k, v in kwargs.items()})
        return _wrap(result) if result is not None else None

    method.__name__ = name
    return method


for _name, _text in METHODS.items():
    setattr(ndarray, _name, _method(_name, _text))

OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}


def _defer(other):
    """Whether a stranger on the right does the operation (NEP 13); CuPy asks the same."""
    if isinstance(other, (ndarray, *_SCALARS)):
        return False
    if hasattr(other, "__array_ufunc__"):
        return other.__array_ufunc__ is None
    return getattr(other, "__array_priority__", 0) > ndarray.__array_priority__


def _operator(ufunc, reflected=False, in_place=False):
    def operator(self, other):
        if _defer(other):
            return NotImplemented
        function = getattr(cupy, ufunc)
        if in_place:
            return function(self, other, out=self)
        return function(other, self) if reflected else function(self, other)

    return operator


for _name, _ufunc in OPERATORS.items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc))
    setattr(ndarray, f"__r{_name}__", _operator(_ufunc, reflected=True))
    if _name != "matmul":  # CuPy has no in-place product of matrices: `a @= b` makes a new array
        setattr(ndarray, f"__i{_name}__", _operator(_ufunc, in_place=True))
for _name, _ufunc in COMPARISONS.items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc))
for _name, _ufunc in {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}.items():
    setattr(ndarray, f"__{_name}__", lambda self, _ufunc=_ufunc: getattr(cupy, _ufunc)(self))


# --- Ufuncs ----------------------------------------------------------------------------------------------------------

_UFUNCS = """
abs absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_count bitwise_or bitwise_xor
cbrt ceil conj copysign cos cosh deg2rad divide equal exp exp2 expm1 fabs float_power floor floor_divide fmax fmin fmod
greater greater_equal hypot invert isfinite isinf isnan ldexp left_shift less less_equal log log10 log1p log2 logaddexp
logical_and logical_not logical_or logical_xor maximum minimum mod negative not_equal positive pow power rad2deg
multiply reciprocal remainder right_shift rint sign signbit sin sinh sqrt square subtract tan tanh true_divide trunc
"""
UFUNCS = _UFUNCS.split()
_SCATTER = {"add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"}
_ATOMIC = {"add": "iILQefd", "maximum": "iILQfd", "minimum": "iILQfd"}  # dtypes; int64 is not among them
_REDUCES = {"add": "sum", "multiply": "prod"}


class ufunc:
    __module__ = "cupy"

    def __init__(self, name):
        self._ufunc, self._name = getattr(np, name), name
        self.nin, self.nout = self._ufunc.nin, self._ufunc.nout

    def __call__(self, *args, **kwargs):
        for word in kwargs:
            if word not in ("out", "dtype", "casting"):
                raise TypeError(f"Wrong arguments {{{word!r}: {kwargs[word]!r}}}")
        inputs = [_unwrap(x, strict=True) for x in args[: self.nin]]
        outputs = args[self.nin :] or kwargs.pop("out", None)
        if outputs is not None:
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            if len(outputs) != self.nout:
                raise TypeError(f"{self._name}: expected {self.nout} outputs, got {len(outputs)}")
            kwargs["out"] = tuple(_array(out, f"{self._name}, out") for out in outputs)
        result = _quiet(self._ufunc, *inputs, **kwargs)
        return outputs[0] if outputs is not None and self.nout == 1 else _wrap(result)

    def at(self, a, indices, b=None):
        if self._name not in _SCATTER:
            raise NotImplementedError(f"`cupy_{self._name}.at` is not supported yet")
        host = _array(a, f"{self._name}.at")
        if host.dtype.char not in _ATOMIC.get(self._name, _DTYPES):
            raise TypeError(f"scatter_{self._name} does not support {host.dtype}: there is no such atomic operation")
        value = np.asarray(_unwrap(b, strict=True)).astype(host.dtype)
        _quiet(self._ufunc.at, host, _index(indices, host.shape), value)

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self._name not in _REDUCES:
            raise NotImplementedError(f"`cupy_{self._name}.reduce` is not supported yet")
        return getattr(array, _REDUCES[self._name])(axis, dtype, out, keepdims)

    def accumulate(self, array, axis=0, dtype=None, out=None):
        if self._name not in _REDUCES:
            raise NotImplementedError(f"`cupy_{self._name}.accumulate` is not supported yet")
        return getattr(array, f"cum{_REDUCES[self._name]}")(axis, dtype, out)

    def outer(self, A, B):
        return _wrap(_quiet(self._ufunc.outer, _array(A, "outer"), _array(B, "outer")))


# --- Functions -------------------------------------------------------------------------------------------------------

FUNCTIONS = {  # name -> parameters, CuPy's
    # creation
    "empty": "shape dtype order",
    "zeros": "shape dtype order",
    "ones": "shape dtype order",
    "full": "shape fill_value dtype order",
    "arange": "start stop step dtype",
    "linspace": "start stop num endpoint retstep dtype axis",
    "eye": "N M k dtype order",
    "identity": "n dtype",
    "tri": "N M k dtype",
    "indices": "dimensions dtype",
    "empty_like": "prototype dtype order subok shape",
    "zeros_like": "a dtype order subok shape",
    "ones_like": "a dtype order subok shape",
    "full_like": "a fill_value dtype order subok shape",
    "copy": "a order",
    "ascontiguousarray": "a dtype",
    "asfortranarray": "a dtype",
    "meshgrid": "*xi **kwargs",
    # shape
    "reshape": "a newshape order * copy",
    "ravel": "a order",
    "transpose": "a axes",
    "permute_dims": "a axes",
    "matrix_transpose": "x",
    "swapaxes": "a axis1 axis2",
    "moveaxis": "a source destination",
    "expand_dims": "a axis",
    "squeeze": "a axis",
    "broadcast_to": "array shape",
    "broadcast_arrays": "*args",
    "atleast_1d": "*arys",
    "atleast_2d": "*arys",
    "stack": "tup axis out * dtype casting",
    "concatenate": "tup axis out * dtype casting",
    "concat": "tup axis out * dtype casting",
    "vstack": "tup * dtype casting",
    "hstack": "tup * dtype casting",
    "split": "ary indices_or_sections axis",
    "array_split": "ary indices_or_sections axis",
    "pad": "array pad_width mode **kwargs",
    "flip": "a axis",
    "fliplr": "a",
    "flipud": "a",
    "roll": "a shift axis",
    "rot90": "a k axes",
    "repeat": "a repeats axis",
    "tile": "A reps",
    "tril": "m k",
    "triu": "m k",
    "diag": "v k",
    "diagonal": "a offset axis1 axis2",
    # selection
    "where": "condition x y",
    "take": "a indices axis out",
    "take_along_axis": "a indices axis",
    "put_along_axis": "arr indices values axis",
    "copyto": "dst src casting where",
    "nonzero": "a",
    "flatnonzero": "a",
    "argwhere": "a",
    "unique": "ar return_index return_inverse return_counts axis * equal_nan",
    "searchsorted": "a v side sorter",
    "isin": "element test_elements assume_unique invert",
    # products
    "matmul": "*args axes axis keepdims casting dtype signature order out",
    "dot": "a b out",
    "tensordot": "a b axes",
    "inner": "a b",
    "outer": "a b out",
    "vdot": "a b",
    "kron": "a b",
    "einsum": "*operands **kwargs",
    # reductions and scans
    "sum": "a axis dtype out keepdims",
    "prod": "a axis dtype out keepdims",
    "mean": "a axis dtype out keepdims",
    "var": "a axis dtype out ddof keepdims",
    "std": "a axis dtype out ddof keepdims",
    "max": "a axis out keepdims",
    "min": "a axis out keepdims",
    "amax": "a axis out keepdims",
    "amin": "a axis out keepdims",
    "all": "a axis out keepdims",
    "any": "a axis out keepdims",
    "argmax": "a axis dtype out keepdims",
    "argmin": "a axis dtype out keepdims",
    "nansum": "a axis dtype out keepdims",
    "nanmax": "a axis out keepdims",
    "nanmin": "a axis out keepdims",
    "median": "a axis out overwrite_input keepdims",
    "quantile": "a q axis out overwrite_input method keepdims * interpolation",
    "count_nonzero": "a axis",
    "bincount": "x weights minlength",
    "cumsum": "a axis dtype out",
    "cumprod": "a axis dtype out",
    "diff": "a n axis prepend append",
    "trace": "a offset axis1 axis2 dtype out",
    "argsort": "a axis kind",
    "sort": "a axis kind",
    "argpartition": "a kth axis",
    "partition": "a kth axis",
    # elementwise
    "clip": "a a_min a_max out",
    "round": "a decimals out",
    "nan_to_num": "x copy nan posinf neginf",
    "isclose": "a b rtol atol equal_nan",
    "allclose": "a b rtol atol equal_nan",
    "array_equal": "a1 a2 equal_nan",
    # about arrays: answered on the host, without waiting
    "ndim": "a",
    "shape": "a",
    "result_type": "*arrays_and_dtypes",
    "can_cast": "from_ to casting",
    "promote_types": "type1 type2",
    "issubdtype": "arg1 arg2",
    "iscomplexobj": "x",
    "isscalar": "element",
    "shares_memory": "a b max_work",
    "may_share_memory": "a b max_work",
    "broadcast_shapes": "*args",
    "finfo": "dtype",
    "iinfo": "int_type",
    # rooms
    "linalg.norm": "x ord axis keepdims",
    "lib.stride_tricks.sliding_window_view": "x window_shape axis * subok writeable",
    "lib.stride_tricks.as_strided": "x shape strides",
}
_CONSTANTS = """
bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intp float16 float32 float64 complex64 complex128 dtype generic
number integer signedinteger unsignedinteger inexact floating newaxis pi inf nan e
"""
CONSTANTS = _CONSTANTS.split()
_HOST = {"ndim", "shape", "result_type", "can_cast", "promote_types", "issubdtype", "iscomplexobj", "isscalar"}
_HOST |= {"shares_memory", "may_share_memory", "broadcast_shapes", "finfo", "iinfo"}
_FIRST_IS_ARRAY = {"a", "x", "ar", "ary", "array", "arr", "m", "v", "A", "a1", "element", "condition", "dst"}
_FIRST_IS_ARRAY |= {"prototype"}
_BOTH_ARRAYS = {"dot", "inner", "outer", "vdot", "kron", "tensordot", "searchsorted"}
_BOTH_ARRAYS |= {"take_along_axis", "put_along_axis"}


def _function(name):
    path = name.split(".")
    function = np
    for part in path:
        function = getattr(function, part)
    parameters = _Parameters(name, FUNCTIONS[name])
    first = parameters.positional[0] if parameters.positional else None
    leading = 3 if name == "where" else 2  # in these places NumPy and CuPy agree, if not always in the name

    def call(*args, **kwargs):
        args, kwargs = parameters.bind(args, kwargs, leading)
        if args and name not in _HOST:
            if first in _FIRST_IS_ARRAY:
                _array(args[0], name)
            elif first == "tup":
                for item in args[0]:
                    _array(item, name)
            if name in _BOTH_ARRAYS and len(args) > 1:
                _array(args[1], name)
        if name == "matmul":
            for item in args[:2]:
                _array(item, name)
            if args[0].ndim == args[1].ndim == 2:
                tf32 = args[0].dtype.char == "f" and _get_compute_type("f") == _LINALG["COMPUTE_TYPE_TF32"]
                products.append({"name": "gemmEx", "dtype": args[0].dtype.name, "tf32": tf32})
            else:
                products.append({"name": "copies", "dtype": args[0].dtype.name, "tf32": False})
        elif name == "einsum":
            for item in args[1:]:
                _array(item, name)
        elif name in ("where", "clip", "copyto", "isclose", "allclose"):
            for item in (*args[1:], *kwargs.values()):
                if not isinstance(item, (str, type(None))):
                    _unwrap(item, strict=True)
        out = kwargs.get("out")
        if out is not None:
            _array(out, f"{name}, out")
        if name in _WAITS or (name == "where" and len(args) == 1):
            _synchronize()
        args, kwargs = list(_unwrap(args)), {word: _unwrap(value) for word, value in kwargs.items()}
        if name in ("take", "take_along_axis", "put_along_axis"):
            _wrap_arguments(args, kwargs)
        result = _quiet(function, *args, **kwargs)
        if out is not None:
            return out
        return result if name in _HOST or result is None else _wrap(result)

    call.__name__ = call.__qualname__ = path[-1]
    return call


def _wrap_arguments(args, kwargs):
    """Out-of-range indices of take and its like wrap around."""
    a, axis = args[0], kwargs.get("axis")
    indices = args.pop(1) if len(args) > 1 else kwargs.pop("indices")
    kwargs["indices"] = _wrap_around(np.asarray(indices), a.size if axis is None else a.shape[axis])


def _asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    """The way onto the device: copies what comes from the host; what is there already stays."""
    if isinstance(a, ndarray):
        moved = a._host.astype(dtype or a.dtype, copy=bool(copy))
        return a if moved is a._host else _wrap(moved)
    if copy is False:
        raise ValueError("asarray: copy=False, but the data is on the host")
    if isinstance(a, (list, tuple)):
        a = _unwrap(list(a)) if any(isinstance(x, ndarray) for x in a) else a
    return _wrap(np.array(a, dtype=dtype, order=order or "K"))


def _new_array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    made = _asarray(obj, dtype, order, copy=True) if copy else _asarray(obj, dtype, order)
    return made if made.ndim >= ndmin else made.reshape((1,) * (ndmin - made.ndim) + made.shape)


def _asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a)


def _size(a, axis=None):
    return np.size(_array(a, "size"), axis)


def _get_array_module(*args):
    return cupy if any(isinstance(a, ndarray) for a in args) else np


def _erf(x):
    return _wrap(np.vectorize(math.erf, otypes=[x.dtype])(_array(x, "erf")))


# --- cuBLAS ----------------------------------------------------------------------------------------------------------

_CUBLAS = {  # as CuPy 14.2 has them
    "CUBLAS_OP_N": 0, "CUBLAS_OP_T": 1, "CUBLAS_GEMM_DEFAULT": -1, "CUBLAS_COMPUTE_32F": 68,
    "CUBLAS_COMPUTE_32F_FAST_TF32": 77, "CUBLAS_COMPUTE_64F": 70,
}  # fmt: skip
_RUNTIME = {"CUDA_R_16F": 2, "CUDA_R_32F": 0, "CUDA_R_64F": 1}
_LINALG = {"COMPUTE_TYPE_TBD": 0, "COMPUTE_TYPE_DEFAULT": 1, "COMPUTE_TYPE_TF32": 7}
_compute_types = {}  # dtype -> what set_compute_type said
products = []  # the calls of cuBLAS so far, as dicts; of `matmul` of two matrices: {"name": "gemmEx", "tf32": ...}


def _set_compute_type(dtype, compute_type):
    if compute_type not in _LINALG.values():
        raise ValueError(f"Unknown compute type: {compute_type}")
    _compute_types[np.dtype(dtype).char] = compute_type


def _get_compute_type(dtype):
    return _compute_types.get(np.dtype(dtype).char, 1)


def _gemm_strided_batched_ex(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta, C, Ctype, ldc, strideC,
    batchCount, computeType, algo,
):  # fmt: skip
    """C = alpha op(A) op(B) + beta C for every matrix of a stack, on memory, read column by column as cuBLAS does."""
    for value in (handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, ldb, strideB, C, ldc, strideC):
        if not isinstance(value, (int, np.integer)):
            raise TypeError(f"an integer is required, got {type(value)}")
    dtypes = {code: np.dtype(name) for name, code in (("f2", 2), ("f4", 0), ("f8", 1))}
    supported = {(2, 2, 68), (2, 0, 68), (0, 0, 68), (0, 0, 77), (1, 1, 70)}
    legal = lda >= (k if transa else m) and ldb >= (n if transb else k) and ldc >= m
    if Atype != Btype or (Atype, Ctype, computeType) not in supported or not legal or min(m, n, k, batchCount) < 0:
        raise RuntimeError("CUBLAS_STATUS_INVALID_VALUE")
    double = computeType == 70
    scalars = [np.ctypeslib.as_array((ctypes.c_double if double else ctypes.c_float).from_address(x)) for x in (alpha, beta)]

    def matrices(address, code, rows, columns, leading, stride):
        dtype, last = dtypes[code], (batchCount - 1) * stride + (columns - 1) * leading + rows
        memory = np.frombuffer((ctypes.c_char * (last * dtype.itemsize)).from_address(address), dtype)
        steps = [step * dtype.itemsize for step in (stride, 1, leading)]
        return np.lib.stride_tricks.as_strided(memory, (batchCount, rows, columns), steps)

    a = matrices(A, Atype, *((k, m) if transa else (m, k)), lda, strideA)
    b = matrices(B, Btype, *((n, k) if transb else (k, n)), ldb, strideB)
    c = matrices(C, Ctype, m, n, ldc, strideC)
    a, b = (x.astype(np.float64 if double else np.float32) for x in (a, b))
    product = _quiet(np.matmul, a.swapaxes(1, 2) if transa else a, b.swapaxes(1, 2) if transb else b)
    _quiet(c.__setitem__, ..., product * scalars[0] + (c * scalars[1] if scalars[1] else 0))
    products.append({"name": "gemmStridedBatchedEx", "dtype": dtypes[Atype].name, "batch": batchCount,
                     "tf32": computeType == 77, "transposed": (transa, transb)})  # fmt: skip


# --- The modules -----------------------------------------------------------------------------------------------------


class _Module(types.ModuleType):
    def __getattr__(self, name):
        raise AttributeError(f"module {self.__name__!r} (the tests' stand-in) has no attribute {name!r}")


def _build():
    cupy = _Module("cupy")
    modules = {"cupy": cupy}
    rooms = "cupy.cuda cupy.cuda.runtime cupy.linalg cupy.lib cupy.lib.stride_tricks"
    rooms += " cupy._core cupy._core._routines_linalg"
    backends = "cupy_backends cupy_backends.cuda cupy_backends.cuda.libs cupy_backends.cuda.libs.cublas "
    backends += "cupy_backends.cuda.api cupy_backends.cuda.api.runtime"
    for path in (rooms + " cupyx cupyx.scipy cupyx.scipy.special " + backends).split():
        modules[path] = _Module(path)
        parent, _, name = path.rpartition(".")
        if parent:
            setattr(modules[parent], name, modules[path])
    for module in modules.values():
        module.__path__ = []  # a package: `import cupy.cuda` finds it in sys.modules
    cupy.__version__ = "14.2.0"
    cupy.ndarray, cupy.ufunc = ndarray, ufunc
    for name in CONSTANTS:
        setattr(cupy, name, getattr(np, name))
    for name in UFUNCS:
        setattr(cupy, name, ufunc(name))
    for name in FUNCTIONS:
        room, _, last = ("cupy." + name).rpartition(".")
        setattr(modules[room], last, _function(name))
    cupy.asarray, cupy.array, cupy.asnumpy = _asarray, _new_array, _asnumpy
    cupy.size, cupy.get_array_module = _size, _get_array_module
    cupy.cuda.Device, cupy.cuda.is_available = Device, lambda: True
    cupy.cuda.runtime.getDeviceCount = lambda: 1
    modules["cupyx.scipy.special"].erf = _erf
    cupy.cuda.get_cublas_handle = lambda: 1
    cupy.cuda.runtime.getDeviceProperties = lambda device: {"name": b"no GPU at all"}
    cupy.cuda.runtime.runtimeGetVersion = lambda: 12090
    cupy.get_default_memory_pool = _Pool
    vars(modules["cupy_backends.cuda.libs.cublas"]).update(_CUBLAS, gemmStridedBatchedEx=_gemm_strided_batched_ex)
    vars(modules["cupy_backends.cuda.api.runtime"]).update(_RUNTIME)
    vars(modules["cupy._core._routines_linalg"]).update(
        _LINALG, set_compute_type=_set_compute_type, get_compute_type=_get_compute_type
    )
    return modules


MODULES = _build()  # name -> module, as they go into sys.modules
cupy = MODULES["cupy"]


def install(monkeypatch):
    """Put the stand-in where `import cupy` finds it, until the test is over; gives the module `cupy`."""
    for name in [n for n in sys.modules if n.partition(".")[0] in ("cupy", "cupyx", "cupy_backends")]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)
    _compute_types.clear()
    products.clear()
    return cupy

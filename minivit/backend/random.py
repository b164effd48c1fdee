"""Random numbers that are counted, not drawn: each is a pure function of a seed and of where it is used.

A generator that walks from state to state makes the number at one place depend on how many were drawn before it. Here
the dropout mask of step 120, layer 3 is `bernoulli(0.9, seed, "dropout", 120, 3, shape=x.shape)`, whoever asks,
whenever and as often as they ask. So a resumed run goes on as if it had never stopped, a second forward pass (for a
derivative of higher order, or to save memory) sees the mask of the first, a shard of a batch sees its own rows of the
whole batch's noise, and a CPU and a GPU see the same bits. The lecture's learnable matrices (E, E_pos, W_qkv, ...)
begin with numbers from here; so do dropout and the random starts of its iterated
attacks.

The hash is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), with the
finalizer "Mix13" of D. Stafford. Read as a tree: number c of the generator seeded with h,

    h' = mix(h + (c + 1) * gamma)   modulo 2**64,

is also the seed of a new generator below it, so that a path of coordinates (c1, c2, ...) leads from a seed to one
number. Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, say why counting is a
good way to draw in parallel. Integers that wrap around are the same on every machine; that the floats are too
follows, because 24 (53) random bits are exact in float32 (float64). Not for secrets: the seed can be computed back
from the numbers.
"""

import hashlib
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minivit.backend.arrays import array_module, is_array

_GAMMA = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, odd: steps of it visit every 64-bit number
_MASK = 2**64 - 1
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))  # Mix13: (shift, multiplier)
_BLOCK = 1 << 14  # numbers mixed at a time on a CPU: two buffers of 128 KiB stay in its second-level cache


def as_seed(seed: "int | np.random.Generator") -> int:
    """An integer seed in [0, 2**64): an int as it is, from a `numpy.random.Generator` its next 64 bits."""
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(2**64, dtype=np.uint64))
    return _integer("seed", seed)


def hash_bits(seed: int, *coordinates: Any, xp: Any = None) -> Any:
    """64 random bits for each place: a uint64 array of the coordinates' broadcast shape (0-d where all are scalars).

    Coordinates (one at least) are ints in [0, 2**64), integer arrays (taken modulo 2**64), or strings, which name
    what the bits are for ("dropout"): two uses that must not be correlated differ in one coordinate. `xp` is the
    array module of the result; without it that of the coordinates, or NumPy. Raises TypeError and ValueError for
    anything else.
    """
    if not coordinates:
        raise ValueError("hash_bits: got a seed and no coordinates; name the place, as in hash_bits(seed, step, index)")
    state, xp = _walk(seed, coordinates, xp)
    return xp.full((), _uint64(state)) if isinstance(state, int) else state


def uniform(seed: int, *coordinates: Any, shape: Any = None, dtype: Any = "float32", xp: Any = None) -> Any:
    """Uniform numbers in [0, 1): multiples of 2**-24 in float32, of 2**-53 in float64; the same bits on every device.

    One number for each place, as in `hash_bits`. With `shape`, each place gets an array of that shape, and the
    element's flat index is the last coordinate: the result has the shape `coordinates' broadcast shape + shape`, so
    that

        uniform(seed, step, index, shape=(H, W, C))     # index: (B,) -> (B, H, W, C), image i as if it were alone
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"uniform: dtype is {dtype}, expected float32 or float64")
    digits = 24 if dtype == np.float32 else 53

    def to_float(bits: Any, out: Any) -> None:
        bits >>= np.uint64(64 - digits)
        out[...] = bits  # exact: no more than `digits` bits are left
        out *= dtype.type(2.0**-digits)

    return _fill(seed, coordinates, shape, xp, dtype, to_float)


def bernoulli(p: float, seed: int, *coordinates: Any, shape: Any = None, xp: Any = None) -> Any:
    """A mask that is True with probability `p` in [0, 1]; places and `shape` as in `uniform`.

    Integers are compared (bits < p * 2**64), so that p=0 is never, p=1 is always, and rounding plays no part.
    """
    if isinstance(p, bool) or not isinstance(p, (int, float, np.integer, np.floating)) or not 0 <= p <= 1:
        raise ValueError(f"bernoulli: p is {p!r}, expected a probability, a number from 0 to 1")
    threshold = int(math.ldexp(float(p), 64))  # p is a 53-bit fraction: nothing is lost unless p < 2**-11

    def to_mask(bits: Any, out: Any) -> None:
        if threshold > _MASK:
            out[...] = True
        else:
            out[...] = bits < np.uint64(threshold)

    return _fill(seed, coordinates, shape, xp, np.dtype(bool), to_mask)


def normal(seed: int, *coordinates: Any, shape: Any = None, dtype: Any = "float32", xp: Any = None) -> Any:
    """Standard normal numbers by the method of Box and Muller (1958); places and `shape` as in `uniform`.

    Two uniforms u, v of float64 give two normals, sqrt(-2 log(1 - u)) times cos(2 pi v) and sin(2 pi v). Logarithm
    and cosine differ in their last bit from device to device; so they are taken on the host, and the result is moved
    to `xp`.
    """
    if shape is None:  # one number for each place: the first of a pair
        return normal(seed, *coordinates, shape=(1,), dtype=dtype, xp=xp)[..., 0]
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"normal: dtype is {np.dtype(dtype)}, expected float32 or float64")
    if any(array_module(c) is not np for c in coordinates):
        raise TypeError("normal: a coordinate is on the GPU, but normals are drawn on the host; give NumPy indices")
    shape = _shape(shape)
    n = math.prod(shape)
    u = uniform(seed, *coordinates, shape=(n + n % 2,), dtype="float64")  # (..., n), one more where n is odd
    radius = np.sqrt(-2.0 * np.log1p(-u[..., 0::2]))  # log(1 - u): u is never 1, so it is finite
    angle = 2.0 * math.pi * u[..., 1::2]
    u[..., 0::2] = radius * np.cos(angle)
    u[..., 1::2] = radius * np.sin(angle)
    z = u[..., :n].astype(dtype).reshape(u.shape[:-1] + shape)
    return z if xp is None else xp.asarray(z)


def permutation(n: int, seed: int, *coordinates: int | str) -> np.ndarray:
    """The numbers 0 .. n-1 in random order, an int64 array (n,) on the host: n places sorted by their hashes."""
    n = _integer("n", n)
    if any(not isinstance(c, (int, str, np.integer)) for c in coordinates):
        raise TypeError(f"permutation: coordinates are {coordinates}, expected ints and strings: one place, one order")
    bits = hash_bits(seed, *coordinates, np.arange(n))
    return np.argsort(bits, kind="stable").astype(np.int64)  # stable: ties (2**-64 per pair) are the same everywhere


# How it is done: the walk along the coordinates, then the last coordinate in blocks.


def _walk(seed: int, coordinates: tuple, xp: Any) -> tuple[Any, Any]:
    """Follow the coordinates from the seed: (an int or a new uint64 array, the array module of what is drawn)."""
    if isinstance(seed, np.random.Generator):
        raise TypeError("seed is a numpy.random.Generator, expected an int; as_seed(generator) draws one from it")
    state: Any = _integer("seed", seed)
    places = [c if is_array(c) and c.ndim else _integer("coordinate", c) for c in coordinates]
    home = array_module(*[c for c in places if not isinstance(c, int)])
    for c in places:
        if isinstance(c, int):
            step: Any = (c + 1) * _GAMMA & _MASK
        elif c.dtype.kind in "iu":
            step = c.astype("uint64")  # a copy; negative ones wrap
            step += np.uint64(1)
            step *= np.uint64(_GAMMA)
        else:
            raise TypeError(f"a coordinate is an array of {c.dtype}, expected integers")
        if isinstance(state, int) and isinstance(step, int):
            state = _mix_int((state + step) & _MASK)
        else:
            state = _uint64(state) + _uint64(step)
            _mix(state, home.empty_like(state), home)
    xp = home if xp is None else xp
    if home is not xp and not isinstance(state, int):
        if home is not np:
            raise TypeError("a coordinate is on the GPU but xp is NumPy; leave xp out, or move the coordinate")
        state = xp.asarray(state)
    return state, xp


def _fill(seed: int, coordinates: tuple, shape: Any, xp: Any, dtype: np.dtype, finish: Callable) -> Any:
    """An array of `finish(bits, out)`, which may overwrite its bits; places and `shape` as in `uniform`."""
    if shape is None:
        bits = hash_bits(seed, *coordinates, xp=xp)
        out = array_module(bits).empty(bits.shape, dtype)
        finish(bits, out)
        return out
    shape = _shape(shape)
    state, xp = _walk(seed, coordinates, xp)
    lead = () if isinstance(state, int) else state.shape
    keys = xp.full(1, _uint64(state)) if isinstance(state, int) else state.reshape(-1)
    out = xp.empty((keys.size, math.prod(shape)), dtype)
    for rows, columns in _blocks(out.shape[0], out.shape[1], whole=xp is not np):
        steps = xp.arange(columns.start + 1, columns.stop + 1, dtype="uint64")
        steps *= np.uint64(_GAMMA)
        bits = keys[rows, None] + steps  # (K, 1) + (n,) -> (K, n)
        _mix(bits, xp.empty_like(bits), xp)
        finish(bits, out[rows, columns])
    return out.reshape(lead + shape)


def _blocks(height: int, width: int, whole: bool) -> Iterator[tuple[slice, slice]]:
    """Cut a (height, width) array into blocks of about _BLOCK elements, or not at all."""
    if height * width == 0:
        return
    wide = width if whole else min(width, _BLOCK)
    high = height if whole else max(1, _BLOCK // wide)
    for row in range(0, height, high):
        for column in range(0, width, wide):
            yield slice(row, min(row + high, height)), slice(column, min(column + wide, width))


def _mix(z: Any, spare: Any, xp: Any) -> None:
    """Mix13 in place on a uint64 array: each input bit changes each output bit with probability about 1/2."""
    for shift, multiplier in _ROUNDS:
        xp.right_shift(z, np.uint64(shift), out=spare)
        z ^= spare
        if multiplier != 1:
            z *= np.uint64(multiplier)


def _mix_int(z: int) -> int:
    for shift, multiplier in _ROUNDS:
        z = (z ^ z >> shift) * multiplier & _MASK
    return z


def _uint64(value: Any) -> Any:
    return np.uint64(value) if isinstance(value, int) else value


def _integer(name: str, value: Any) -> int:
    if name == "coordinate" and isinstance(value, str):
        return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        hint = ", an integer array or a string" if name == "coordinate" else ""
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), expected an int{hint}")
    if not 0 <= value < 2**64:
        raise ValueError(f"{name} is {value}, expected 0 <= {name} < 2**64")
    return int(value)


def _shape(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(n) for n in (shape if isinstance(shape, (tuple, list)) else (shape,)))
    except TypeError:
        raise TypeError(f"shape is {shape!r}, expected an int or a tuple of ints") from None
    if any(n < 0 for n in sizes):
        raise ValueError(f"shape is {shape}, expected no negative size")
    return sizes

"""What a function keeps, and what changes there while another runs.

A forward written by hand leaves values for its backward: in a variable outside, in a dict or list, as an attribute of
itself or of `self`. `places` finds the arrays that functions can reach so; a `Watch` notes, instruction by instruction,
what each place held during a call and which line changed it. `overwritten.py` uses both.
"""

from __future__ import annotations

import dis
import functools
import linecache
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
_MOST_STEPS = 4000  # of one call that are watched, and
_MOST_NUMBERS = 20_000_000  # numbers that are compared meanwhile; beyond, nothing is said
_MOST_PLACES = 300
_STDLIB, _NUMPY, _CHECKING = (os.path.dirname(file) for file in (os.__file__, np.__file__, __file__))
_OURS = ("minivit.autograd", "minivit.backend", "minivit.checking")


class Place(NamedTuple):
    """Where an array is kept.

    Attributes:
        key: the same for the same place.
        name: as one would write it, `saved['y']`.
        value: the array that is there now.
        get, put: what is there, and putting something else there.
    """

    key: tuple[int, Any]
    name: str
    value: Array
    get: Callable[[], Any]
    put: Callable[[Any], None]


def places(*functions: Any) -> list[Place]:
    """The arrays that functions can reach through variables from outside, attributes, `self`, and other functions."""
    found: list[Place] = []
    seen: set[int] = set()

    def walk(value: Any, name: str, put: Callable[[Any], None], depth: int) -> None:
        if depth > 6 or id(value) in seen or len(found) >= _MOST_PLACES:
            return
        seen.add(id(value))
        for box, key, label, put_there in _items(value, name, put):
            get = functools.partial(_get, box, key)
            item = get()
            if isinstance(item, np.ndarray) and item.dtype.kind in "fiub":
                found.append(Place((id(box), key), label, item, get, put_there))
            else:
                walk(item, label, put_there, depth + 1)

    for f in functions:
        walk(f, getattr(f, "__name__", "f"), _not_put, 0)
    return found


def _items(value: Any, name: str, put: Callable[[Any], None]) -> Iterator[tuple[Any, Any, str, Callable[[Any], None]]]:
    """What is in something: (the box, its key in it, its name, how to put another there)."""

    def of(box: Any, keys: Any, how: Callable[..., None], label: str) -> Iterator[Any]:
        return ((box, key, label.format(name=name, key=key), functools.partial(how, box, key)) for key in list(keys))

    if isinstance(value, types.MethodType):
        yield (value, "__self__", "self", _not_put)
        yield (value, "__func__", name, _not_put)
    elif isinstance(value, functools.partial):
        yield from of(value, ("func", "args", "keywords"), setattr, "{name}.{key}")
    elif isinstance(value, types.FunctionType):
        if _foreign(value.__code__.co_filename):
            return
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            yield cell, "cell_contents", variable, functools.partial(setattr, cell, "cell_contents")
        yield from of(value.__globals__, (v for v in _names_in(value.__code__) if v in value.__globals__), _set, "{key}")
        yield from of(value.__dict__, value.__dict__, _set, "{name}.{key}")
        if value.__defaults__:
            arguments = value.__code__.co_varnames[: value.__code__.co_argcount][-len(value.__defaults__) :]
            for k, variable in enumerate(arguments):
                put = functools.partial(_set_in_tuple, value.__defaults__, k, functools.partial(setattr, value, "__defaults__"))
                yield value.__defaults__, k, variable, put
    elif isinstance(value, dict):
        yield from of(value, value, _set, "{name}[{key!r}]")
    elif isinstance(value, list):
        yield from of(value, range(len(value)), _set, "{name}[{key}]")
    elif isinstance(value, tuple):
        for k in range(len(value)):
            yield value, k, f"{name}[{k}]", functools.partial(_set_in_tuple, value, k, put)
    elif not isinstance(value, types.ModuleType) and not _belongs_to(value).startswith(_OURS):
        attributes = getattr(value, "__dict__", {})
        yield from of(value, (a for a in attributes if not a.startswith("__")), setattr, "{name}.{key}")


def _belongs_to(value: Any) -> str:
    return str(getattr(value if isinstance(value, type) else type(value), "__module__", ""))


def _get(box: Any, key: Any) -> Any:
    try:
        return box[key] if isinstance(box, dict | list | tuple) else getattr(box, key)
    except (AttributeError, KeyError, IndexError, ValueError):  # gone by now; an empty cell is a ValueError
        return None


def _set(box: Any, key: Any, value: Any) -> None:
    with suppress(IndexError):  # taken from a list meanwhile
        box[key] = value


def _set_in_tuple(box: tuple[Any, ...], k: int, put: Callable[[Any], None], value: Any) -> None:
    put(box if value is box[k] else (*box[:k], value, *box[k + 1 :]))


def _not_put(_: Any) -> None:
    pass


@contextmanager
def others_in(values: Sequence[tuple[Place, Array]]) -> Iterator[None]:
    """Within this block copies of other arrays stand in some places."""
    before = [place.get() for place, _ in values]
    for place, value in values:
        place.put(value.copy())
    try:
        yield
    finally:
        for (place, _), value in zip(values, before):
            place.put(value)


def same(a: Any, b: Array) -> bool:
    return isinstance(a, np.ndarray) and a.shape == b.shape and a.dtype == b.dtype and np.array_equal(
        a, b, equal_nan=a.dtype.kind == "f")  # fmt: skip


@functools.lru_cache(maxsize=256)
def _names_in(code: types.CodeType) -> tuple[str, ...]:
    """The names that code, and code within it, may look up among the globals."""
    inner = (name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names_in(c))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


@functools.lru_cache(maxsize=64)
def _bytecode(code: types.CodeType) -> bytes:
    return code.co_code


@functools.cache
def _foreign(filename: str) -> bool:
    """Whether a file is Python's, NumPy's, or this room's: of no interest."""
    return filename.startswith(("<frozen", _STDLIB, _NUMPY, _CHECKING))


# ---- watching ----


class Version(NamedTuple):
    value: Array
    line: int
    text: str
    rebound: bool


@dataclass
class History:
    """What a place held, in order; `old`: whether the first of it is from before the call."""

    place: Place
    old: bool
    last: Array
    versions: list[Version] = field(default_factory=list)

    def candidates(self) -> list[int]:
        """Positions of the versions that were there during the call and were overwritten within it."""
        return list(range(int(self.old), len(self.versions) - 1))


_WRITING = {number for name, number in dis.opmap.items()
            if name.startswith(("STORE", "CALL", "BINARY_OP", "INPLACE", "DELETE", "PRECALL", "RETURN"))}  # fmt: skip


class Watch:
    """Within this block everything that changes in the places of some functions is noted, instruction by instruction.

    Does nothing under a debugger or where lines are counted: there is one such listener per thread.

    Args:
        functions: whose places.
        results: watch the local variables of the called functions instead.
    """

    def __init__(self, functions: Sequence[Any], results: bool = False) -> None:
        self.functions, self.results = functions, results
        self.histories: dict[Any, History] = {}
        self.steps = self.numbers = 0
        self.given_up = sys.gettrace() is not None
        self.at: tuple[str, int] = ("", 0)
        self.wrote: dict[int, bool] = {}

    def changed(self) -> list[History]:
        return [] if self.given_up else [h for h in self.histories.values() if h.candidates()]

    def __enter__(self) -> None:
        if not self.given_up:
            self._note(None, old=True)
            sys.settrace(self._enter)

    def __exit__(self, *_: Any) -> None:
        if not self.given_up or sys.gettrace() == self._enter:
            sys.settrace(None)

    def _enter(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if self.given_up or _foreign(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if self.given_up:
            frame.f_trace_opcodes = False
            return None
        if event in ("line", "opcode"):
            if event == "line" or self.wrote.get(id(frame)):  # the instruction before this one has been carried out by now
                self._note(frame)
            self.wrote[id(frame)] = _bytecode(frame.f_code)[frame.f_lasti] in _WRITING
            self.at = (frame.f_code.co_filename, frame.f_lineno)
        elif event == "return":
            self._note(frame)
            self.wrote.pop(id(frame), None)
        return self._step

    def _note(self, frame: types.FrameType | None, old: bool = False) -> None:
        self.steps += 1
        if self.results:
            here = [] if frame is None else _locals(frame)
        else:
            here = places(*self.functions)
        self.numbers += sum(p.value.size for p in here)
        if self.steps > _MOST_STEPS or self.numbers > _MOST_NUMBERS:
            self.given_up = True
            return
        for place in here:
            h = self.histories.get(place.key)
            there = h is not None and place.value is h.last
            if h is None:
                h = self.histories[place.key] = History(place, old, place.value)
            elif there and same(place.value, h.versions[-1].value):
                continue
            file, line = self.at
            h.versions.append(Version(place.value.copy(), line, linecache.getline(file, line).strip()[:60], not there))
            h.last = place.value
            h.versions[8:-8] = []  # of a long loop its begin and its end are enough


def _locals(frame: types.FrameType) -> list[Place]:
    """The arrays that stand in local variables, each under its identity: one array may go by several names."""
    return [Place((id(value), "local"), name, value, _no_value, _not_put)
            for name, value in frame.f_locals.items() if isinstance(value, np.ndarray)]  # fmt: skip


def _no_value() -> None:
    return None

"""Is an argument what it must be? An error says which one, what came, what was expected, and what may be meant.

    steps = integer("steps", steps, least=1)         # 10.0 -> TypeError: steps: expected an integer, got 10.0
    norm = choice("norm", norm, ("linf", "l2"))      # "L2" -> ValueError: norm: expected one of ..., did you mean 'l2'?
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Any

import numpy as np


def integer(name: str, value: Any, least: int = 0) -> int:
    """`value` as an int from `least` to 2**63 - 1."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if not least <= number < 2**63:
        raise ValueError(f"{name}: expected an integer of at least {least}" + ", below 2**63" * (number >= 2**63)
                         + f", got {number}")
    return number


def real(name: str, value: Any) -> float:
    """`value` as a finite float."""
    if isinstance(value, bool | np.bool_ | str) or np.ndim(value) != 0:
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except TypeError:
        raise TypeError(f"{name}: expected a number, got {value!r}") from None
    except OverflowError:  # an int of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    return number


def choice(name: str, value: Any, known: Collection[str]) -> str:
    """`value` if it is among the known names."""
    if isinstance(value, str) and value in known:
        return value
    near = nearest(value, known)
    raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, known))}"
                     + (f"; did you mean {near!r}?" if near else ""))


def meant(value: Any, known: Collection[str]) -> str:
    """The end of a message about an unknown name: did you mean 'x'? or, where nothing is near, what there is."""
    near = nearest(value, known)
    return f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"


def nearest(value: Any, known: Collection[str]) -> str | None:
    """The name most like `value`, whether in capitals, with dashes for underscores, or with one in front; None if none is."""
    from difflib import get_close_matches

    plain = {name.lower().replace("-", "_"): name for name in known}
    found = get_close_matches(str(value).lower().replace("-", "_").lstrip("_"), plain, 1)
    return plain[found[0]] if found else None

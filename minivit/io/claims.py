"""What a file says of itself: looked at before anything is made for it."""

from __future__ import annotations

from typing import Any

from minivit.io.files import AnyPath, CheckpointError

METADATA = "__metadata__"  # the name safetensors reserves; in an .npz the member of that name holds JSON as bytes
MAX_DIMS = 64  # NumPy's own limit


def is_shape(shape: Any) -> bool:
    """Whether an array may have this shape: a list or tuple of lengths."""
    return len(shape) <= MAX_DIMS and all(type(n) is int and n >= 0 for n in shape)


def short(shape: Any) -> str:
    """A shape for a message, which a file may have made very long."""
    text = str(list(shape))
    return text if len(text) <= 60 else text[:57] + "..."


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(..., object_pairs_hook=unique_names)`: of two values of one name the reader would take the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} appears twice")
        found[name] = value
    return found


def check_metadata(path: AnyPath, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(path, "its metadata are not a map of text to text")


def unfolded_at_most(size: int) -> int:
    """How many bytes a compressed file of that size may unfold into.

    A few kilobytes can unfold into gigabytes. Weights hardly compress and MNIST does 5-fold, so 20-fold is generous.
    """
    return max(64 << 20, 20 * size)

"""Files: written whole or not at all, and read as if a stranger had made them.

A training run is killed, a disk fills, a download stops half-way, and now and then a file is made to do harm. Whatever
happens, three promises hold here:

- A write is **atomic**: a reader finds the old file or the new one, never half of one (`atomic_write`).
- A reader checks what a file claims (sizes, offsets, types) against what is there, *before* it allocates anything.
- Nothing is ever pickled or unpickled: unpickling runs code that the file's author chose.

    write_arrays("m.safetensors", {"weight": w}, {"epoch": "3"})     # or "m.npz", the same arrays and metadata
    arrays, metadata = read_arrays("m.safetensors")

Formats: safetensors (https://github.com/huggingface/safetensors, "Format"): an 8-byte length, a JSON header, the
bytes of the arrays end to end; `.npz` (numpy.lib.format): a zip of `.npy` files; idx (Y. LeCun, C. Cortes, C. Burges,
the MNIST page): a magic number, the dimensions, the bytes; JSON lines: one record a line, for metrics.

Read `files.py` (the first promise), `claims.py` (the second), `arrays.py` with `safetensors.py` and `npz.py`, `idx.py`,
`records.py`.
"""

from minivit.io.arrays import read_arrays, write_arrays
from minivit.io.files import CheckpointError, atomic_write
from minivit.io.idx import read_idx
from minivit.io.records import append_jsonl, plain, read_jsonl, write_json, write_jsonl

__all__ = [
    "CheckpointError", "append_jsonl", "atomic_write", "plain", "read_arrays", "read_idx", "read_jsonl", "write_arrays",
    "write_json", "write_jsonl",
]  # fmt: skip

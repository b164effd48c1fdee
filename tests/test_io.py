"""Files survive whatever happens to their writer, and readers survive whatever is in the file."""

import errno
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minivit.io import (
    CheckpointError,
    append_jsonl,
    atomic_write,
    read_arrays,
    read_idx,
    read_jsonl,
    write_arrays,
    write_json,
)

FORMATS = (".safetensors", ".npz")
_TYPES = "? i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8 >i4 >f4 >f8"
DTYPES = [np.dtype(t) for t in _TYPES.split()]


def leftovers(folder):
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


# ------------------------------------------------------------------------------------------------ round trips


arrays_of_any_kind = st.dictionaries(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8) | st.just("file"),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    max_size=4,
)


@pytest.mark.parametrize("suffix", FORMATS)
@given(
    arrays=arrays_of_any_kind,
    metadata=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.just("v\n")),
)
@settings(max_examples=60, deadline=None)
def test_arrays_and_metadata_come_back_to_the_bit(suffix, arrays, metadata):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix}"
        write_arrays(path, arrays, metadata)
        found, found_metadata = read_arrays(path)
        first = path.read_bytes()
        write_arrays(path, arrays, metadata)
        assert path.read_bytes() == first
    assert found_metadata == metadata
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape
        assert found[name].astype(array.dtype).tobytes() == array.tobytes()  # NaN's bits too
        assert found[name].flags.writeable


@pytest.mark.parametrize("suffix", FORMATS)
def test_views_and_fortran_order_are_stored_by_value(tmp_path, suffix):
    base = np.arange(24.0).reshape(4, 6)
    views = {"transposed": base.T, "strided": base[::-2, ::3], "fortran": np.asfortranarray(base), "one": np.float32(3)}
    write_arrays(tmp_path / f"m{suffix}", views)
    found, _ = read_arrays(tmp_path / f"m{suffix}")
    for name, array in views.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_bytes_do_not_depend_on_the_process(tmp_path):
    code = """
        import sys, numpy as np
        from minivit.io import write_arrays
        write_arrays(sys.argv[1], {"a": np.ones(3), "b": np.ones(2, bool)}, {key: "v" for key in "pqrstuvw"})
    """
    for suffix in FORMATS:
        seen = set()
        for i in range(3):
            path = tmp_path / f"{i}{suffix}"
            subprocess.run([sys.executable, "-c", textwrap.dedent(code), path], check=True)
            seen.add(path.read_bytes())
        assert len(seen) == 1


def test_others_read_what_we_write_and_we_read_what_others_write(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    arrays = {"w": np.ones((2, 3), np.float32), "flag": np.array(True), "none": np.zeros((0, 3), np.int16)}
    write_arrays(tmp_path / "ours.safetensors", arrays, {"a": "b"})
    write_arrays(tmp_path / "ours.npz", arrays)
    save_file(arrays, tmp_path / "theirs.safetensors", {"a": "b"})
    np.savez(tmp_path / "theirs.npz", **arrays)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    with safe_open(tmp_path / "ours.safetensors", "numpy") as file:
        assert file.metadata() == {"a": "b"}
    theirs = [load_file(tmp_path / "ours.safetensors"), dict(np.load(tmp_path / "ours.npz"))]
    ours = [read_arrays(tmp_path / name)[0] for name in ("theirs.safetensors", "theirs.npz", "small.npz")]
    for found in theirs + ours:
        assert found.keys() == arrays.keys()
        for name in arrays:
            np.testing.assert_array_equal(found[name], arrays[name], strict=True)


def test_an_npz_file_holds_no_time_of_day(tmp_path):
    write_arrays(tmp_path / "m.npz", {"w": np.ones(2)}, {"a": "b"})
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_an_npz_file_in_fortran_order_is_read_by_value(tmp_path):
    w = np.arange(24.0).reshape(2, 3, 4)
    np.savez(tmp_path / "m.npz", w=np.asfortranarray(w))
    found = read_arrays(tmp_path / "m.npz")[0]["w"]
    np.testing.assert_array_equal(found, w)
    assert found.flags.c_contiguous


def test_arrays_in_a_safetensors_file_are_aligned(tmp_path):
    arrays = {"odd": np.ones(3, np.uint8), "wide": np.ones(2), "half": np.ones(1, np.float16)}
    write_arrays(tmp_path / "m.safetensors", arrays)
    content = (tmp_path / "m.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for entry in json.loads(content[8 : 8 + length]).values():
        size = {"U8": 1, "F16": 2, "F64": 8}[entry["dtype"]]
        assert (8 + length + entry["data_offsets"][0]) % size == 0


def test_bfloat16_is_widened_exactly(tmp_path):
    values = np.array([[1.0, -2.5, 0.0], [np.inf, 3.140625, -0.0]], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = safetensors_file(tmp_path, {"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}, data)
    np.testing.assert_array_equal(read_arrays(path)[0]["w"], values, strict=True)


# ------------------------------------------------------------------------------------------------ refused at writing


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("arrays", "metadata", "error", "words"),
    [
        ({"w": np.array([{}], object)}, {}, TypeError, r"arrays\['w'\] has dtype object"),
        ({"w": np.array(["text"])}, {}, TypeError, "dtype <U4"),
        ({"w": np.ones(1, complex)}, {}, TypeError, "complex128"),
        ({"w": np.zeros(1, [("a", "f4")])}, {}, TypeError, "dtype"),
        ({"w": np.ones(1, np.longdouble)}, {}, TypeError, "dtype"),
        ({"": np.ones(1)}, {}, ValueError, "name ''"),
        ({"__metadata__": np.ones(1)}, {}, ValueError, "__metadata__"),
        ({"a\0b": np.ones(1)}, {}, ValueError, "printable"),
        ({3: np.ones(1)}, {}, ValueError, "name 3"),
        ({"w": np.ones(1)}, {"epoch": 3}, TypeError, "metadata"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_is_written(tmp_path, suffix, arrays, metadata, error, words):
    with pytest.raises(error, match=words):
        write_arrays(tmp_path / f"m{suffix}", arrays, metadata)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["m.pt", "m.npy", "m", "m.npz.bak"])
def test_another_suffix_is_refused(tmp_path, name):
    for act in (lambda path: write_arrays(path, {}), read_arrays):
        with pytest.raises(ValueError, match=r"must be \.safetensors or \.npz"):
            act(tmp_path / name)


# ------------------------------------------------------------------------------------------------ hostile safetensors


def safetensors_file(folder, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


TWICE = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("header", "data", "length", "words"),
    [
        ({"a": entry()}, b"\0" * 7, None, "truncated: its header promises 8 bytes of data, 7 are there"),
        ({"a": entry()}, b"\0" * 9, None, "1 bytes follow the 8 bytes"),
        ({"a": entry()}, b"\0" * 8, 10_000, "promises a header of 10,000 bytes"),
        ({"a": entry()}, b"\0" * 8, 2**63 + 5, "promises a header of 9,223,"),
        ({"a": entry()}, b"\0" * 8, 20, "not sound JSON"),
        ({"a": entry()}, b"\0" * 8, 0, "not sound JSON"),
        (b"not json", b"", None, "not sound JSON"),
        (b"\xff\xfe{}", b"", None, "not sound JSON"),
        (b"[" * 100_000, b"", None, "not sound JSON"),
        (b'{"a":' * 100_000, b"", None, "not sound JSON"),
        (b"9" * 100_000, b"", None, "not sound JSON"),
        (b"[1]", b"", None, "not a JSON object"),
        (TWICE, b"\0" * 8, None, "'a' appears twice"),
        ({"a": entry(), "b": entry()}, b"\0" * 8, None, "overlaps"),
        ({"a": entry(), "b": entry(begin=4, end=12)}, b"\0" * 12, None, "overlaps"),
        ({"a": entry(begin=4, end=12)}, b"\0" * 12, None, "unused bytes before"),
        ({"a": entry(begin=0, end=-8)}, b"\0" * 8, None, "impossible"),
        ({"a": entry(begin=-8, end=0)}, b"\0" * 8, None, "impossible"),
        ({"a": entry(shape=(-2,))}, b"\0" * 8, None, "impossible"),
        ({"a": entry(shape=(-1, -2))}, b"\0" * 8, None, "impossible"),
        ({"a": entry(shape=(2.0,))}, b"\0" * 8, None, "impossible"),
        ({"a": entry(shape=(True, 2))}, b"\0" * 8, None, "impossible"),
        ({"a": entry(shape=(1,) * 65 + (2,))}, b"\0" * 8, None, "impossible"),
        ({"a": entry(shape=(2**62, 2**62), end=2**126)}, b"\0" * 8, None, "truncated"),
        ({"a": entry(shape=(3,))}, b"\0" * 8, None, "takes 12 bytes, its offsets span 8"),
        ({"a": entry(shape=(0, 2**62, 2**62), end=0)}, b"", None, "not a readable safetensors file"),
        ({"a": entry(dtype="F8_E4M3")}, b"\0" * 8, None, "dtype 'F8_E4M3'"),
        ({"a": entry(dtype="O")}, b"\0" * 8, None, "dtype 'O'"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8, None, "must be dtype, shape and data_offsets"),
        ({"a": entry() | {"more": 1}}, b"\0" * 8, None, "must be dtype, shape and data_offsets"),
        ({"a": entry() | {"data_offsets": [0, 8, 8]}}, b"\0" * 8, None, "must be dtype"),
        ({"a": entry() | {"data_offsets": [0, 8.0]}}, b"\0" * 8, None, "must be dtype"),
        ({"a": 3}, b"\0" * 8, None, "must be dtype"),
        ({"__metadata__": {"a": 3}}, b"", None, "metadata"),
        ({"__metadata__": ["a"]}, b"", None, "metadata"),
    ],
)  # fmt: skip
def test_a_safetensors_file_that_lies_is_refused(tmp_path, header, data, length, words):
    path = safetensors_file(tmp_path, header, data, length)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_arrays(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_at_any_byte(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    write_arrays(path, {"w": np.arange(3, dtype=np.int16), "v": np.ones((1, 2))}, {"epoch": "3"})
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match="the file is empty" if end == 0 else "truncated|not a|not an|zip"):
            read_arrays(path)


@pytest.mark.parametrize("suffix", FORMATS)
@given(where=st.integers(0, 10_000), bits=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_one_altered_byte_gives_arrays_or_our_error_and_nothing_else(suffix, where, bits):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix}"
        write_arrays(path, {"w": np.arange(3, dtype=np.int16), "v": np.ones((1, 2))}, {"epoch": "3"})
        content = bytearray(path.read_bytes())
        content[where % len(content)] ^= bits
        path.write_bytes(content)
        try:
            arrays, metadata = read_arrays(path)
        except CheckpointError:
            return
        assert all(array.nbytes <= 64 for array in arrays.values())


@pytest.mark.parametrize("suffix", FORMATS)
@given(content=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(suffix, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix}"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_arrays(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    for suffix in FORMATS:
        with pytest.raises(FileNotFoundError, match=f"m{suffix}"):
            read_arrays(tmp_path / f"m{suffix}")


# ------------------------------------------------------------------------------------------------ hostile .npz


class Harm:
    """Unpickling this makes a file: the proof that somebody unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array))
    return buffer.getvalue()


def npy_claiming(shape, data=b"", descr="<f4", version=(1, 0)):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    content = bytearray(buffer.getvalue() + data)
    content[6], content[7] = version
    return bytes(content)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_what_could_not_be_read_again_is_not_written(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    with pytest.raises(ValueError, match="metadata.* is not Unicode"):
        write_arrays(path, {"w": np.ones(2)}, {"file": os.fsdecode(b"\xff")})
    with pytest.raises(ValueError, match="arrays: the name 'wwww.* at most 1,000 letters"):
        write_arrays(path, {"w" * 70_000: np.ones(2)})
    write_arrays(path, {"w": np.ones(2)}, {"file": "größer ✓"})
    assert read_arrays(path)[1] == {"file": "größer ✓"}


def npy_with(header):
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()


def npz_file(folder, *members, compression=zipfile.ZIP_STORED):
    path = folder / "m.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("readme.txt", b"hello")], "not a .npy array"),
        ([("w.npy", b"hello")], "not a .npy array"),
        ([("w.npy", b"")], "not a .npy array"),
        ([("w.npy", npy_claiming((10**6,), b"\0" * 8))], "takes 4,000,000 bytes, 8 are there"),
        ([("w.npy", npy_claiming((2**62, 2**62), b"\0" * 8))], "8 are there"),
        ([("w.npy", npy_claiming((-2,), b"\0" * 8))], "shape"),
        ([("w.npy", npy_claiming((-1, -2), b"\0" * 8))], "shape"),
        ([("w.npy", npy_claiming((1,), b"\0" * 8))], "takes 4 bytes, 8 are there"),
        ([("w.npy", npy_claiming((2**62, 0, 2**62)))], "not an .npz file"),
        ([("w.npy", npy_claiming((1,) * 100, b"\0" * 4))], "shape"),
        ([("w.npy", npy_claiming((2,), b"\0" * 8, version=(9, 9)))], "not an .npz file|version"),
        ([("w.npy", npy_claiming((2,), b"\0" * 8, descr="<U1"))], "dtype '<U1'"),
        ([("w.npy", npy_claiming((2,), b"\0" * 16, descr="<c8"))], "dtype '<c8'"),
        ([("w.npy", npy_claiming((2,), b"\0" * 4, descr="|V2"))], r"dtype '\|V2'"),
        ([("w.npy", npy_claiming((2,), b"\0" * 16, descr=[("a", "<f4"), ("b", "<f4")]))], "not a sound .npy header"),
        ([("w.npy", npy_with("{'descr': '<m8[7D/0]', 'fortran_order': False, 'shape': (3,)}"))], "dtype '<m8"),  # ends NumPy
        ([("w.npy", npy_with("{'descr': ("))], "not a sound .npy header"),
        ([("w.npy", npy_with("{'descr': '?1', 'fortran_order': False, 'shape': (3,)}"))], "dtype '\\?1'"),
        ([("w.npy", npy_with("{'descr': (), 'fortran_order': False, 'shape': (3,)}"))], "not a sound .npy header"),
        ([("w.npy", npy_with("-" * 9000 + "1"))], "not a sound .npy header"),
        ([("w.npy", npy_with("(" * 9000))], "not a sound .npy header"),
        ([("w.npy", npy_with("{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}"))], "not a sound .npy header"),
        ([("w.npy", npy_with("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"))], "shape"),
        ([("w.npy", npy_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}")[:-5])], "truncated"),
        ([("w.npy", npy_claiming((2,), b"\0" * 16, descr="|O"))], "pickled Python objects"),
        ([("__metadata__.npy", npy(np.frombuffer(b"{", np.uint8)))], "metadata are not sound JSON"),
        ([("__metadata__.npy", npy(np.frombuffer(b"[3]", np.uint8)))], "metadata are not a map"),
    ],
)  # fmt: skip
def test_an_npz_file_that_lies_is_refused(tmp_path, members, words):
    path = npz_file(tmp_path, *members)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_arrays(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = npz_file(tmp_path, ("w.npy", npy(np.ones(2))), ("w.npy", npy(np.zeros(2))))
    with pytest.raises(CheckpointError, match="there twice"):
        read_arrays(path)


def test_pickled_content_is_never_unpickled(tmp_path):
    harm = np.array([Harm(tmp_path / "harmed")], object)
    np.savez(tmp_path / "m.npz", w=harm)
    pickled = pickle.dumps(Harm(tmp_path / "harmed"))
    npz_file(tmp_path / ".", ("w.npy", npy_claiming((1,), pickled, descr="|O"))).rename(tmp_path / "n.npz")
    np.savez(tmp_path / "m.npz", w=harm)
    (tmp_path / "p.npz").write_bytes(pickled)
    (tmp_path / "p.safetensors").write_bytes(pickled)
    for name in ("m.npz", "n.npz", "p.npz", "p.safetensors"):
        with pytest.raises(CheckpointError):
            read_arrays(tmp_path / name)
    assert not (tmp_path / "harmed").exists()


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path):
    zeros = npy_claiming((40 << 20,), bytes(40 << 20), descr="|u1")
    path = npz_file(tmp_path, ("a.npy", zeros), ("b.npy", zeros), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with pytest.raises(CheckpointError, match="zip bomb"):
        read_arrays(path)


def test_a_packed_member_shorter_than_the_zip_says_is_refused(tmp_path):
    content = npy_claiming((50,), b"\0" * 100)  # 200 bytes claimed, by the array's header and by the zip's directory
    path = npz_file(tmp_path, ("w.npy", content), compression=zipfile.ZIP_DEFLATED)
    size, lie = struct.pack("<I", len(content)), struct.pack("<I", len(content) + 100)
    path.write_bytes(path.read_bytes().replace(size, lie))
    with pytest.raises(CheckpointError, match="truncated: array 'w' needs 200 bytes, 100 are there"):
        read_arrays(path)


def test_other_compressions_and_a_wrong_check_sum_are_refused(tmp_path):
    for compression in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with pytest.raises(CheckpointError, match="compressed in a way"):
            read_arrays(npz_file(tmp_path, ("w.npy", npy(np.ones(2))), compression=compression))
    path = npz_file(tmp_path, ("w.npy", npy(np.arange(100.0))))
    content = path.read_bytes()
    at = content.index(struct.pack("<d", 77.0))
    path.write_bytes(content[:at] + struct.pack("<d", 78.0) + content[at + 8 :])
    with pytest.raises(CheckpointError, match="CRC"):
        read_arrays(path)


# ------------------------------------------------------------------------------------------------ atomic


def test_an_error_half_way_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    for error in (RuntimeError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic_write(path) as file:  # noqa: PT012
            file.write(b"half")
            raise error
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_names_the_path(tmp_path, monkeypatch, fails):
    path = tmp_path / "m.safetensors"
    write_arrays(path, {"w": np.ones(3)})
    old = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left on device; the file that was there is unchanged") as caught:
        write_arrays(path, {"w": np.zeros(3)})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_bytes() == old
    assert leftovers(tmp_path) == []


SMALL_DISK = """
    set -e
    mount -t tmpfs -o size=2m tmpfs "$1"
    "$2" - "$1" <<'END'
import errno, os, sys, numpy as np
from minivit.io import append_jsonl, read_arrays, read_jsonl, write_arrays
folder = sys.argv[1]
for suffix in (".safetensors", ".npz"):
    path = os.path.join(folder, "m" + suffix)
    write_arrays(path, {"w": np.ones(1000)})
    try:
        write_arrays(path, {"w": np.zeros(1_000_000)})
    except OSError as error:
        assert error.errno == errno.ENOSPC and error.filename == path, error
    else:
        raise SystemExit("8 MB fit into 2 MB")
    assert read_arrays(path)[0]["w"].sum() == 1000
    assert os.listdir(folder) == ["m" + suffix], os.listdir(folder)
    os.unlink(path)
path, n = os.path.join(folder, "metrics.jsonl"), 0
try:
    while True:
        append_jsonl(path, {"step": n, "text": "x" * 10_000})
        n += 1
except OSError as error:
    assert error.errno == errno.ENOSPC and error.filename == path, error
assert len(read_jsonl(path)) == n > 100
print("survived")
END
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a small disk of its own is made with Linux's mount namespaces")
def test_a_disk_that_is_really_full(tmp_path):
    probe = subprocess.run(["unshare", "-m", "-r", "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True)
    if probe.returncode:
        pytest.skip(f"no rights to mount a small disk: {probe.stderr.decode().strip()}")
    command = ["unshare", "-m", "-r", "bash", "-c", textwrap.dedent(SMALL_DISK), "bash", tmp_path, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "survived\n", done.stderr


WRITER = """
    import sys, numpy as np
    from minivit.io import append_jsonl, write_arrays
    print("ready", flush=True)
    n = 0
    while True:
        n += 1
        write_arrays(sys.argv[1], {"w": np.full(200_000, n)}, {"n": str(n)})
        append_jsonl(sys.argv[2], {"n": n, "text": "x" * 5000})
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL")
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_killed_writer_leaves_a_whole_file(tmp_path, suffix):
    path, log = tmp_path / f"m{suffix}", tmp_path / "metrics.jsonl"
    write_arrays(path, {"w": np.zeros(200_000)}, {"n": "0"})
    seen = set()
    for i in range(6):
        code = [sys.executable, "-c", textwrap.dedent(WRITER), path, log]
        writer = subprocess.Popen(code, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.01 + 0.013 * i)
        writer.kill()
        writer.communicate()
        arrays, metadata = read_arrays(path)
        assert (arrays["w"] == int(metadata["n"])).all()
        seen.add(metadata["n"])
        if log.exists():
            assert all(len(record["text"]) == 5000 for record in read_jsonl(log))
    assert len(seen) > 1, "no writer got as far as writing: the test tested nothing"


def test_many_names_of_which_one_is_there_twice(tmp_path):
    """In time that grows with their number: by comparing each with all it took 22 s."""
    header = "{" + ",".join(f'"a{i}":0' for i in [*range(40_000), 39_999]) + "}"
    (tmp_path / "f.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="the name 'a39999' appears twice"):
        read_arrays(tmp_path / "f.safetensors")
    assert time.monotonic() - started < 5


def test_an_idx_file_that_unfolds_without_end(tmp_path):
    n = 80 << 20
    (tmp_path / "f.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", n) + bytes(n), 1))
    with pytest.raises(CheckpointError, match="unfolds into more than 67,108,864 bytes.*a bomb"):
        read_idx(tmp_path / "f.gz")


def test_what_killed_writers_left_is_swept_up_and_nothing_else(tmp_path):
    """Of other files too: every checkpoint of a training has another name."""
    names = [f".{file}.{12 * digit}.tmp" for file in ("f", "step-1.safetensors") for digit in "ab"]
    for name in (*names, ".g.aa.tmp"):
        (tmp_path / name).write_bytes(b"half")
        if "b" not in name:  # old
            os.utime(tmp_path / name, (1, 1))
    write_json(tmp_path / "f", 1)
    assert sorted(os.listdir(tmp_path)) == [names[1], ".g.aa.tmp", names[3], "f"]


def test_where_nothing_can_be_written_the_error_names_the_place(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder, make it first.*nowhere"):
        write_json(tmp_path / "nowhere" / "f.json", 1)
    with pytest.raises(IsADirectoryError, match="a folder has this name"):
        write_json(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        append_jsonl(tmp_path / "nowhere" / "f.jsonl", {})


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write_json(tmp_path / "a", 1)
    (tmp_path / "b").write_text("1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


# ------------------------------------------------------------------------------------------------ idx

IDX_CODES = {"u1": 8, "i1": 9, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx(array):
    header = bytes([0, 0, IDX_CODES[array.dtype.str.lstrip("|")], array.ndim])
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@given(
    array=st.sampled_from(list(IDX_CODES)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    ),
    packed=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_idx_round_trip(array, packed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
        found = read_idx(path)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.shape == array.shape
    assert found.astype(array.dtype).tobytes() == array.tobytes()
    assert found.flags.writeable


SMALL = idx(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_truncated_at_any_byte(tmp_path, packed):
    path = tmp_path / "f"
    content = gzip.compress(SMALL) if packed else SMALL
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match="truncated"):
            read_idx(path)
    for end in range(len(SMALL)):  # a sound gzip of a truncated file
        path.write_bytes(gzip.compress(SMALL[:end]))
        with pytest.raises(CheckpointError, match="truncated"):
            read_idx(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\1" + SMALL[1:], "not an idx file"),
        (SMALL[:1] + b"\1" + SMALL[2:], "not an idx file"),
        (SMALL[:2] + b"\x0a" + SMALL[3:], "not an idx file"),
        (SMALL[:3] + b"\0" + SMALL[4:], "not an idx file"),
        (SMALL[:3] + b"\xff" + SMALL[4:], "not an idx file"),
        (SMALL + b"\0", "altered: .* more follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "truncated: .*only 16 are there"),
        (b"\0\0\x0e\x40" + b"\xff" * 256, "truncated"),
        (b"", "truncated"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_that_lies_is_refused(tmp_path, content, words, packed):
    path = tmp_path / "f"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(CheckpointError, match=words):
        read_idx(path)


def test_a_gzip_that_would_unfold_without_end_is_read_no_further_than_its_dimensions(tmp_path):
    import tracemalloc

    path = tmp_path / "f"
    path.write_bytes(gzip.compress(SMALL + bytes(50 << 20)))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="more follow"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20


def test_the_digest_of_the_content_is_checked(tmp_path):
    import hashlib

    path = tmp_path / "f"
    path.write_bytes(gzip.compress(SMALL))
    md5 = hashlib.md5(SMALL).hexdigest()
    assert read_idx(path, md5).sum() == 15
    path.write_bytes(gzip.compress(SMALL[:-1] + b"\7"))
    with pytest.raises(CheckpointError, match="altered: its content's md5"):
        read_idx(path, md5)


# ------------------------------------------------------------------------------------------------ JSON

RECORDS = [{"step": 1, "loss": 0.5}, {"step": 2, "text": "ä\n}"}, {}, {"step": 4, "list": [1, {"a": None}]}]


def test_json_lines_torn_at_any_byte_are_read_and_mended(tmp_path):
    path = tmp_path / "m.jsonl"
    for record in RECORDS:
        append_jsonl(path, record)
    assert read_jsonl(path) == RECORDS
    content = path.read_bytes()
    for end in range(len(content) + 1):
        path.write_bytes(content[:end])
        whole = read_jsonl(path)
        assert whole == RECORDS[: len(whole)]
        # a line counts as soon as its last brace is there, with or without its newline
        assert len(whole) == sum(end >= len(b"\n".join(content.split(b"\n")[: i + 1])) for i in range(len(RECORDS)))
        append_jsonl(path, {"new": end})
        assert read_jsonl(path) == [*whole, {"new": end}]
        assert path.read_bytes().endswith(b"}\n")


def test_a_long_torn_line_is_dropped_whole(tmp_path):
    path = tmp_path / "m.jsonl"
    append_jsonl(path, {"step": 1})
    with open(path, "ab") as file:
        file.write(b'{"text": "' + b"x" * 20_000)
    append_jsonl(path, {"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_bad_line_before_the_last_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    for bad in (b"{", b"3", b"\xff"):
        path.write_bytes(b'{"a": 1}\n' + bad + b'\n{"a": 2}\n')
        with pytest.raises(CheckpointError, match="line 2 is not a JSON object"):
            read_jsonl(path)


def test_numpy_values_become_plain_and_nan_becomes_null(tmp_path):
    value = {
        "i": np.int64(3), "f": np.float32(0.5), "a": np.arange(2), "b": np.bool_(True), "p": Path("x"), 7: (1, 2),
        "nan": float("nan"), "inf": np.float32("inf"), "an": np.array([1.0, np.nan]),
    }  # fmt: skip
    plain = {
        "i": 3, "f": 0.5, "a": [0, 1], "b": True, "p": "x", "7": [1, 2],
        "nan": None, "inf": None, "an": [1.0, None],
    }  # fmt: skip
    write_json(tmp_path / "v.json", value)
    append_jsonl(tmp_path / "v.jsonl", value)
    assert json.loads((tmp_path / "v.json").read_text()) == plain
    assert read_jsonl(tmp_path / "v.jsonl") == [plain]


def test_what_json_cannot_hold_changes_nothing(tmp_path):
    write_json(tmp_path / "v.json", 1)
    append_jsonl(tmp_path / "v.jsonl", {"a": 1})
    for act in (write_json, append_jsonl):
        with pytest.raises(TypeError, match="not JSON serializable"):
            act(tmp_path / ("v.json" if act is write_json else "v.jsonl"), {"a": {1, 2}})
    assert (tmp_path / "v.json").read_text() == "1\n"
    assert read_jsonl(tmp_path / "v.jsonl") == [{"a": 1}]

"""The note on attempts: counted, kept, and never in the way."""

import json

import pytest

from minivit.exercises import Progress, Result
from minivit.exercises.progress import FILE


def wrong(code):
    return Result.fault("product", "title", code, "message")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "product.py"
    path.write_text("x = 1\n")
    return path


def test_attempts_are_counted_over_sessions(file):
    assert Progress(file.parent).state("product", None) == "not started"
    assert Progress(file.parent).state("product", file) == "not done yet"
    for k in (1, 2):
        progress = Progress(file.parent)
        assert progress.note(wrong("wrong_sign"), file) == k
        progress.save()
    progress = Progress(file.parent)
    assert progress.state("product", file) == "wrong (2 attempts, wrong_sign)"
    assert progress.note(wrong("transposed"), file) == 1, "another mistake begins with its first hint"
    assert progress.state("product", file) == "wrong (3 attempts, transposed)"
    assert progress.note(Result("product"), file) == 0
    assert progress.state("product", file) == "passed"
    file.write_text("x = 2\n")
    assert progress.state("product", file) == "passed, changed since"
    assert progress.state("product", None) == "passed"


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"exercises": 3}', b'{"exercises": {"product": {}}}',
     b'{"exercises": {"product": {"verdict": "splendid"}}}', b'{"exercises": {"product": {"verdict": "wrong", "met": 3}}}',
     b'{"exercises": {"product": {"verdict": "wrong", "attempts": "many"}}}', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_set_aside(file, text):
    path = file.parent / FILE
    for k in (1, 2):
        path.write_bytes(text)
        progress = Progress(file.parent)
        assert "could not be read" in progress.warning
        assert progress.records == {}
        aside = path.with_suffix(f".damaged{k}.json")
        assert aside.name in progress.warning
        assert aside.read_bytes() == text
    progress.note(wrong("zero_gradient"), file)
    progress.save()
    assert json.loads(path.read_text())["exercises"]["product"]["attempts"] == 1
    assert Progress(file.parent).warning == ""

"""What has been tried: a JSON file beside the student's files.

A file that was damaged is set aside, not lost, and a new one begun: a note on attempts must never stop a student.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minivit.exercises.result import NOT_DONE, PASSED, WRONG, Result
from minivit.io import write_json

FILE = "minivit-progress.json"


@dataclass
class Record:
    """Of one exercise.

    Attributes:
        verdict: of the last check.
        attempts: how often it was wrong.
        finding: the code of the first finding, if it was wrong.
        met: code -> how often it was the first finding; the second time calls for a stronger hint.
        digest: of the file as it was checked.
    """

    verdict: str
    attempts: int = 0
    finding: str = ""
    met: dict[str, int] = field(default_factory=dict)
    digest: str = ""


class Progress:
    """The records of a folder: `Progress(folder)`, `note(result, path)`, `save()`.

    Attributes:
        records: exercise -> record.
        warning: what was wrong with the file, or "".
    """

    def __init__(self, folder: str | os.PathLike[str] = ".") -> None:
        self.path = Path(folder) / FILE
        self.records: dict[str, Record] = {}
        self.warning = ""
        if not self.path.exists():
            return
        try:
            given = json.loads(self.path.read_text(encoding="utf-8"))
            self.records = {str(name): _record(r) for name, r in given["exercises"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            aside = self._set_aside()
            kept = f"it is now {aside.name}, and " if aside else ""
            self.warning = f"{self.path} could not be read ({type(error).__name__}); {kept}attempts are counted anew"

    def _set_aside(self) -> Path | None:
        try:
            k = next(k for k in range(1, 1000) if not self.path.with_suffix(f".damaged{k}.json").exists())
            return self.path.rename(self.path.with_suffix(f".damaged{k}.json"))
        except (OSError, StopIteration):
            return None

    def note(self, result: Result, path: Path) -> int:
        """Takes the result in; returns how often this finding was met, this time included (0 if it is not wrong)."""
        record = self.records.setdefault(result.exercise, Record(result.verdict))
        record.verdict, record.digest, record.finding = result.verdict, digest(path), ""
        if result.verdict != WRONG:
            return 0
        record.attempts += 1
        record.finding = result.findings[0].code
        record.met[record.finding] = record.met.get(record.finding, 0) + 1
        return record.met[record.finding]

    def save(self) -> None:
        write_json(self.path, {"exercises": {name: asdict(record) for name, record in self.records.items()}})

    def state(self, name: str, path: Path | None) -> str:
        """One exercise in a few words, for a table; `path`: of its file, if there is one."""
        record = self.records.get(name)
        if record is None:
            return "not started" if path is None else NOT_DONE
        text = record.verdict
        if record.verdict == WRONG:
            text += f" ({record.attempts} attempt{'s' * (record.attempts != 1)}, {record.finding})"
        if path is not None and record.digest and digest(path) != record.digest:
            text += ", changed since"
        return text


def digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def _record(given: Any) -> Record:
    record = Record(**given)
    if record.verdict not in (PASSED, WRONG, NOT_DONE) or not isinstance(record.attempts, int):
        raise ValueError("not a record")
    if not all(isinstance(text, str) for text in (record.finding, record.digest)):
        raise ValueError("not a record")
    record.met = {str(code): int(count) for code, count in record.met.items()}
    return record

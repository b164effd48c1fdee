"""Writes docs/mistakes.md."""

from pathlib import Path

from tests.exercises.mistakes import table

Path(__file__).parents[3].joinpath("docs", "mistakes.md").write_text(table(), encoding="utf-8")

"""Gradient exercises: write an operation's backward yourself, and be told what is wrong with it, not only that it is.

    mv.exercises.names()                                # in the order of the lecture
    print(mv.exercises.statement("product"))
    mv.exercises.start("product")                       # writes product.py, to fill in
    mv.exercises.check("product", product_backward)     # in a notebook: on functions, by their names

and from a shell `minivit exercises list | start | check | status | handout`.

One file eNN_name.py is one exercise (`e01_product.py` is the pattern). Around them, in reading order: `checks.py` (what
is asked), `values.py` (why an array is not the expected one), `marks.py`, `exercise.py` (reading such a file), `traces.py`,
`result.py` (the answer), `desk.py` (for a student), `submission.py`, `runner.py`, `process.py` (files, each in a process
of its own), `progress.py`, `course.py` (for a teacher).
"""

from minivit.exercises.course import grade, handout
from minivit.exercises.desk import check, start, statement
from minivit.exercises.exercise import Exercise, find, names
from minivit.exercises.process import check_file
from minivit.exercises.progress import Progress
from minivit.exercises.result import Outcome, Result, run_checks

__all__ = ["Exercise", "Outcome", "Progress", "Result", "check", "check_file", "find", "grade", "handout", "names",
           "run_checks", "start", "statement"]  # fmt: skip

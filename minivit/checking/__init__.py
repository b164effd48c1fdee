"""Is a gradient right, and if not, why?

Read in this order: `differences.py` (derivatives without calculus), `problem.py` (what is checked), `form.py` (shape,
dtype, what was touched), `judging.py` (which elements are wrong), `check.py` (the whole) with `elsewhere.py` (other inputs),
`evidence.py` and `diagnosis.py` (the causes, one small test each, and `paths.py` with `tracing.py`: which step), `report.py`;
then `overwritten.py` with `watching.py` (values that were changed after they were kept) and `modules.py` (whole models: which
layer); and beside them two checks that need no step size: `linear.py` (adjoints) and `taylor.py` (whole models).
"""

from minivit.checking.check import gradcheck
from minivit.checking.differences import NumericalGradient, numerical_gradient
from minivit.checking.linear import adjoint_gap
from minivit.checking.report import CODES, Finding, GradcheckError, Report
from minivit.checking.taylor import taylor_slope

__all__ = ["CODES", "Finding", "GradcheckError", "NumericalGradient", "Report", "adjoint_gap", "gradcheck",
           "numerical_gradient", "taylor_slope"]  # fmt: skip

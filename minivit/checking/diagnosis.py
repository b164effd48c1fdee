"""Why a gradient is wrong: an ordered table of small tests, each of one cause.

A cause must explain the numbers at two points, with the same constants: at x = (1, 1, 1) a forgotten factor x and a
right gradient look alike, elsewhere they do not.

To add a cause: write the test where its kind lives (`scale.py`, `place.py`, `contributions.py`, `paths.py`, `terms.py`),
and put it in `TESTS` where it belongs; the first that speaks is the surest.
"""

from __future__ import annotations

from collections.abc import Sequence

from minivit.checking.contributions import assigned_not_added
from minivit.checking.paths import paths
from minivit.checking.place import misplaced, missing_broadcast_sum, one_triangle, permuted, swapped_inputs, transposed
from minivit.checking.point import Hint, Point
from minivit.checking.report import Finding
from minivit.checking.scale import (
    constant_factor,
    cotangent_ignored,
    mean_vs_sum,
    missing_factor,
    not_finite,
    wrong_sign,
    zero_gradient,
)
from minivit.checking.terms import layer_norm_term, missing_term, own_output_only, partly_zero, softmax_off_diagonal

TESTS = (
    not_finite, missing_broadcast_sum, zero_gradient, cotangent_ignored, wrong_sign, swapped_inputs, mean_vs_sum,
    constant_factor, softmax_off_diagonal, layer_norm_term, one_triangle, transposed, permuted, own_output_only,
    assigned_not_added, misplaced, paths, missing_factor, missing_term, partly_zero,
)  # fmt: skip
_SETTLES = (not_finite, zero_gradient, cotangent_ignored)  # nothing more to say about such an input
_VAGUE = (misplaced, paths, missing_factor, missing_term, partly_zero)  # silent about an input that is explained already


def diagnose(points: Sequence[Point], wrong: Sequence[int]) -> list[Finding]:
    """The causes that explain the wrong inputs at every point, the surest first; each names all inputs it explains."""
    found: dict[tuple[object, ...], list[tuple[int, Hint]]] = {}
    explained: set[int] = set()
    settled: set[int] = set()
    for test in TESTS:
        for i in wrong:
            if points[0].a[i] is None or not points[0].n[i].any() or i in settled or (i in explained and test in _VAGUE):
                continue
            hints = list(test(points[0], i))
            for p in points[1:]:
                keys = {(h.code, h.key) for h in test(p, i)} if hints and p.a[i] is not None else set()
                hints = [h for h in hints if (h.code, h.key) in keys]
            for hint in hints:
                if hint.code != "unexplained" or hint.evidence.get("step"):
                    explained.add(i)
                if test in _SETTLES:
                    settled.add(i)
                found.setdefault((test, hint.code, hint.key), []).append((i, hint))
    names = points[0].names
    findings: dict[tuple[str, str], Finding] = {}
    for (i, hint), *others in found.values():
        more = [names[j] for j, _ in others if hint.code != "swapped_inputs"]
        message = hint.message + (f"; likewise that of {' and '.join(more)}" if more else "")
        findings.setdefault((hint.code, names[i]), Finding(hint.code, message, {"input": names[i], **hint.evidence}))
    return sorted(findings.values(), key=lambda finding: finding.code == "unexplained")

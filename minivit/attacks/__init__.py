"""Attacks: images that a model takes for something else, though nobody would.

    result = mv.attacks.pgd(model, x, y, eps=8/255)         # or fgsm
    result                                                  # PGD-20, linf eps 0.0313725: 36 of 40 misclassified
    mv.attacks.robust_accuracy(model, test, eps=[0, 2/255, 8/255])

Read in this order: `norms.py` (the geometry), `victim.py` and `loss.py` (what is asked of the model), `fgsm.py`,
`pgd.py` (the lecture's two attacks), `result.py`, `curve.py`; `validate.py` is the doorman.
"""

from minivit.attacks.curve import RobustAccuracy, names, robust_accuracy
from minivit.attacks.fgsm import fgsm
from minivit.attacks.norms import project
from minivit.attacks.pgd import pgd
from minivit.attacks.result import AttackResult

__all__ = ["AttackResult", "RobustAccuracy", "fgsm", "names", "pgd", "project", "robust_accuracy"]

"""Defenses: models that are harder to fool.

    hardened = mv.defenses.adversarial_train(model, train, test, eps=0.15, epochs=10)

`adversarial.py` is the lecture's adversarial training, from scratch and by fine-tuning.
"""

from minivit.defenses.adversarial import AdversarialCrossEntropy, adversarial_train

__all__ = ["AdversarialCrossEntropy", "adversarial_train"]

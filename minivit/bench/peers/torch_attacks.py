"""PGD on the model's twin in PyTorch: a plain loop, and the two libraries that people take for it.

All with the same radius and step, from the images themselves, so that they end at the same images as minivit. The twin's
weights are frozen, which is the fastest way to run each.
"""

from __future__ import annotations

from typing import Any

from minivit.bench.peers import torch_vit
from minivit.bench.rows import EPS, STEPS, Candidate, Problem

STEP_SIZE = 2.5 * EPS / STEPS  # minivit's default


def _twin(problem: Problem, device: str = "cpu") -> tuple[Any, Any, Any]:
    """(the model as a torch.nn.Module, images, labels)"""
    import torch

    p = torch_vit.parameters(problem.model, device)

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterList(p.values())  # where attacks look for the device

        def forward(self, images: Any) -> Any:
            return torch_vit.forward(problem.model.config, dict(zip(p, self.weights)), images)

    x, y = (torch.tensor(array, device=device) for array in (problem.images, problem.labels))
    return Twin().eval().requires_grad_(False), x, y


def plain(problem: Problem, device: str = "cpu") -> Candidate:
    import torch

    model, x, y = _twin(problem, device)

    def step() -> Any:
        adversarial = x
        for _ in range(STEPS):
            at = adversarial.detach().requires_grad_(True)
            (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(at), y, reduction="sum"), at)
            with torch.no_grad():
                adversarial = torch.clamp(torch.clamp(at + STEP_SIZE * g.sign(), x - EPS, x + EPS), 0, 1)
        return adversarial

    return Candidate(step, lambda result: [result.cpu().numpy()])


def by_torchattacks(problem: Problem) -> Candidate:
    from torchattacks import PGD

    model, x, y = _twin(problem)
    attack = PGD(model, eps=EPS, alpha=STEP_SIZE, steps=STEPS, random_start=False)
    return Candidate(lambda: attack(x, y), lambda result: [result.numpy()])


def by_foolbox(problem: Problem) -> Candidate:
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD

    model, x, y = _twin(problem)
    attack, bounded = LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=False), PyTorchModel(model, bounds=(0, 1))
    return Candidate(lambda: attack(bounded, x, y, epsilons=EPS), lambda result: [result[1].numpy()])

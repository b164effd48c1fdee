"""PyTorch eager on a GPU, in float32, TF32 or mixed float16: the twin of `torch_vit.py`, with autocast and GradScaler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minivit.bench.peers import torch_attacks, torch_vit
from minivit.bench.rows import SCALE, Candidate, Problem


def candidate(problem: Problem, precision: str, device: str = "cuda") -> Candidate:
    """A training step, or an attack. (`device` "cpu" is for tests.)"""
    import torch

    if problem.what == "pgd":
        attack = torch_attacks.plain(problem, device)

        def pgd() -> Any:
            with _tf32(precision == "tf32"):
                return attack.step()

        return Candidate(pgd, attack.read)
    p = torch_vit.parameters(problem.model, device)
    x, y = torch.tensor(problem.images, device=device), torch.tensor(problem.labels, device=device)
    optimizer = torch.optim.SGD(p.values())  # never makes a step: it is what a GradScaler knows the gradients by
    half = precision == "float16"
    scaler = torch.amp.GradScaler(device, init_scale=SCALE, enabled=half)

    def train() -> Any:
        with _tf32(precision == "tf32"):
            for tensor in p.values():
                tensor.grad = None
            with torch.autocast(device, dtype=torch.float16, enabled=half):
                loss = torch.nn.functional.cross_entropy(torch_vit.forward(problem.model.config, p, x), y)
            scaler.scale(loss).backward()
            if half:
                scaler.unscale_(optimizer)
                scaler.update()
        return loss

    return Candidate(train, lambda loss: [loss.detach().cpu().numpy(), *torch_vit.gradients(p).values()])


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Within this block PyTorch's products and convolutions may use TF32, or may not."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

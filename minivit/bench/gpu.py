"""On a GPU: training steps in float32, in TF32 and in mixed float16, and an attack, beside PyTorch eager in the same.

    for row in mv.bench.run_on_gpu(["train-vit-b"]):
        print(row.precision, row.ratio)

or `minivit bench --device cuda`. As on a CPU, numbers are compared before anything is timed, and candidates take turns. What is
different: the clock is read when the GPU is done; and memory is what each library's pool had to take from the GPU for the
step, beyond weights and images. In float16 both scale their loss by the same number, divide the gradients by it and look
whether they are finite: all that a training step does but the optimizer's. An attack is timed in float32 alone, since with
rounded gradients it goes elsewhere, and would be another attack.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

import minivit as mv
from minivit.backend import gpu
from minivit.bench.measure import chosen_rows, gap
from minivit.bench.peers import torch_gpu
from minivit.bench.rows import EPS, GPU_ROWS, SCALE, STEPS, Candidate, Problem, Task, pose
from minivit.bench.table import aligned, number
from minivit.bench.timing import Timing, alternate, machine

# how far numbers may be from minivit's in float32: TF32 keeps 11 bits of each factor and float16 of each value
ALLOWED = {"train": {"float32": 1e-3, "tf32": 2e-2, "float16": 5e-2}, "pgd": {"float32": 0.1}}


@dataclass(frozen=True)
class GpuRow:
    """One line of the table: a task in one precision."""

    name: str
    about: str
    precision: str  # "float32", "tf32" or "float16"
    seconds: dict[str, Timing]  # "minivit", "pytorch"
    gaps: dict[str, float]  # how far the numbers of each are from minivit's in float32
    peak_bytes: dict[str, int]

    @property
    def ratio(self) -> float | None:
        """How many times as fast as PyTorch minivit is; None if that was not measured."""
        return self.seconds["pytorch"].median / self.seconds["minivit"].median if "pytorch" in self.seconds else None


def run_on_gpu(
    names: Sequence[str] | None = None,
    rounds: int = 10,
    peers: Sequence[str] | None = None,
    progress: Callable[[str], Any] = lambda _: None,
) -> Iterator[GpuRow]:
    """Measures rows, one task at a time; of each, one row per precision.

    Args:
        names: of GPU_ROWS, or their first words; all by default.
        rounds: how often each candidate is timed.
        peers: ["pytorch"] or []; by default PyTorch if it is installed and finds the GPU.
        progress: is told the name of each task as it begins.

    Raises:
        ValueError: for an unknown row or peer.
        RuntimeError: if there is no GPU to be used, or numbers differ.
        ImportError: if PyTorch is asked for and cannot use the GPU.
    """
    chosen, asked = chosen_rows(names, GPU_ROWS), _peers(peers)
    mv.backend.resolve_device("cuda")

    def measured() -> Iterator[GpuRow]:
        for name in chosen:
            progress(name)
            yield from _measure(name, GPU_ROWS[name], rounds, asked)

    return measured()


def _peers(names: Sequence[str] | None) -> list[str]:
    usable = bool(find_spec("torch")) and importlib.import_module("torch").cuda.is_available()
    if names is None:
        return ["pytorch"] if usable else []
    if unknown := [name for name in names if name != "pytorch"]:
        raise ValueError(f"unknown peer {unknown[0]!r} on a GPU; there is pytorch")
    if names and not usable:
        raise ImportError("peer 'pytorch' needs a PyTorch that can use the GPU; torch.cuda.is_available() says it cannot")
    return list(names)


def ours(problem: Problem, precision: str) -> Candidate:
    """minivit, called as its documentation says, on the device of the model."""
    what, model, images, labels = problem
    named = dict(model.named_parameters())
    x, scaler = mv.Tensor(images).to(model.device), mv.train.LossScaler(SCALE)
    half = precision == "float16"

    def train() -> Any:
        for p in named.values():
            p.grad = None
        with mv.allow_tf32(precision == "tf32"):
            with mv.autocast("float16" if half else "float32"):
                loss = mv.ops.cross_entropy(model(x), labels)
            (scaler.scale(loss) if half else loss).backward()
            if half:
                scaler.unscale(named.values())
                scaler.update(mv.train.clip_grad_norm(named.values(), None))
        return loss

    def pgd() -> Any:
        with mv.allow_tf32(precision == "tf32"):
            return mv.attacks.pgd(model, images, labels, eps=EPS, steps=STEPS, random_start=False, keep="last")

    if what == "pgd":
        return Candidate(pgd, lambda result: [result.x_adv])
    return Candidate(train, lambda loss: [loss.numpy(), *(p.grad.numpy() for p in named.values())])


def _measure(name: str, task: Task, rounds: int, asked: Sequence[str]) -> Iterator[GpuRow]:
    problem = pose(task)
    problem.model.to("cuda")
    candidates: dict[tuple[str, str], Candidate] = {}
    for precision in ALLOWED[task.what]:
        candidates["minivit", precision] = ours(problem, precision)
        for peer in asked:
            candidates[peer, precision] = torch_gpu.candidate(problem, precision)
    gaps: dict[tuple[str, str], float] = {}
    exact: list[np.ndarray] = []
    for (who, precision), candidate in candidates.items():
        found = candidate.read(candidate.step())
        exact = exact or found  # minivit in float32 comes first
        gaps[who, precision] = off = gap(exact, found, task.what)
        if not off <= ALLOWED[task.what][precision]:
            raise RuntimeError(f"{task.about}: {who} in {precision} computes other numbers than minivit in float32 (they "
                               f"differ by {off:.1e}); a comparison of times would mean nothing")
    steps = {" ".join(key): _until_done(candidate.step, key[0]) for key, candidate in candidates.items()}
    seconds = alternate(steps, rounds)
    peaks = {key: _peak(candidate.step, key[0]) for key, candidate in candidates.items()}
    for precision in ALLOWED[task.what]:
        both = ["minivit", *asked]
        yield GpuRow(
            name, task.about, precision, {who: seconds[f"{who} {precision}"] for who in both},
            {who: gaps[who, precision] for who in both}, {who: peaks[who, precision] for who in both},
        )  # fmt: skip


def _until_done(step: Callable[[], Any], who: str) -> Callable[[], None]:
    """The step, and the wait for the GPU to finish it."""
    wait = gpu.synchronize if who == "minivit" else importlib.import_module("torch").cuda.synchronize

    def done() -> None:
        step()
        wait()

    return done


def _peak(step: Callable[[], Any], who: str) -> int:
    """By how many bytes a library's pool grows, from nothing kept, while the step is made three times."""
    gc.collect()
    gpu.free_pool()
    torch: Any = importlib.import_module("torch") if who == "pytorch" else None
    if torch:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        torch.cuda.reset_peak_memory_stats()
    else:
        before = gpu.pool_bytes()
    for _ in range(3):
        step()
    return max((torch.cuda.max_memory_reserved() if torch else gpu.pool_bytes()) - before, 0)


# ---- what is printed ----


_READ = """\
"times": PyTorch's time over minivit's, so above 1 minivit is faster. "MB": what the library's pool took for the step, beyond
weights and images. "off": how far the numbers are from minivit's in float32, by the largest value (in an attack: the share
of images that end elsewhere)."""


def as_text(rows: Sequence[GpuRow]) -> str:
    """One line per row, then the machine."""
    lines = [["row", "precision", "minivit, ms", "pytorch, ms", "times", "MB minivit", "MB pytorch", "off, minivit", "pytorch"]]
    for row in rows:
        times = {who: 1e3 * timing.median for who, timing in row.seconds.items()}
        cells = [number(times.get(who, np.nan), 2) for who in ("minivit", "pytorch")]
        cells.append(number(np.nan if row.ratio is None else row.ratio, 2))
        cells += [number(row.peak_bytes.get(who, np.nan) / 1e6, 1) for who in ("minivit", "pytorch")]
        cells += [f"{row.gaps[who]:.1e}" if who in row.gaps else "-" for who in ("minivit", "pytorch")]
        lines.append([row.name, row.precision, *cells])
    facts = [[name, value] for name, value in _facts().items()]
    return "\n".join([aligned(lines, 2), _READ, "", aligned(facts, 2)])


def as_json(rows: Sequence[GpuRow]) -> str:
    """All that was measured, as JSON."""
    data = [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]
    return json.dumps({"rows": data, "machine": _facts()}, indent=2)


def _facts() -> dict[str, str]:
    return {"gpu": gpu.description(), **machine()}

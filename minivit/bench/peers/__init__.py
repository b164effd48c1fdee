"""Whom minivit is timed against: each is asked only if it is installed, and only after its numbers were found to agree.

Every peer is written as its users would write it, with its own fused functions where it has some, and gets minivit's
weights. `candidate(name, problem)` gives its step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from minivit.arguments import meant
from minivit.backend import kernels_on_cpu
from minivit.bench.peers import autograd_vit, mygrad_vit, own, torch_attacks, torch_vit
from minivit.bench.rows import Candidate, Problem


@dataclass(frozen=True)
class Peer:
    """Another library, or minivit in another way: what it imports, how it makes its candidate, and which GELU it can do
    without writing an erf."""

    imports: tuple[str, ...]
    candidate: Callable[[Problem], Candidate]
    gelu: str = "exact"
    here: Callable[[], bool] = lambda: True  # whether there is more to it than imports


PEERS = {
    "pytorch": Peer(("torch",), lambda p: (torch_attacks.plain if p.what == "pgd" else torch_vit.candidate)(p)),
    "autograd": Peer(("autograd", "scipy"), autograd_vit.candidate),
    "mygrad": Peer(("mygrad",), mygrad_vit.candidate, gelu="tanh"),
    "torchattacks": Peer(("torchattacks", "torch"), torch_attacks.by_torchattacks),
    "foolbox": Peer(("foolbox", "torch"), torch_attacks.by_foolbox),
    "whole": Peer(("minivit",), own.whole),
    "unfused": Peer(("minivit",), own.unfused, here=kernels_on_cpu),
    "arrays": Peer(("minivit",), own.arrays, here=kernels_on_cpu),
}


def installed() -> list[str]:
    return [name for name, peer in PEERS.items() if all(map(find_spec, peer.imports)) and peer.here()]


def choose(names: Sequence[str] | None) -> list[str]:
    """These peers, checked; all that are installed if None."""
    if names is None:
        return installed()
    for name in names:
        if name not in PEERS:
            raise ValueError(f"unknown peer {name!r}; {meant(name, PEERS)}")
        missing = [module for module in PEERS[name].imports if not find_spec(module)]
        if missing:
            raise ImportError(f"peer {name!r} needs {' and '.join(missing)}, not installed here: pip install 'minivit[bench]'")
    return list(names)

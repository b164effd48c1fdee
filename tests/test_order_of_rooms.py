"""Reading order is dependency order: a file of minivit imports only from its own room and from rooms before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minivit"
ROOMS = ["arguments", "backend", "io", "autograd", "checking", "nn", "models", "data", "train", "attacks", "defenses",
         "physical", "viz", "exercises", "bench", "cli"]  # fmt: skip
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
LOOKS_AHEAD = {("history.py", "viz")}  # history.plot(), a shortcut to mv.viz.training that the contract asks for
LOADED_WHEN_USED = ["matplotlib", "tqdm", "safetensors", "threadpoolctl", "cupy", "torch"]


def room_of(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if room == "__main__" else room


def imported(tree, package):
    """(module, line) of every import in a file, in functions too; `from minivit import x` counts as minivit.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])]) if node.level else (
                node.module
            )
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def faults(path, text):
    here = room_of(path)
    tree = ast.parse(text)
    for module, line in imported(tree, ["minivit", *path.relative_to(PACKAGE).parts[:-1]]):
        first, _, rest = module.partition(".")
        if first == "minivit":
            there = rest.partition(".")[0]
            if not rest and here in ("bench", "cli"):
                continue  # they stand after everything that `mv.` can reach
            if there not in ROOMS and there != "__version__":
                yield f"{path.name}:{line} imports {module}: not a room; import a room's own name, minivit.room.name"
            elif there in ROOMS and ROOMS.index(there) > ROOMS.index(here) and (path.name, there) not in LOOKS_AHEAD:
                yield f"{path.name}:{line} imports {module}, but {here} is read before {there}"
        if first in ("cupy", "cupyx") and here != "backend":
            yield f"{path.name}:{line} imports {module}: only minivit/backend names CuPy"
    if here != "backend":
        for node in ast.walk(tree):
            if getattr(node, "id", getattr(node, "attr", "")) in ("cupy", "cupyx"):
                yield f"{path.name}:{node.lineno} names CuPy; only minivit/backend does"


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])
def test_imports_go_backwards_only(path):
    assert room_of(path) in ROOMS, f"{path}: a room that has no place in the reading order"
    assert not list(faults(path, path.read_text(encoding="utf-8")))


def test_the_package_says_the_same_order():
    text = " ".join((PACKAGE / "__init__.py").read_text(encoding="utf-8").split())
    said = [room for room in ROOMS if f"`{room}`" in text]
    assert [text.index(f"`{room}`") for room in said] == sorted(text.index(f"`{room}`") for room in said)
    assert {room_of(p) for p in FILES} <= set(said)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("backend/x.py", "from minivit.autograd import Tensor"),
        ("autograd/x.py", "def f():\n    import minivit.nn.modules"),
        ("nn/x.py", "from minivit import models"),
        ("nn/x.py", "from ..train import fit"),
        ("nn/x.py", "from minivit import Tensor"),
        ("nn/x.py", "import minivit as mv"),
        ("nn/x.py", "def f():\n    import cupy as cp"),
        ("nn/x.py", "sys.modules.cupy"),
    ],
)
def test_it_finds(place, text):
    assert list(faults(PACKAGE / place, text))


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("backend/x.py", "import cupy"),
        ("nn/x.py", "from minivit.autograd import Tensor\nfrom . import layers\nfrom .layers import Linear\nimport numpy"),
        ("bench/x.py", "import minivit as mv"),
        ("models/x.py", "from minivit import nn\nfrom ..nn import Linear"),
    ],
)
def test_it_lets_pass(place, text):
    assert not list(faults(PACKAGE / place, text))


def test_import_loads_numpy_and_nothing_else():
    rooms = "; ".join(f"minivit.{room}" for room in ("Tensor", "grad", "ops", "nn"))
    code = f"import sys, minivit; {rooms}; print([m for m in {LOADED_WHEN_USED} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_import_loads_no_room():
    code = "import sys, minivit; print([m for m in sys.modules if m.startswith('minivit.')], 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert result.stdout.startswith("[]"), result.stdout + result.stderr

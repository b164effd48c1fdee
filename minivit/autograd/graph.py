"""Drawing the graph: what the engine remembers of a computation, as plain data or as Graphviz text.

    x = Tensor(np.ones(3), requires_grad=True)
    y = (x * x).sum()
    print(to_dot(y, names={"x": x, "y": y}))        # paste it into any Graphviz viewer

Drawn is what `backward` would walk: the operations, the leaves that asked for a gradient, and an arrow for every use of a
value, with its shape. Constants have no derivative and are not remembered as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from minivit.autograd.engine import _ancestors
from minivit.autograd.tensor import Tensor


class Vertex(NamedTuple):
    """A leaf (`kind` "leaf") or an operation (`kind` "operation"), with the shape of its value where that is known."""

    kind: str
    label: str
    shape: tuple[int, ...] | None
    depth: int  # the longest way from a leaf: 0 for leaves, so that depth can be a row of a picture


class Edge(NamedTuple):
    """A value's use: from the vertex that made it to the operation that took it, both as positions in the list."""

    source: int
    target: int
    shape: tuple[int, ...] | None


def graph(y: Tensor, names: Mapping[str, Tensor] | None = None) -> tuple[list[Vertex], list[Edge]]:
    """The graph of y: vertices, each after those it was computed from, and edges.

    Args:
        y: the result; draw it before `backward` frees the graph (or use `retain_graph=True`).
        names: what to call some of the Tensors, leaves or results, by name: `dict(model.named_parameters())`, say.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y: expected a Tensor, got {type(y).__name__}")
    named = {id(t if t.node is None else t.node): name for name, t in (names or {}).items()}
    vertices: list[Vertex] = []
    edges: list[Edge] = []
    position: dict[int, int] = {}

    def place(thing: Any, kind: str, what: str, shape: tuple[int, ...] | None, depth: int) -> None:
        position[id(thing)] = len(vertices)
        label = " = ".join(filter(None, (named.get(id(thing)), what)))
        vertices.append(Vertex(kind, label, shape, depth))

    if y.node is None:
        place(y, "leaf", "", y.shape, 0)
    for node in _ancestors(y.node):
        if node.args is None:
            raise RuntimeError("graph: backward has freed it; draw it before, or pass retain_graph=True to backward")
        uses = [(p, shape) for p, shape in zip(node.parents, node.shapes) if p is not None]
        for parent, _ in uses:
            if isinstance(parent, Tensor) and id(parent) not in position:
                place(parent, "leaf", "", parent.shape, 0)
        sources = [position[id(p)] for p, _ in uses]
        edges += [Edge(source, len(vertices), shape) for source, (_, shape) in zip(sources, uses)]
        for source, (_, shape) in zip(sources, uses):
            if vertices[source].shape is None:  # a node does not keep the shape of its result; who took it does
                vertices[source] = vertices[source]._replace(shape=shape)
        shape = y.shape if node is y.node else None
        place(node, "operation", node.op.name, shape, 1 + max((vertices[s].depth for s in sources), default=0))
    return vertices, edges


def to_dot(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The graph of y in Graphviz's language: operations as ellipses, leaves as boxes, shapes along the arrows."""
    vertices, edges = graph(y, names)
    lines = ["digraph {", "  rankdir=TB"]
    for i, v in enumerate(vertices):
        label = v.label if v.kind == "operation" else f"{v.label or 'leaf'}\n{v.shape}"
        text = label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'  n{i} [label="{text}", shape={"ellipse" if v.kind == "operation" else "box"}]')
    lines += [f'  n{e.source} -> n{e.target} [label="{"" if e.shape is None else e.shape}"]' for e in edges]
    return "\n".join([*lines, "}"]) + "\n"

"""The graph as data and as Graphviz text."""

import numpy as np
import pytest

import minivit as mv
from minivit.autograd.graph import graph, to_dot


def diamond():
    x = mv.Tensor(np.ones((2, 3)), requires_grad=True)
    h = x * x
    return x, h, (h + h * 2).sum()


def test_vertices_and_edges_of_the_diamond():
    x, h, y = diamond()
    vertices, edges = graph(y, names={"x": x, "h": h, "loss": y})
    assert [v.label for v in vertices] == ["x", "h = multiply", "multiply", "add", "loss = sum"]
    assert [v.kind for v in vertices] == ["leaf", *["operation"] * 4]
    assert [v.shape for v in vertices] == [*[(2, 3)] * 4, ()]
    assert [v.depth for v in vertices] == [0, 1, 2, 3, 4]
    assert [(e.source, e.target) for e in edges] == [(0, 1), (0, 1), (1, 2), (1, 3), (2, 3), (3, 4)]
    assert all(e.source < e.target and e.shape == (2, 3) for e in edges)


def test_a_leaf_is_a_graph():
    x = mv.Tensor(np.ones(2), requires_grad=True)
    assert graph(x, {"x": x}) == ([("leaf", "x", (2,), 0)], [])


def test_dot():
    x, h, y = diamond()
    text = to_dot(y, names={'the "input"': x})
    assert text.startswith("digraph {")
    assert text.count("->") == 6
    assert 'label="the \\"input\\"\\n(2, 3)", shape=box' in text
    assert text.count("ellipse") == 4


def test_a_freed_graph_and_no_tensor_are_refused():
    x, h, y = diamond()
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        graph(y)
    with pytest.raises(TypeError, match="ndarray"):
        graph(np.ones(3))


def test_a_checkpoint_is_one_vertex():
    x = mv.Tensor(np.ones(3), requires_grad=True)
    w = mv.Tensor(np.ones(3), requires_grad=True)
    vertices, edges = graph(mv.checkpoint(lambda x: (x * w).sum())(x), {"x": x, "w": w})
    assert sorted(v.label for v in vertices) == ["checkpoint", "w", "x"]
    assert len(edges) == 2

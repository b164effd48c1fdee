import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import FancyArrowPatch

import minivit as mv
from minivit.viz.computation import _layout
from tests.viz.conftest import make


def texts(fig):
    return [t.get_text() for t in fig.axes[0].texts]


def test_the_graph_names_leaves_operations_and_shapes():
    x = mv.Tensor(np.ones((2, 3)), requires_grad=True)
    w = mv.Tensor(np.ones((3, 4)), requires_grad=True)
    y = mv.ops.tanh(x @ w).sum()
    fig = mv.viz.graph(y, {"x": x, "W": w, "y": y})
    found = texts(fig)
    assert {"x\n(2, 3)", "W\n(3, 4)", "matmul", "tanh", "y = sum"} <= set(found)
    assert found.count("(2, 4)") == 2  # matmul to tanh, tanh to sum
    arrows = [p for p in fig.axes[0].patches if isinstance(p, FancyArrowPatch)]
    assert len(arrows) == 4
    y.backward()  # drawing did not free it


def test_a_value_used_twice_has_two_arrows_that_differ():
    a = mv.Tensor(2.0, requires_grad=True)
    fig = mv.viz.graph(a * a)
    arrows = [p for p in fig.axes[0].patches if isinstance(p, FancyArrowPatch)]
    assert len(arrows) == 2
    assert arrows[0].get_connectionstyle().rad != arrows[1].get_connectionstyle().rad


def test_a_leaf_alone_can_be_drawn():
    assert texts(mv.viz.graph(mv.Tensor(np.ones(3), requires_grad=True))) == ["(3,)"]


def test_labels_of_a_whole_model_do_not_overlap(image):
    model = make()
    loss = mv.ops.cross_entropy(model(image[None]), np.array([0]))
    fig = mv.viz.graph(loss, dict(model.named_parameters()))
    fig.draw_without_rendering()
    boxes = [t.get_bbox_patch().get_window_extent() for t in fig.axes[0].texts if t.get_bbox_patch() is not None]
    assert len(boxes) > 40
    assert not [1 for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    whole = fig.bbox
    assert all(whole.x0 <= b.x0 and b.x1 <= whole.x1 and whole.y0 <= b.y0 and b.y1 <= whole.y1 for b in boxes)


@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=3), min_size=1, max_size=12))
def test_layout_puts_users_below_and_keeps_room(parents):
    """Any acyclic graph: vertex i + 1 is computed from some of the vertices 0 ... i."""
    edges = [(p % (i + 1), i + 1) for i, chosen in enumerate(parents) for p in chosen]
    depths = [0] * (len(parents) + 1)
    for s, t in edges:
        depths[t] = max(depths[t], depths[s] + 1)
    widths = [0.5 + 0.1 * i for i in range(len(depths))]
    place, ways = _layout(depths, edges, widths)
    for (s, t), way in zip(edges, ways):
        assert place[s, 1] < place[t, 1]
        np.testing.assert_array_equal(way[[0, -1]], place[[s, t]])
        np.testing.assert_allclose(np.diff(way[:, 1]), np.diff(way[:, 1])[0])  # a row at a time
    for i, j in itertools.combinations(range(len(depths)), 2):
        if abs(place[i, 1] - place[j, 1]) < 1e-9:
            assert abs(place[i, 0] - place[j, 0]) >= (widths[i] + widths[j]) / 2


def test_an_edge_leads_around_what_stands_in_its_way():
    place, ways = _layout([0, 1, 2], [(0, 1), (1, 2), (0, 2)], [1.0, 1.0, 1.0])
    assert abs(ways[2][1, 0] - place[1, 0]) > 0.5


def test_too_large_a_graph_is_refused():
    x = y = mv.Tensor(1.0, requires_grad=True)
    for _ in range(200):
        y = mv.ops.tanh(y)
    with pytest.raises(ValueError, match="201 vertices, at most 150"):
        mv.viz.graph(y)
    assert x.grad is None


def test_arrows_are_drawn_after_the_boxes_they_end_at():
    """A box's outline is known when its text has been drawn; an arrow drawn before ends, unseen, inside of it."""
    x = mv.Tensor(np.ones(3), requires_grad=True)
    ax = mv.viz.graph((x * x).sum(), {"x": x}).axes[0]
    arrows = [patch.zorder for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert arrows
    assert min(arrows) > max(text.zorder for text in ax.texts if text.get_bbox_patch() is not None)

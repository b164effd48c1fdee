"""Topological order, and backward itself

Where we are: all rules are known; what calls them, and in which order? A forward pass leaves a graph: each value
remembers the values it was made from, its parents, and the derivative by each. Here the values are plain numbers; with
arrays the numbers on the arrows become the rules you have written. With a = Node(3.0) and b = a * a,

    b.value = 9.0      b.parents = (a, a)      b.local = (3.0, 3.0)      db/da along each of the two arrows

The gradient of the result L by a value is the sum over its uses: dL/da = sum of (dL/dy) (dy/da) over the arrows from a
to a y. So dL/da may be handed on only when it is complete, when every use of a has reported. A topological order sees to
that: a list in which every node stands after its parents. Walked from its end, it meets every use before the value.

1. `topological_order(result)`: the list of all nodes that the result is made from, each once, every node after its
   parents; the result is the last. Graphs are deep (a chain of 5,000 nodes is checked) and Python lets functions call
   each other some 1,000 deep only: use a list of your own as the stack, and leave the recursion limit as it is. The
   number of paths through a graph grows exponentially, the number of arrows does not: follow each arrow once.

2. `backward(result)`: writes into `node.grad`, for every node of that list, the derivative of the result by that node.
   It returns nothing. It starts afresh: what stood in these `grad` before, from another backward, does not count. (In
   PyTorch and minivit the gradients of parameters do add up from one backward to the next, on purpose; those of values
   in between do not.) Nodes that the result is not made from keep theirs.

Mind that nodes with equal values are different nodes, and leave nothing behind on them that disturbs the next call.

A thought to test: with a = 1, b = a + a, c = b + b, what is dc/da? Which number comes out if b hands on what it has got
each time something arrives?
"""

from minivit.exercises.checks import Finding, Property


class Node:
    """A number that remembers how it was made."""

    def __init__(self, value: float, parents: tuple["Node", ...] = (), local: tuple[float, ...] = ()) -> None:
        self.value = value
        self.parents = parents  # the nodes it was made from; one used twice stands there twice
        self.local = local  # its derivative by each of them
        self.grad = 0.0

    def __add__(self, other: "Node") -> "Node":
        return Node(self.value + other.value, (self, other), (1.0, 1.0))

    def __sub__(self, other: "Node") -> "Node":
        return Node(self.value - other.value, (self, other), (1.0, -1.0))

    def __mul__(self, other: "Node") -> "Node":
        return Node(self.value * other.value, (self, other), (other.value, self.value))


def topological_order(result: Node) -> list[Node]:
    """All nodes that the result is made from, each once, after its parents; the result is the last."""
    ### BEGIN SOLUTION
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(result, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))  # comes up again when all that is above it on the stack is done
            stack += [(parent, False) for parent in node.parents]
    return order
    ### END SOLUTION


def backward(result: Node) -> None:
    """Writes d result / d node into node.grad, for every node that the result is made from."""
    ### BEGIN SOLUTION
    order = topological_order(result)
    for node in order:
        node.grad = 0.0
    result.grad = 1.0
    for node in reversed(order):
        for parent, local in zip(node.parents, node.local):
            parent.grad += node.grad * local
    ### END SOLUTION


# ---- what is checked: not handed out ----

import functools  # noqa: E402
import math  # noqa: E402
import sys  # noqa: E402

TEACHES = """Why reverse mode needs a topological order: a value that is used several times may hand its gradient on only
when all uses have reported. Depth without recursion, each arrow once, gradients added up, and a second backward that does
not count the first one's numbers."""


class TooManySteps(Exception):
    """The student's function looks at parents far more often than there are arrows."""


class Counted(Node):
    """A node that counts, for all of a graph, how often parents were looked at."""

    looks, limit = 0, 10**9

    @property
    def parents(self):
        Counted.looks += 1
        if Counted.looks > Counted.limit:
            raise TooManySteps
        return self._parents

    @parents.setter
    def parents(self, value):
        self._parents = value


def number(rng) -> Node:
    return Node(float(rng.uniform(0.5, 1.5) * rng.choice([-1, 1])))


def graphs(rng) -> dict[str, Node]:
    """Small graphs, by what they are."""
    a, b, c = number(rng), number(rng), number(rng)
    twice = a + a
    side = a * b
    uneven = side + (side * c) * a  # a is a parent of the result's parent, and its grandparent's
    same = Node(a.value) * Node(a.value)
    nodes = [number(rng) for _ in range(4)]
    for _ in range(8):
        i, j = rng.integers(len(nodes), size=2)
        nodes.append(nodes[i] * nodes[j] if rng.random() < 0.5 else nodes[-1] - nodes[j])
    return {
        "a * b": side,
        "(a + b) * (a * b)": (a + b) * side,
        "b = a + a; c = b + b": twice + twice,
        "s = a * b; s + (s * c) * a": uneven,
        "a product of two nodes with the same value": same,
        "a single node": number(rng),
        "a random graph": nodes[-1] * nodes[-2],
    }


def limit_kept(test):
    """Undoes what the student's function does to Python's recursion limit."""

    @functools.wraps(test)
    def kept(function, rng):
        limit = sys.getrecursionlimit()
        try:
            return test(function, rng)
        finally:
            sys.setrecursionlimit(limit)

    return kept


@limit_kept
def in_order(function, rng):
    for name, result in graphs(rng).items():
        nodes = topological_order(result)
        first = function(result)
        if not isinstance(first, list) or not all(isinstance(n, Node) for n in first):
            return [Finding("not_a_list", f"for {name} it returned a {type(first).__name__}, expected a list of nodes", {})]
        found = list(_faults(list(first), nodes, result))
        again = [] if found else list(_faults(list(function(result) or []), nodes, result))
        if again:
            found = [Finding("marks_left_behind", f"right at first, but when called a second time: {again[0].message}", {})]
        if found:
            return [Finding(f.code, f"{name}: {f.message}", f.evidence) for f in found]
    return []


def _faults(order, nodes, result):
    """The surest first; `nodes` is a right order."""
    place = {id(n): i for i, n in enumerate(order)}
    missing = [n for n in nodes if id(n) not in place]
    foreign = len(place) - (len(nodes) - len(missing))
    late = _late(order)
    if len(order) > len(place):
        yield Finding("node_twice", f"{len(order)} entries, but only {len(place)} different nodes: some stand there several "
                      "times", {"entries": len(order), "nodes": len(place)})  # fmt: skip
    if missing:
        which = "the result" if missing == [result] else (
            "leaves, which have no parents" if all(not n.parents for n in missing) else "nodes")  # fmt: skip
        yield Finding("node_missing", f"{len(missing)} of {len(nodes)} nodes are missing: {which}",
                      {"missing": len(missing), "of": len(nodes)})  # fmt: skip
    if foreign:
        yield Finding("foreign_node", f"{foreign} nodes that the result is not made from are in the list", {})
    with_parents = [n for n in nodes if n.parents]
    if late and not missing and len(order) == len(place) and not _late(order[::-1]):
        yield Finding("reversed_order", "a topological order, but backwards: the result comes first", {})
    elif late:
        yield Finding("parent_after_child", f"{len(late)} of {len(with_parents)} nodes stand before one of their parents",
                      {"count": len(late)})  # fmt: skip


def _late(order):
    """The nodes that stand before one of their parents."""
    place = {id(n): i for i, n in enumerate(order)}
    return [n for n in order if any(place.get(id(p), -1) > place[id(n)] for p in n.parents)]


@limit_kept
def far_and_wide(function, rng):
    """A chain too deep for recursion, and a ladder with too many paths."""
    limit = min(sys.getrecursionlimit(), 1000)  # Python's own, should the student's file have raised it
    sys.setrecursionlimit(limit)
    function(Node(1.0))
    function = function.__wrapped__  # the student's own: what it raises from here on is told apart below
    chain = Node(1.0)
    for _ in range(5000):
        chain = Node(chain.value, (chain,), (1.0,))
    try:
        function(chain)
        now = sys.getrecursionlimit()
        if now != limit:
            return [Finding("raised_the_limit", f"it changed the recursion limit from {limit} to {now}", {})]
    except RecursionError:
        return [Finding("recursion", "a chain of 5,000 nodes is too deep for it: RecursionError, Python's limit is "
                        f"{limit} calls within each other", {"nodes": 5000, "limit": limit})]  # fmt: skip
    rung: Node = Counted(1.0)
    for _ in range(25):
        rung = Counted(rung.value, (rung, rung), (0.5, 0.5))
    try:
        Counted.looks, Counted.limit = 0, 5000
        function(rung)
    except TooManySteps:
        return [Finding("walks_every_path", "b = a + a, c = b + b, ... 25 times: 26 nodes and 50 arrows, but 2²⁵ paths. It "
                        "had looked at parents 5,000 times and was still not done", {"nodes": 26, "looks": 5000})]  # fmt: skip
    finally:
        Counted.limit = 10**9
    return []


@limit_kept
def gradients(function, rng):
    for name, result in graphs(rng).items():
        found = _compare(function, result, name)
        if found:
            return found
    return []


def _arrows(nodes) -> list[tuple[int, list[tuple[int, float]]]]:
    """(node, [(parent, number on the arrow), ...]), by their places in `nodes`, from the result to the leaves."""
    place = {id(n): i for i, n in enumerate(nodes)}
    return [(i, [(place[id(p)], d) for p, d in zip(nodes[i].parents, nodes[i].local)]) for i in reversed(range(len(nodes)))]


def _walk(arrows, *, start=1.0, plain=False) -> list[float]:
    """The gradients, if the arrows are followed in this order."""
    grads = [0.0] * len(arrows)
    grads[-1] = start
    for i, uses in arrows:
        for p, d in uses:
            grads[p] += grads[i] * (1.0 if plain else d)
    return grads


def _one_use_each(arrows, came) -> list[float]:
    """The gradients, if each is what comes back from one of the uses alone: from that which is nearest to what came."""
    grads = [0.0] * len(arrows)
    grads[-1] = 1.0
    for i in reversed(range(len(arrows) - 1)):
        grads[i] = min((grads[j] * d for j, uses in arrows for p, d in uses if p == i), key=lambda g: abs(g - came[i]))
    return grads


def _handed_on_at_once(arrows, depth_first: bool) -> list[float]:
    """The gradients, if every node hands on all it has got each time something arrives."""
    uses_of = dict(arrows)
    grads = [0.0] * len(arrows)
    grads[-1] = 1.0

    def go(i):
        for p, d in uses_of[i]:
            grads[p] += grads[i] * d
            if depth_first:
                go(p)
        for p, _ in () if depth_first else uses_of[i]:
            go(p)

    go(len(arrows) - 1)
    return grads


def _compare(function, result, name):
    nodes = topological_order(result)
    for n in nodes:
        n.grad = 0.0
    function(result)
    came = [n.grad for n in nodes]
    arrows = _arrows(nodes)
    right = _walk(arrows)
    if _near(came, right):
        return []
    early = "a node hands on before all its uses have reported"
    candidates = (
        ("zero_gradient", "every gradient is zero", [0.0] * len(nodes)),
        ("no_start", "all are right but that of the result itself", [*right[:-1], 0.0]),
        ("wrong_start", f"all are {came[-1]} times what they should be", _walk(arrows, start=came[-1] or math.nan)),
        ("not_reversed", "it is walked from the leaves to the result", _walk(arrows[::-1])),
        ("parallel_arrows", "of two arrows between the same two nodes only one counts",
         _walk([(i, list(dict(uses).items())) for i, uses in arrows])),
        ("assigned_not_added", "a value used several times has the gradient of one use only", _one_use_each(arrows, came)),
        ("handed_on_too_early", early, _handed_on_at_once(arrows, True)),
        ("handed_on_too_early", early, _handed_on_at_once(arrows, False)),
        ("missing_factor", "the numbers on the arrows are left out", _walk(arrows, plain=True)),
    )  # fmt: skip
    found = [Finding(code, f"{name}: {text}", {"came": came, "right": right})
             for code, text, grads in candidates if _near(came, grads)]  # fmt: skip
    if found:
        return found
    wrong = [i for i in range(len(nodes)) if not _near(came[i : i + 1], right[i : i + 1])]
    return [Finding("wrong_gradient", f"{name}: {len(wrong)} of {len(nodes)} gradients are wrong; that nearest to the result "
                    f"is {came[wrong[-1]]!s:.12}, expected {right[wrong[-1]]:.6g}", {"wrong": len(wrong)})]  # fmt: skip


def _near(came, right) -> bool:
    return all(abs(x - y) <= 1e-9 * (1 + abs(y)) for x, y in zip(came, right))


@limit_kept
def called_again(function, rng):
    """Twice on one result; then on another one that shares nodes with it; with a branch beside it."""
    a, b = number(rng), number(rng)
    shared = a * b
    one, other, beside = shared * a + a, shared - b, b * b
    beside.grad = 7.0
    nodes = topological_order(one)
    right = _walk(_arrows(nodes))
    function(one)
    function(one)
    came = [n.grad for n in nodes]
    if not _near(came, right):
        if _near(came[:-1], [2 * r for r in right[:-1]]):
            return [Finding("old_gradients", "called twice, all gradients are doubled but that of the result: those of the "
                            "first time are still there", {})]  # fmt: skip
        return [Finding("old_gradients", "right when called once, wrong when called a second time: the numbers of the first "
                        "time are counted again", {})]  # fmt: skip
    function(other)
    others = topological_order(other)
    if not _near([n.grad for n in others], _walk(_arrows(others))):
        return [Finding("old_gradients", "after backward of one result, backward of another that shares nodes with it is "
                        "wrong: numbers of the first are still there", {})]  # fmt: skip
    if beside.grad != 7.0:
        return [Finding("touched_others", "a node that the result is not made from has got another grad", {})]
    return []


CHECKS = (
    Property(function="topological_order", title="every node once, after its parents", test=in_order),
    Property(function="topological_order", title="deep graphs, and graphs of many paths, are no trouble", test=far_and_wide),
    Property(function="backward", title="backward adds up the gradients of all uses", test=gradients),
    Property(function="backward", title="backward starts afresh each time", test=called_again),
    Property(function="backward", title="backward goes deep, and follows each arrow once", test=far_and_wide),
)

HINTS = {
    "not_a_list": (
        "What does the function return, and on which of its ways out?",
        "The nodes themselves, in a list. Is there a return at the end?",
    ),
    "node_twice": (
        "By how many ways does your walk come to a node that is used twice? What does it do the second time?",
        "Remember which nodes you have been to. Ask when you take a node up, not only when you note it down: it may be waiting "
        "on your stack twice.",
    ),
    "node_missing": (
        "Which nodes does your walk pass by? Try c = a * b and print what it returns.",
        "A leaf and the result are nodes like any other. And does your test of having seen a node ask for the node, or for "
        "its number, which another node may have too?",
    ),
    "foreign_node": (
        "Where do these nodes come from? Call it on two graphs, one after the other, and look at the second list.",
        "Something lives longer than the call. When does Python create the list that you collect into?",
    ),
    "reversed_order": (
        "At which end is the result?",
        "The list is right for walking backwards. It was asked for the other way round: parents first.",
    ),
    "parent_after_child": (
        "Draw s = a * b; s + (s * c) * a with its arrows, and write down when your walk notes each node.",
        "Being found is not being done. When may a node be noted down: when you come to it, or when all that it was made from "
        "has been noted?",
    ),
    "marks_left_behind": (
        "What does your function write on the nodes, and who takes it away?",
        "Keep what you have seen in a set that lives as long as the call.",
    ),
    "recursion": (
        "Each node of a chain waits for the call on its parent. How many calls wait in the middle of 5,000 nodes?",
        "A recursion keeps on Python's stack which nodes are not finished. Keep that in a list: what must an entry say, "
        "besides the node, so that you know when you come back to it whether its parents are done?",
    ),
    "raised_the_limit": (
        "What does that help a graph that is deeper still?",
        "The limit is there for all of the program. Keep the nodes that wait in a list of your own.",
    ),
    "walks_every_path": (
        "b = a + a; c = b + b; d = c + c: how many ways lead from d to a? And with 25 such steps?",
        "What you do for a node, its parents included, is to be done once per node, no matter how many ways lead to it.",
    ),
    "zero_gradient": (
        "0 times anything is 0. Which gradient is known before you start?",
        "By how much does the result change if the result changes by one?",
    ),
    "no_start": (
        "One number is wrong. Of which node?",
        "The result is a node of the list too.",
    ),
    "wrong_start": (
        "Where does your walk start, and with which number?",
        "The value of the result is one thing, its derivative by itself another.",
    ),
    "parallel_arrows": (
        "In a + a, how often does a stand among the parents?",
        "Each entry of node.parents is an arrow of its own, with its own number in node.local. A set or a dict keeps one of "
        "two that are equal.",
    ),
    "not_reversed": (
        "In which direction do gradients travel?",
        "When a node hands on its gradient it must have it already. Which node has it first?",
    ),
    "assigned_not_added": (
        "A value is used twice. What became of the gradient that arrived first?",
        "Look at the line that writes into the parent. All uses count: the second must not replace the first.",
    ),
    "handed_on_too_early": (
        "With a = 1, b = a + a, c = b + b: follow by hand what b gets, and what it hands on each time.",
        "What b has handed on once must not be handed on again. It is simplest if every node hands on only once, when all its "
        "uses have reported: which list tells you when that is?",
    ),
    "missing_factor": (
        "An arrow has a number on it.",
        "The chain rule multiplies. Where do you use node.local?",
    ),
    "old_gradients": (
        "What stands in node.grad when your function starts?",
        "Before the first gradient is handed on, all nodes of the list must be in the same state as after their creation.",
    ),
    "touched_others": (
        "Which nodes may this backward write to?",
        "Only those that the result is made from.",
    ),
    "wrong_gradient": (
        "Print value and grad of each node for c = a * b, then for the graph in the report. Which is the first that is wrong?",
        "For that node write down its uses, the gradient of each and the number on the arrow: it must be the sum of their "
        "products, complete before the node hands it on.",
    ),
    "": (
        "Try b = a + a; c = b + b on paper: nodes, arrows, the numbers on them.",
        "First the list, then the numbers: print the values in your order and look whether each node comes after its parents.",
    ),
}

"""Solutions of "backward" that are wrong, and some that are right."""

import sys
from collections import deque

from minivit.exercises.e12_backward import topological_order as right_order
from tests.exercises.mistakes import right, wrong


def hand_on(order):
    for node in order:
        for parent, local in zip(node.parents, node.local):
            parent.grad += node.grad * local


# ---- topological order ----


@wrong("parent_after_child", "reverses the order in which a depth-first walk comes to the nodes")
def topological_order(result):
    order, stack = [], [result]
    while stack:
        node = stack.pop()
        if node not in order:
            order.append(node)
            stack += node.parents
    return order[::-1]


@wrong("parent_after_child", "sorts by the distance from the result, level by level")
def topological_order(result):
    order, seen, queue = [], {result}, deque([result])
    while queue:
        node = queue.popleft()
        order.append(node)
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return order[::-1]


@wrong("parent_after_child", "marks a node as seen when it is put on the stack, not when it is taken up")
def topological_order(result):
    order, seen, stack = [], {result}, [(result, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        stack.append((node, True))
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                stack.append((parent, False))
    return order


@wrong("node_twice", "does not remember where it has been")
def topological_order(result):
    order = []
    for parent in result.parents:
        order += topological_order_of_a_tree(parent)
    return [*order, result]


def topological_order_of_a_tree(node):
    return [n for parent in node.parents for n in topological_order_of_a_tree(parent)] + [node]


@wrong("reversed_order", "returns the order of the backward walk, the result first")
def topological_order(result):
    return right_order(result)[::-1]


@wrong("recursion", "visits the parents by recursion")
def topological_order(result):
    order, seen = [], set()

    def visit(node):
        if node not in seen:
            seen.add(node)
            for parent in node.parents:
                visit(parent)
            order.append(node)

    visit(result)
    return order


@wrong("raised_the_limit", "visits the parents by recursion and raises Python's limit")
def topological_order(result):
    sys.setrecursionlimit(20_000)
    order, seen = [], set()

    def visit(node):
        if node not in seen:
            seen.add(node)
            for parent in node.parents:
                visit(parent)
            order.append(node)

    visit(result)
    return order


@wrong("node_missing", "takes nodes with the same value for the same node")
def topological_order(result):
    order, values = [], set()
    for node in right_order(result):
        if node.value not in values:
            values.add(node.value)
            order.append(node)
    return order


@wrong("node_missing", "leaves out the leaves, which have nothing to hand on")
def topological_order(result):
    return [node for node in right_order(result) if node.parents]


@wrong("marks_left_behind", "marks the nodes themselves as visited")
def topological_order(result):
    order, stack = [], [(result, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif not hasattr(node, "visited"):
            node.visited = True
            stack.append((node, True))
            stack += [(parent, False) for parent in node.parents]
    return order


@wrong("foreign_node", "collects into a default argument, which lives on from call to call")
def topological_order(result, order=[]):  # noqa: B006
    order += [node for node in right_order(result) if node not in order]
    return order


@wrong("walks_every_path", "goes every path and removes what stands there twice at the end")
def topological_order(result):
    order, stack = [], [(result, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        else:
            stack.append((node, True))
            stack += [(parent, False) for parent in node.parents]
    return list(dict.fromkeys(order))


# ---- backward ----


@wrong("assigned_not_added", "assigns where a value that is used several times needs a sum")
def backward(result):
    result.grad = 1.0
    for node in reversed(right_order(result)):
        for parent, local in zip(node.parents, node.local):
            parent.grad = node.grad * local


@wrong("zero_gradient", "does not start with 1 at the result")
def backward(result):
    order = right_order(result)
    for node in order:
        node.grad = 0.0
    hand_on(reversed(order))


@wrong("wrong_start", "starts with the result's value")
def backward(result):
    order = right_order(result)
    for node in order:
        node.grad = 0.0
    result.grad = result.value
    hand_on(reversed(order))


@wrong("not_reversed", "walks from the leaves to the result")
def backward(result):
    order = right_order(result)
    for node in order:
        node.grad = 0.0
    result.grad = 1.0
    hand_on(order)


@wrong("old_gradients", "adds to what an earlier backward left")
def backward(result):
    result.grad = 1.0
    hand_on(reversed(right_order(result)))


@wrong("old_gradients", "clears the leaves and keeps the old gradients of the nodes between")
def backward(result):
    order = right_order(result)
    for node in order:
        if not node.parents:
            node.grad = 0.0
    result.grad = 1.0
    hand_on(reversed(order))


@wrong("handed_on_too_early", "goes on to each parent as soon as it has reported to it")
def backward(result):
    for node in right_order(result):
        node.grad = 0.0
    result.grad = 1.0

    def visit(node):
        for parent, local in zip(node.parents, node.local):
            parent.grad += node.grad * local
            visit(parent)

    visit(result)


@wrong("recursion", "hands each share on by itself, by recursion, with no order at all")
def backward(result):
    for node in right_order(result):
        node.grad = 0.0

    def visit(node, g):
        node.grad += g
        for parent, local in zip(node.parents, node.local):
            visit(parent, g * local)

    visit(result, 1.0)


@wrong("walks_every_path", "hands each share on by itself, with a queue: once per path")
def backward(result):
    for node in right_order(result):
        node.grad = 0.0
    queue = deque([(result, 1.0)])
    while queue:
        node, g = queue.popleft()
        node.grad += g
        queue += [(parent, g * local) for parent, local in zip(node.parents, node.local)]


@wrong("missing_factor", "hands on the gradient without the number on the arrow")
def backward(result):
    order = right_order(result)
    for node in order:
        node.grad = 0.0
    result.grad = 1.0
    for node in reversed(order):
        for parent in node.parents:
            parent.grad += node.grad


@wrong("parallel_arrows", "keeps the parents in a dict, where a + a has only one")
def backward(result):
    order = right_order(result)
    for node in order:
        node.grad = 0.0
    result.grad = 1.0
    for node in reversed(order):
        for parent, local in dict(zip(node.parents, node.local)).items():
            parent.grad += node.grad * local


# ---- right ----


@right("by counting the uses that have not reported yet")
def topological_order(result):
    reached, uses, stack = {result}, {result: 0}, [result]
    while stack:
        for parent in stack.pop().parents:
            uses[parent] = uses.get(parent, 0) + 1
            if parent not in reached:
                reached.add(parent)
                stack.append(parent)
    order, ready = [], [result]
    while ready:
        node = ready.pop()
        order.append(node)
        for parent in node.parents:
            uses[parent] -= 1
            if not uses[parent]:
                ready.append(parent)
    return order[::-1]


@right("with an iterator over the parents of every node that waits")
def topological_order(result):
    order, seen, stack = [], {id(result)}, [(result, iter(result.parents))]
    while stack:
        node, parents = stack[-1]
        for parent in parents:
            if id(parent) not in seen:
                seen.add(id(parent))
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return order


@right("leaves a node on the stack until its parents are done")
def topological_order(result):
    done, stack = {}, [result]
    while stack:
        waiting = [parent for parent in stack[-1].parents if parent not in done]
        if waiting:
            stack.append(waiting[0])
        else:
            done[stack.pop()] = True
    return list(done)


@right("with the gradients in a dict, written to the nodes at the end")
def backward(result):
    grads = {result: 1.0}
    order = right_order(result)
    while order:
        node = order.pop()
        node.grad = grads[node]
        for parent, local in zip(node.parents, node.local):
            grads[parent] = grads.get(parent, 0.0) + local * grads[node]

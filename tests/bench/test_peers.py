"""Every peer computes the numbers that minivit computes, from the same weights: else a comparison of times means nothing."""

import numpy as np
import pytest

import minivit.backend.kernels as kernels
from minivit.bench import measure, peers
from minivit.bench.rows import ours, pose
from tests.bench import tiny


def posed(task, gelu="exact"):
    problem = pose(task, gelu)
    rng = np.random.default_rng(1)
    for p in problem.model.parameters():  # nothing at its special initial value: no zero bias, no weight of ones
        p.assign_((p.data + 0.1 * rng.standard_normal(p.shape)).astype("float32"))
    return problem


@pytest.mark.parametrize(("task", "name"), [
    *((tiny.TRAIN, name) for name in tiny.NUMPY), (tiny.INFER, "pytorch"), *((tiny.PGD, name) for name in tiny.ATTACKS),
], ids=lambda value: getattr(value, "what", value))  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the peers import
def test_the_same_numbers(task, name):
    if name not in peers.installed():
        pytest.skip(f"{name} is not installed: pip install 'minivit[bench]'")
    problem = posed(task, peers.PEERS[name].gelu)
    mine, theirs = ours(problem), peers.PEERS[name].candidate(problem)
    for _ in range(2):  # a second step starts where the first did
        a, b = mine.read(mine.step()), theirs.read(theirs.step())
        assert len(a) == {"train": 1 + len(list(problem.model.parameters()))}.get(task.what, 1)
        assert [x.shape for x in a] == [np.shape(x) for x in b]
        assert all(np.asarray(x).dtype == np.float32 for x in b)
        if task.what == "pgd":
            assert np.abs(a[0] - problem.images).max() > 0.09
            np.testing.assert_allclose(a[0], b[0], atol=1e-5)
        assert measure.gap(a, b, task.what) < 2e-5


def test_mygrad_is_not_asked_for_a_gelu_it_cannot_do():
    if "mygrad" not in peers.installed():
        pytest.skip("mygrad is not installed: pip install 'minivit[bench]'")
    with pytest.raises(ValueError, match="gelu='tanh'"):
        peers.PEERS["mygrad"].candidate(pose(tiny.TRAIN))


def test_peers_by_name(monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'mygrad'"):
        peers.choose(["my_grad"])
    monkeypatch.setattr(peers, "find_spec", lambda module: None if module == "autograd" else module)
    others = [peer for peer in peers.choose(None) if peer not in ("whole", "unfused", "arrays")]
    assert others == ["pytorch", "mygrad", "torchattacks", "foolbox"]
    monkeypatch.setattr(kernels, "_off", ["this test"])
    assert "arrays" not in peers.choose(None)
    assert peers.choose([]) == []
    with pytest.raises(ImportError, match="needs autograd, not installed"):
        peers.choose(["autograd"])

"""The rows of a GPU, as far as they run without one: candidates on a CPU, the whole through the stand-in."""

import json

import numpy as np
import pytest

import minivit as mv
from minivit.bench import gpu, measure, rows
from minivit.bench.peers import torch_gpu
from minivit.bench.rows import pose
from minivit.bench.timing import Timing
from minivit.cli import main
from tests.bench import tiny

PRECISIONS = ("float32", "tf32", "float16")


@pytest.fixture
def tiny_rows(monkeypatch, standin):
    monkeypatch.setattr(rows, "GPU_ROWS", tiny_ones := {"train-tiny": tiny.TRAIN, "pgd-tiny": tiny.PGD})
    monkeypatch.setattr(gpu, "GPU_ROWS", tiny_ones)
    monkeypatch.setattr(mv.bench, "GPU_ROWS", tiny_ones)


def posed(task):
    problem = pose(task)
    rng = np.random.default_rng(1)
    for p in problem.model.parameters():  # nothing at its special initial value
        p.assign_((p.data + 0.1 * rng.standard_normal(p.shape)).astype("float32"))
    return problem


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_compute_the_same_numbers_in_each_precision(precision):
    pytest.importorskip("torch", reason="needs PyTorch, the peer: pip install 'minivit[bench]'")
    problem = posed(tiny.TRAIN)
    exact = gpu.ours(problem, "float32")
    exact = exact.read(exact.step())
    for candidate in (gpu.ours(problem, precision), torch_gpu.candidate(problem, precision, "cpu")):
        for _ in range(2):  # a second step starts where the first did
            found = candidate.read(candidate.step())
            assert [x.shape for x in found] == [x.shape for x in exact]
            off = measure.gap(exact, found, "train")
            assert off < (5e-2 if precision == "float16" else 1e-4)
            assert off > 1e-5 or precision != "float16"  # something was rounded


def test_both_make_the_same_attack():
    pytest.importorskip("torch", reason="needs PyTorch, the peer: pip install 'minivit[bench]'")
    problem = posed(tiny.PGD)
    mine, theirs = gpu.ours(problem, "float32"), torch_gpu.candidate(problem, "float32", "cpu")
    np.testing.assert_allclose(mine.read(mine.step())[0], theirs.read(theirs.step())[0], atol=1e-5)


def test_a_row_per_precision(tiny_rows):
    found = list(mv.bench.run_on_gpu(rounds=1, peers=[]))
    assert [(row.name, row.precision) for row in found] == [
        *(("train-tiny", precision) for precision in PRECISIONS), ("pgd-tiny", "float32"),
    ]  # fmt: skip
    for row in found:
        assert row.seconds["minivit"].median > 0
        assert row.ratio is None
        assert row.peak_bytes == {"minivit": 0}
    assert [found[0].gaps["minivit"], found[1].gaps["minivit"]] == [0, 0]  # the stand-in does not round
    assert 0 < found[2].gaps["minivit"] < 5e-2


def test_the_clock_is_read_when_the_gpu_is_done(tiny_rows, monkeypatch):
    order = []
    monkeypatch.setattr("minivit.backend.gpu.synchronize", lambda: order.append("wait"))
    gpu._until_done(lambda: order.append("step"), "minivit")()
    assert order == ["step", "wait"]


def test_different_numbers_are_not_timed(tiny_rows, monkeypatch):
    honest = gpu.ours

    def wrong(problem, precision):
        candidate = honest(problem, precision)
        factor = 1.1 if precision == "float16" else 1.0
        return rows.Candidate(candidate.step, lambda result: [x * factor for x in candidate.read(result)])

    monkeypatch.setattr(gpu, "ours", wrong)
    with pytest.raises(RuntimeError, match="minivit in float16 computes other numbers"):
        list(mv.bench.run_on_gpu(["train-tiny"], rounds=1, peers=[]))


def test_what_is_refused(monkeypatch, capsys):
    with pytest.raises(ValueError, match="did you mean 'train-vit-b'"):
        mv.bench.run_on_gpu(["train-vit-bb"])
    with pytest.raises(ValueError, match="unknown peer 'mygrad' on a GPU; there is pytorch"):
        mv.bench.run_on_gpu(peers=["mygrad"])
    for words, says in (
        (["--threads", "2"], "--threads: belongs to rows of a CPU"),
        (["--plot", "x.png"], "--plot: belongs to rows of a CPU"),
        (["train-digits"], "unknown row 'train-digits'"),
    ):
        assert main(["bench", "--device", "cuda", *words]) == 2
        assert says in capsys.readouterr().err


def test_without_a_gpu_one_line_says_so(capsys):
    usable, why = mv.backend.gpu_status()
    if usable:
        pytest.skip("there is a GPU")
    assert main(["bench", "--device", "cuda"]) == 2
    assert capsys.readouterr().err == f"minivit bench: error: device='cuda', but no GPU can be used: {why}\n"


def test_what_is_printed(tiny_rows, capsys):
    assert main(["bench", "--device", "cuda", "--list"]) == 0
    assert "train-tiny  a tiny training step" in capsys.readouterr().out
    assert main(["bench", "train-tiny", "--device", "cuda", "--rounds", "1", "--peers", "none"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [["train-tiny", precision] for precision in PRECISIONS]
    assert "no GPU at all, CUDA 12.9, CuPy 14.2.0" in out
    assert main(["bench", "pgd-tiny", "--device", "cuda", "--rounds", "1", "--peers", "none", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["rows"][0]["precision"] == "float32"
    assert read["machine"]["gpu"].startswith("no GPU at all")


def test_the_table_of_two(standin):
    times = {who: Timing(seconds, seconds, seconds, 5) for who, seconds in (("minivit", 0.2), ("pytorch", 0.1))}
    row = gpu.GpuRow("train-x", "about it", "tf32", times, {"minivit": 1e-3, "pytorch": 2e-3}, {"minivit": 3e6, "pytorch": 4e6})
    assert row.ratio == 0.5
    cells = gpu.as_text([row]).splitlines()[1].split()
    assert cells == ["train-x", "tf32", "200", "100", "0.50", "3.0", "4.0", "1.0e-03", "2.0e-03"]


def test_every_row_is_asked_in_every_precision_it_can_have():
    for task in mv.bench.GPU_ROWS.values():
        assert list(gpu.ALLOWED[task.what])[0] == "float32"
        assert task.peers == ("pytorch",)

"""Taking turns, coming to rest, the same threads for everybody."""

import time

import pytest
from threadpoolctl import threadpool_info

import minivit as mv
from minivit.bench import timing


def test_candidates_take_turns_and_the_slower_is_slower():
    calls = []

    def pause(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    timings = mv.bench.alternate({"a": lambda: pause("a", 0.004), "b": lambda: pause("b", 0.012)}, rounds=3, min_seconds=0)
    assert calls == ["a", "a", "b", "b", *"aabb", *"bbaa", *"aabb"]  # a warm-up and a first look, then there and back
    assert timings["a"].median < timings["b"].median
    assert timings["a"].low <= timings["a"].median <= timings["a"].high
    assert timings["a"].rounds == 3


def test_a_quick_candidate_is_called_several_times_a_round(monkeypatch):
    asked = []
    monkeypatch.setattr(timing, "_time", lambda call, *calls: asked.append(calls) or 0.001)
    mv.bench.alternate({"a": lambda: None}, rounds=2, min_seconds=0.02)
    assert asked == [(1,), (1,), (20, 1), (20, 1)]  # each time after one that is not timed


def test_seconds_are_per_call_without_those_before(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing, "settle", lambda: None)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    took = iter([100, 30, 1, 2, 3])
    call = lambda: now.__setitem__(0, now[0] + next(took))  # noqa: E731
    assert timing._time(call, 3, before=2) == 2


def test_a_slow_candidate_has_three_rounds_spread_over_all(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "_time", lambda call, *calls: call())

    def took(name, seconds):
        order.append(name)
        return seconds

    candidates = {"a": lambda: took("a", 0.5), "b": lambda: took("b", 8.0), "c": lambda: took("c", 1.5)}
    timings = mv.bench.alternate(candidates, rounds=9)
    assert {name: t.rounds for name, t in timings.items()} == {"a": 9, "b": 3, "c": 9}
    assert "".join(order[4:]) == "accaabc" "caaccba" "accaabc"
    assert timings["b"].median == 8.0


@pytest.mark.parametrize(("busy_until", "most", "waited"), [(0.15, 2.0, 0.155), (0.0, 2.0, 0.005), (9.0, 0.05, 0.05)])
def test_it_waits_until_busy_threads_stop_but_not_forever(monkeypatch, busy_until, most, waited):
    class Clock:
        """A process one of whose threads spins until `busy_until`, on a machine without jitter."""

        now = 0.0

        def perf_counter(self):
            return self.now

        def process_time(self):
            return min(self.now, busy_until)

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    timing.settle(most)
    assert clock.now == pytest.approx(waited, abs=0.0051)
    assert clock.now >= min(busy_until, most) - 1e-9


@pytest.mark.parametrize("n", [1, 2])
def test_the_same_threads_for_all_and_afterwards_as_before(n):
    def blas():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = mv.backend.num_threads(), blas()
    with timing.same_threads(n):
        assert mv.backend.num_threads() == n
        assert set(blas()) == {n}
    assert (mv.backend.num_threads(), blas()) == before


def test_pytorch_has_the_same_threads():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    before = torch.get_num_threads()
    with timing.same_threads(before + 1, ["pytorch"]):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_next_one_starts_from_a_quiet_process(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "settle", lambda: order.append("-"))
    mv.bench.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, min_seconds=0)
    assert "".join(order) == "-a-a-b-b" + "-aa-bb" + "-bb-aa"


def test_cores_of_others_leaves_out_our_own(monkeypatch):
    monkeypatch.setattr(timing.time, "perf_counter", iter([10.0, 12.0]).__next__)
    monkeypatch.setattr(timing, "_busy_seconds", iter([100.0, 104.0]).__next__)
    times = iter([(1.0, 0.5, 0.25, 0.25, 7.0), (2.0, 1.0, 1.0, 1.0, 99.0)])
    monkeypatch.setattr(timing.os, "times", times.__next__)
    with timing.cores_of_others() as others:
        pass
    assert others() == (4 - 3) / 2


def test_the_busy_time_of_all_includes_ours():
    try:
        before = timing._busy_seconds()
    except OSError:
        pytest.skip("there is no /proc/stat here")
    start = time.process_time()
    while time.process_time() - start < 0.2:
        pass
    assert timing._busy_seconds() - before > 0.15


def test_where_nobody_tells_how_busy_others_are(monkeypatch):
    def missing():
        raise FileNotFoundError

    monkeypatch.setattr(timing, "_busy_seconds", missing)
    with timing.cores_of_others() as others:
        assert others() is None

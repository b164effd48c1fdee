"""A row from beginning to end, what is printed and drawn of it, and what is refused."""

import dataclasses
import json
from importlib.util import find_spec

import numpy as np
import pytest

import minivit as mv
from minivit.bench import measure, memory, peers, rows, table
from minivit.bench.timing import Timing
from minivit.cli import main
from tests.bench import tiny


@pytest.fixture
def tiny_rows(monkeypatch):
    """The rows `train-tiny` and `pgd-tiny`; memory is not measured, since a fresh process does not know them."""
    monkeypatch.setitem(rows.ROWS, "train-tiny", tiny.TRAIN)
    monkeypatch.setitem(rows.ROWS, "pgd-tiny", tiny.PGD)
    monkeypatch.setattr(memory, "peak", lambda row, who, threads: {"minivit": 3_000_000, "pytorch": 4_000_000}[who])


def row(name, mine, seconds, peak=None, others=0.0):
    def at(median):
        return Timing(median, 0.9 * median, 1.2 * median, 5)

    times = {"minivit": at(mine), **{who: at(t) for who, t in seconds.items()}}
    return mv.bench.Row(name, "about it", 2, times, dict.fromkeys(seconds, 1e-6), peak or {}, others)


ROWS = [
    row("train-digits", 0.02, {"pytorch": 0.03, "minivit, tanh": 0.01, "mygrad": 0.04, "floor, a": 0.01, "floor, b": 0.016},
        {"minivit": 5_000_000, "pytorch": 7_000_000}),
    *(row(f"tokens-{n}", n * 1e-4, {"pytorch": n * 2e-4, "floor, a": n * 5e-5}, {"minivit": n * 10_000, "pytorch": n * 20_000})
      for n in (785, 50)),
]  # fmt: skip


def test_a_row_with_every_peer(tiny_rows):
    here = [peer for peer in tiny.NUMPY if peer in peers.installed()]
    (found,) = mv.bench.run(["train-tiny"], rounds=1, threads=1)
    tanh = ["minivit, tanh"] if "mygrad" in here else []
    assert set(found.seconds) == {"minivit", *here, *tanh, "floor, threaded BLAS", "floor, BLAS per thread"}
    assert set(found.gaps) == set(here)
    assert all(0 < gap < 1e-4 for gap in found.gaps.values())
    assert found.threads == 1
    assert found.peak_bytes["minivit"] == 3_000_000
    assert all(found.ratio(peer) > 0 for peer in here)
    assert found.over_floor > 1


def test_an_attack_without_peers(tiny_rows):
    (found,) = mv.bench.run(["pgd-tiny"], rounds=1, peers=[])
    assert set(found.seconds) == {"minivit", "floor, threaded BLAS", "floor, BLAS per thread"}
    assert found.gaps == found.peak_bytes == {}
    assert np.isnan(found.ratio("pytorch"))


def test_the_import_row():
    (found,) = mv.bench.run(["import"], rounds=1, peers=[])
    assert found.over_floor > 0.5
    assert 0.005 < found.seconds["minivit"].median < 10


def test_ratios():
    first = ROWS[0]
    assert first.ratio("pytorch") == 1.5
    assert first.ratio("mygrad") == 4.0  # over minivit's own time in the tanh form
    assert first.over_floor == 2.0  # over the better of the two ways


@pytest.mark.parametrize("wrong", ["gradient", "loss", "nan"])
def test_different_numbers_are_not_timed(tiny_rows, monkeypatch, wrong):
    def candidate(problem):
        mine = rows.ours(problem)

        def read(result):
            loss, *grads = mine.read(result)
            if wrong == "loss":
                return [loss * 1.01, *grads]
            return [loss, *grads[:-1], grads[-1] * (1.01 if wrong == "gradient" else np.nan)]

        return rows.Candidate(mine.step, read)

    monkeypatch.setitem(peers.PEERS, "autograd", peers.Peer(("numpy",), candidate))
    with pytest.raises(RuntimeError, match="minivit and autograd compute different numbers"):
        list(mv.bench.run(["train-tiny"], rounds=1, peers=["autograd"]))


def test_an_attack_may_differ_in_few_images_only():
    a = np.zeros((20, 2, 2, 1))
    b = a.copy()
    b[3] += 0.09
    assert measure.gap([a], [b], "pgd") == 0.05 < measure.ALLOWED["pgd"]
    b += 0.09
    assert measure.gap([a], [b], "pgd") == 1.0 > measure.ALLOWED["pgd"]


def test_rows_by_name_and_by_first_word():
    assert measure.chosen_rows(None, mv.bench.ROWS) == list(mv.bench.ROWS)
    tokens = ["tokens-50", "tokens-197", "tokens-785", "tokens-3137"]
    assert measure.chosen_rows(["tokens", "tokens-50"], mv.bench.ROWS) == tokens
    with pytest.raises(ValueError, match="did you mean 'train-mnist'"):
        mv.bench.run(["train-mnits"])


def test_every_row_has_the_tokens_it_says():
    for name, task in mv.bench.ROWS.items():
        assert set(task.peers) <= set(peers.PEERS)
        if task.config is not None:
            c = task.config
            tokens = c.image_size[0] * c.image_size[1] // c.patch_size**2 + 1
            said = {"digits": 17, "mnist": 50, "vit": 197}.get(name.split("-")[1])
            assert tokens == (said or int(name.split("-")[1]))


def test_the_table():
    text = mv.bench.as_text(ROWS)
    lines = text.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 120
    assert lines[0].split() == ["row", "ms", "pytorch", "mygrad", "floor", "MB", "MB", "pytorch"]
    assert lines[1].split() == ["train-digits", "20.0", "1.50", "4.00", "2.00", "5.0", "7.0"]
    assert lines[2].split() == ["tokens-785", "78.5", "2.00", "-", "2.00", "7.8", "15.7"]
    assert "18.0 to 24.0" in text
    assert "processor" in text
    assert "threads" in text


def test_the_table_of_everything_is_no_wider_than_a_terminal():
    seconds = dict.fromkeys([*peers.PEERS, "minivit, tanh", "floor, BLAS per thread"], 12.345)
    full = [row(name, 1.0, seconds, {"minivit": 10**9, "pytorch": 10**9}) for name in mv.bench.ROWS]
    lines = mv.bench.as_text(full).splitlines()
    assert max(map(len, lines[: [line.split()[:1] for line in lines].index(["threads"])])) <= 120


def test_a_busy_machine_is_told():
    assert "measure again on a quiet machine" not in mv.bench.as_text(ROWS)
    busy = mv.bench.as_text([*ROWS, row("import", 0.1, {"floor, NumPy": 0.1}, others=0.8)])
    assert "0.80 cores busy (import): too much" in busy


def test_json():
    data = json.loads(mv.bench.as_json(ROWS))
    assert data["rows"][0]["seconds"]["minivit"] == dataclasses.asdict(ROWS[0].seconds["minivit"])
    assert data["rows"][0]["ratios"] == {"pytorch": 1.5, "mygrad": 4.0}
    assert data["rows"][0]["over_floor"] == 2.0
    assert {"processor", "cores", "numpy", "blas", "threads"} <= data["machine"].keys()


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(table, "installed", lambda: ["pytorch", "arrays"])
    assert "Not installed: autograd, mygrad, torchattacks, foolbox" in mv.bench.as_text(ROWS)


@pytest.mark.parametrize(("some", "panels"), [(ROWS, 3), (ROWS[:1], 1), (ROWS[1:], 2)])
def test_the_figure(some, panels):
    fig = mv.bench.figure(some)
    fig.canvas.draw()
    assert "threads" in fig.get_suptitle()
    axes = [ax for part in (fig.subfigs or [fig]) for ax in part.axes]
    assert len(axes) == panels
    assert all(ax.get_ylabel() or [t.get_text() for t in ax.get_yticklabels()] == ["train-digits"] for ax in axes)
    if panels > 1:
        memory_axes = axes[-1]
        mine = next(line for line in memory_axes.lines if line.get_label() == "minivit")
        assert mine.get_xydata().tolist() == [[50, 0.5], [785, 7.85]]
        assert memory_axes.get_xlabel() == "tokens"


@pytest.mark.parametrize("some", [ROWS[:1], ROWS[1:]])
def test_the_figure_says_it_too_and_has_room_for_it(some):
    fig = mv.bench.figure([dataclasses.replace(row, others=0.6) for row in some])
    fig.canvas.draw()
    extent = fig._suptitle.get_window_extent()
    assert "too much for ratios to be trusted" in fig.get_suptitle()
    assert extent.x0 >= 0
    assert extent.x1 <= fig.bbox.width


def test_the_command(tiny_rows, capsys, tmp_path):
    picture = tmp_path / "bench.png"
    names = ["pytorch"] if find_spec("torch") else []
    assert main(["bench", "train-tiny", "--rounds", "1", "--threads", "1", "--peers", ",".join(names) or "none", "--json",
                 "--plot", str(picture)]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)["rows"][0]
    assert found["name"] == "train-tiny"
    assert found["threads"] == 1
    assert list(found["gaps"]) == names
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_prints_what_was_measured(monkeypatch, capsys):
    def run(*_):
        yield ROWS[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(mv.bench, "run", run)
    assert main(["bench"]) == 130
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].startswith("train-digits")
    assert "interrupted" in printed.err


def test_an_error_in_a_later_row_loses_none_before_it(monkeypatch, capsys, tmp_path):
    def run(*_):
        yield ROWS[0]
        raise RuntimeError("no memory")

    monkeypatch.setattr(mv.bench, "run", run)
    assert main(["bench", "--json", "--plot", str(tmp_path / "b.png")]) == 2
    printed = capsys.readouterr()
    assert [row["name"] for row in json.loads(printed.out)["rows"]] == [ROWS[0].name]
    assert "error: no memory" in printed.err
    assert (tmp_path / "b.png").exists()


@pytest.mark.parametrize(("peers", "said"), [(["foolbox"], "train-tiny, which foolbox cannot do"), (None, "train-tiny")])
def test_a_peer_that_a_row_has_not_is_named(tiny_rows, monkeypatch, peers, said):
    """If it was asked for by name; by default every row has the peers it can have."""
    heard = []
    monkeypatch.setattr(measure, "choose", lambda _: ["foolbox"])  # whether it is installed or not
    list(mv.bench.run(["train-tiny"], 1, peers, 1, heard.append))
    assert heard == [said]


@pytest.mark.parametrize(("words", "said"), [
    (["--peers", "pytorhc"], "did you mean 'pytorch'"),
    (["--threads", "0"], "at least 1"),
    (["--plot", "nowhere/at/all.png"], "there is no folder 'nowhere/at'"),
])  # fmt: skip
def test_bad_words(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main(["bench", "import", *words]))
    assert stop.value.code == 2
    assert said in capsys.readouterr().err

"""A student's file may be anything: each fault is one clear answer, and nothing is left running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minivit as mv
from minivit.exercises import check_file, find

ROOT = Path(__file__).parents[2]
GOOD = "def product_backward(g, x, y):\n    return g * y, g * x\n"
REUSE = "def reuse_backward(g, x, y):\n    return g * (2 * x + y), g * x\n"


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Checks a file of this content, written as product.py in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(text, name="product.py", **options):
        path = Path(name)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return check_file(path, "product", **options)

    return run


def test_the_solution_passes_and_the_stub_is_not_done(attempt):
    assert attempt(find("product").solved).verdict == "passed"
    result = attempt(find("product").start)
    assert result.verdict == "not done yet"
    assert result.not_done == ["product_backward", "reuse_backward"]
    assert "product_backward, reuse_backward" in str(result)


def test_a_mistake_comes_through_as_it_was_found(attempt):
    result = attempt(GOOD + "def reuse_backward(g, x, y):\n    return g * (x + y), g * x\n")
    assert result.passed == [find("product").checks[0].title]
    assert result.failing.function == "reuse_backward"
    assert result.findings[0].code == "missing_term"
    assert "analytic" in str(result)


def test_the_second_part_is_checked_though_the_first_is_not_done(attempt):
    result = attempt("def product_backward(g, x, y):\n    raise NotImplementedError()\n" + REUSE)
    assert [outcome.verdict for outcome in result.outcomes] == ["not done yet", "passed"]
    assert result.verdict == "not done yet"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("", "missing_function", "there is no function product_backward"),
        (GOOD.replace("product", "prodct") + REUSE, "missing_function", "there is prodct_backward"),
        ("product_backward = 3\n", "missing_function", "is not a function but of type int"),
        ("def product_backward(g, x):\n    return g\n", "wrong_parameters",
         "product_backward(g, x) cannot be called as product_backward(g, x, y)"),
        ("import numpy as np\nx = 1 / 0\n", "raised", "ZeroDivisionError: division by zero\n"
         '  File "product.py", line 2, in <module>\n    x = 1 / 0'),
        ("def product_backward(g, x, y)\n    return g\n", "not_python", "SyntaxError"),
        (b"\xff\xfe\x00PK\x03", "not_python", "Error"),
        ("import no_such_module\n", "raised", "no_such_module"),
        ("import sys\nsys.exit(3)\n", "exited", "sys.exit"),
        ("import os\nos._exit(3)\n", "exited", "exit code 3"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "exited", "SIGSEGV"),
        ("raise KeyboardInterrupt\n", "raised", "KeyboardInterrupt"),
        (GOOD.replace("g * y, g * x", "exit()"), "exited", "sys.exit"),
        (GOOD.replace("g * y, g * x", "None"), "wrong_count", "is a return missing?"),
        (GOOD.replace("g * y, g * x", "g * y"), "wrong_count", "one array for 2 inputs"),
        (GOOD.replace("g * y, g * x", "open, 'x'"), "wrong_dtype", "not an array"),
        ("def product_backward(g, x, y):\n    return product_backward(g, x, y)\n", "raised", "more calls"),
        ("import numpy as np\nx = np.zeros(10**9)\n", "raised", "MemoryError"),
    ],
)  # fmt: skip
def test_each_fault_is_explained(attempt, text, code, says):
    result = attempt(text)
    assert result.verdict == "wrong"
    assert result.findings[0].code == code
    assert says in str(result)
    assert "minivit/" not in str(result), "only the student's own lines"
    assert "Traceback" not in str(result)
    assert len(str(result).splitlines()) < 40


def test_an_exception_shows_the_lines_of_the_student_alone(attempt):
    text = "import numpy as np\n\ndef helper(a):\n    return a @ a\n\ndef product_backward(g, x, y):\n    return helper(x), y\n"
    report = attempt(text).failing.report.splitlines()
    assert report[0].startswith("ValueError: matmul")
    assert report[1:] == [
        '  File "product.py", line 7, in product_backward', "    return helper(x), y",
        '  File "product.py", line 4, in helper', "    return a @ a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [("n = 0\nwhile True:\n    n += 1\n", "n += 1|while True:"),
     ("def product_backward(g, x, y):\n    while True:\n        print('x' * 1000)\n", "print('x' * 1000)"),
     ("import time\ntime.sleep(60)\n", "time.sleep(60)")],
)  # fmt: skip
def test_an_endless_loop_is_stopped_and_its_line_named(attempt, text, line):
    began = time.monotonic()
    result = attempt(text, time_limit=0.5)
    assert time.monotonic() - began < 30
    assert result.findings[0].code == "time_limit"
    assert "0.5 s" in str(result)
    assert any(part in result.failing.report for part in line.split("|"))
    assert len(result.printed) < 2000


def test_processes_of_the_student_end_with_it(attempt, tmp_path):
    text = (
        "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open('pid', 'w').write(str(child.pid))\nwhile True: pass\n"
    )
    assert attempt(text, time_limit=0.5).findings[0].code == "time_limit"
    assert _ended(int((tmp_path / "pid").read_text()))


def _ended(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_ends_the_file_too(tmp_path):
    (tmp_path / "product.py").write_text("import os\nopen('pid', 'w').write(str(os.getpid()))\nwhile True: pass\n")
    command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
               "from minivit.cli import main; raise SystemExit(main(['exercises', 'check', 'product.py']))"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    for _ in range(400):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in error
    assert _ended(int((tmp_path / "pid").read_text()))


def test_what_it_prints_is_shown_and_cut(attempt):
    noisy = GOOD.replace("    return", "    print('look', x.shape)\n    return").replace("g * y", "y")
    result = attempt("print('\\x1b[31mred')\n" + noisy + REUSE)
    assert "  | look (3, 4)  (" in str(result)
    assert "\x1b" not in str(result)
    much = "import sys\nprint('many words ' * 10**6)\nsys.stderr.write('e' * 10**6)\n"
    assert len(attempt(much + GOOD + REUSE).printed) < 2000


def test_what_stands_below_main_is_not_run_and_threads_do_not_hold_it(attempt):
    text = GOOD + REUSE + "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    began = time.monotonic()
    assert attempt(text + "if __name__ == '__main__':\n    raise SystemExit\n", time_limit=30).verdict == "passed"
    assert time.monotonic() - began < 30


def test_it_does_not_wait_for_the_keyboard(attempt):
    """Standard input that nobody writes to, as at a terminal: input() must not wait for it."""
    (read_end, write_end), keyboard = os.pipe(), os.dup(0)
    os.dup2(read_end, 0)
    try:
        assert "EOFError" in str(attempt("input('your name? ')\n", time_limit=5))
    finally:
        os.dup2(keyboard, 0)
        for end in (read_end, write_end, keyboard):
            os.close(end)


def test_a_stub_that_the_file_itself_calls_is_not_done(attempt):
    assert attempt(find("product").start + "\nprint(product_backward(1, 2, 3))\n").verdict == "not done yet"


def test_a_file_may_hold_dataclasses(attempt):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    assert attempt(text + GOOD + REUSE).verdict == "passed"


def test_a_module_beside_the_file_is_found_and_hides_nothing(attempt):
    Path("mine.py").write_text("def first(g, y):\n    return g * y\n")
    Path("numpy.py").write_text("raise RuntimeError\n")
    text = "from mine import first\nimport numpy\ndef product_backward(g, x, y):\n    return first(g, y), g * x\n" + REUSE
    assert attempt(text).verdict == "passed"


def test_bad_arguments(tmp_path):
    path = tmp_path / "other.py"
    path.write_text(GOOD)
    with pytest.raises(ValueError, match="of which exercise"):
        check_file(path)
    with pytest.raises(ValueError, match="no exercise 'prodct'; did you mean 'product'"):
        check_file(path, "prodct")
    with pytest.raises(ValueError, match="time_limit"):
        check_file(path, "product", time_limit=0)
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "nowhere.py")
    with pytest.raises(ValueError, match="notebook"):
        check_file(path.rename(tmp_path / "other.txt"))
    path.write_text("# minivit exercise: product\n" + GOOD + REUSE)  # the mark says what the name does not
    assert check_file(path).exercise == "product"


def test_the_other_process_loads_little():
    code = ("import sys, minivit.exercises.runner; print([m for m in sys.modules if m.partition('.')[0] in "
            "('matplotlib', 'torch', 'tqdm', 'scipy') or m in ('minivit.models', 'minivit.nn', 'minivit.train')])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    assert mv.exercises.names()

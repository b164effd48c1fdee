"""What the memory measurement sees."""

import subprocess
import sys

import numpy as np
import pytest

from minivit.bench import memory

try:
    memory._status("VmHWM")
except OSError:
    pytest.skip("there is no /proc/self/status here", allow_module_level=True)

MB = 1_000_000


def test_it_sees_what_a_step_takes_and_gives_back():
    def step():
        np.ones(64 * MB, np.uint8)  # and lets go of it

    assert 63 * MB < memory.growth(step) < 80 * MB


def test_it_sees_what_a_step_keeps():
    kept = []  # of arrays so large that the C library never serves them from memory it has
    assert 119 * MB < memory.growth(lambda: kept.append(np.ones(40 * MB, np.uint8)), calls=3) < 140 * MB


def test_it_does_not_count_what_was_there_before():
    there = np.ones(64 * MB, np.uint8)
    del there
    assert memory.growth(lambda: None) < 8 * MB


def test_it_counts_what_uses_memory_that_was_freed():
    """Of arrays that the C library keeps when they are freed, too small to be given back one by one."""
    text = (
        "import numpy as np\nfrom minivit.bench import memory\n"
        "def some(): return [np.ones(60_000, np.uint8) for _ in range(800)]\n"
        "a = some(); above = np.ones(60_000, np.uint8); del a\nprint(memory.growth(some))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)  # as `peak` has it
    assert int(done.stdout) > 40 * MB


def test_a_row_in_a_fresh_process():
    # a few MB: attention's probabilities alone, 64 × 4 × 17 × 17 numbers in each of 4 layers, are 1.2 MB
    assert 2 * MB < memory.peak("train-digits", "minivit", 1) < 100 * MB


def test_a_failing_process_is_told():
    with pytest.raises(RuntimeError, match=r"memory of nobody failed(.|\n)*KeyError"):
        memory.peak("train-digits", "nobody", 1)

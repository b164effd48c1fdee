"""What the memory measurement sees."""

import subprocess
import sys

import pytest

from minivit.bench import memory

try:
    memory._status("VmHWM")
except OSError:
    pytest.skip("there is no /proc/self/status here", allow_module_level=True)

MB = 1_000_000


def growth(before, step):
    """That of a step in a fresh process, as `peak` has it: in this one, what other tests have left may be freed meanwhile."""
    text = f"import numpy as np\nfrom minivit.bench import memory\n{before}\nprint(memory.growth(lambda: {step}))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_it_sees_what_a_step_takes_and_gives_back():
    assert 63 * MB < growth("", f"np.ones({64 * MB}, np.uint8).size") < 80 * MB


def test_it_sees_what_a_step_keeps():
    # arrays so large that the C library never serves them from memory it has
    assert 119 * MB < growth("kept = []", f"kept.append(np.ones({40 * MB}, np.uint8))") < 140 * MB


def test_it_does_not_count_what_was_there_before():
    assert growth(f"there = np.ones({64 * MB}, np.uint8); del there", "None") < 8 * MB


def test_it_counts_what_uses_memory_that_was_freed():
    """Of arrays that the C library keeps when they are freed, too small to be given back one by one."""
    some = "[np.ones(60_000, np.uint8) for _ in range(800)]"
    assert growth(f"a = {some}; above = np.ones(60_000, np.uint8); del a", some) > 40 * MB


def test_a_row_in_a_fresh_process():
    # a few MB: attention's probabilities alone, 64 × 4 × 17 × 17 numbers in each of 4 layers, are 1.2 MB
    assert 2 * MB < memory.peak("train-digits", "minivit", 1) < 100 * MB


def test_a_failing_process_is_told():
    with pytest.raises(RuntimeError, match=r"memory of nobody failed(.|\n)*KeyError"):
        memory.peak("train-digits", "nobody", 1)

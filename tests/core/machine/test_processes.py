"""Process trees and their memory, on real processes."""

import os
import subprocess
import sys
import time

import pytest

from detserve_core.machine.processes import (
    every,
    other_cpu_s,
    process_tree,
    total_bytes,
    tree_cpu_s,
    tree_memory,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PSS is told on Linux only")
_PARENT = """
import subprocess, sys
script = "held = b'x' * 60_000_000; print('held', flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
input()
child.kill()
"""


def test_a_tree_is_the_process_and_all_below_it() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "held\n"
        tree = process_tree(parent.pid)
        assert tree[0] == parent.pid
        assert len(tree) == 2
        memory = tree_memory(parent.pid)
        assert [one.pid for one in memory] == tree
        assert total_bytes(memory) > 60_000_000
        assert all(one.rss_bytes >= (one.pss_bytes or 0) > 0 for one in memory)
        assert os.getpid() not in tree
    finally:
        parent.communicate("\n")
    assert process_tree(parent.pid) == []
    assert tree_memory(parent.pid) == []


def test_cpu_time_of_a_tree_counts_what_it_computed() -> None:
    before_s = tree_cpu_s(os.getpid())
    others_s = other_cpu_s([])
    ends_s = time.process_time() + 0.2
    while time.process_time() < ends_s:
        pass
    assert tree_cpu_s(os.getpid()) - before_s >= 0.15
    assert other_cpu_s([]) - others_s > -0.1  # what this process computed is not in it


def test_sampling_acts_first_last_and_in_between() -> None:
    samples: list[int] = []
    ends_s = time.monotonic() + 60
    with every(0.02, lambda: samples.append(len(samples))):
        assert samples == [0]
        while len(samples) < 4:
            assert time.monotonic() < ends_s
            time.sleep(0.01)
        before = len(samples)
    assert len(samples) > before

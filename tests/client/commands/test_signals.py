"""Signals that a process sends to itself: one of its own, whose handlers no other test has changed."""

from __future__ import annotations

import signal
import subprocess
import sys

from detserve_client.commands.signals import told_to_stop

_PROGRAM = """
import signal
from types import SimpleNamespace
from detserve_client.commands import signals

signal.signal(signal.SIGINT, signal.default_int_handler)
clock = SimpleNamespace(monotonic=lambda: clock.now_s, now_s=5.0)
signals.time = clock
with signals.told_to_stop() as stopping:
    assert not stopping.is_set()
    signal.raise_signal(signal.SIGINT)
    assert stopping.is_set()
    signal.raise_signal(signal.SIGINT)
clock.now_s += 0.9
signal.raise_signal(signal.SIGINT)
print("still one wish")
clock.now_s += 0.2
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("a later one acts")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_the_first_signal_and_its_echo_are_a_wish_and_a_later_one_acts() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("still one wish\na later one acts\n", 0), done.stderr


def test_without_a_signal_everything_is_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with told_to_stop():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

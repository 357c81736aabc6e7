from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from detserve_client.commands import signals
from detserve_client.commands.signals import told_to_stop


def test_the_first_signal_and_its_echo_are_a_wish_and_a_later_one_acts(monkeypatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    clock = SimpleNamespace(monotonic=lambda: clock.now_s, now_s=5.0)
    monkeypatch.setattr(signals, "time", clock)
    with told_to_stop() as stopping:
        assert not stopping.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stopping.is_set()
        signal.raise_signal(signal.SIGINT)
    clock.now_s += 0.9
    signal.raise_signal(signal.SIGINT)
    clock.now_s += 0.2
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_without_a_signal_everything_is_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with told_to_stop():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

"""For all tests."""

from __future__ import annotations

import os
import signal

import pytest

pytest_plugins = ["tests.detected"]

# Tests run side by side: threads of the linear algebra that wait for a busy core take ten times as long as
# none. To be said before numpy is imported; the processes that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Take SIGINT, which a shell has background jobs ignore; tests send it to themselves and to servers."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests of servers wait a good part of their time."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares a server or another fixture runs in one process of xdist, so that it is made once."""
    for item in items:
        if group := _shared_fixture(item):
            item.add_marker(pytest.mark.xdist_group(group))


def _shared_fixture(item: pytest.Item) -> str | None:
    """The group of what cannot be taken apart; None where nothing outlives the test."""
    if not isinstance(item, pytest.Function):
        return None
    for name in ("site", "server"):
        if name in item.fixturenames:
            return name
    found = [definitions[-1] for definitions in item._fixtureinfo.name2fixturedefs.values()]
    if any(one.scope == "module" for one in found):
        return item.module.__name__
    return None

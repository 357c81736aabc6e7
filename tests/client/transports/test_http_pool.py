from __future__ import annotations

import os
import ssl

import pytest

from detserve_client import Endpoint
from detserve_client.transports.http_pool import HttpPool


class Connection:
    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.made_with = (host, port, tls)
        self.is_idle, self.closed = True, False

    def idle(self) -> bool:
        return self.is_idle

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pool() -> HttpPool[Connection]:
    return HttpPool(Endpoint.parse("http://host:7"), Connection)


def test_the_last_one_given_back_is_taken_first(pool: HttpPool[Connection]) -> None:
    first, second = pool.take(), pool.take()
    assert first is not second
    assert first.made_with == ("host", 7, None)
    pool.give_back(first, reusable=True)
    pool.give_back(second, reusable=True)
    assert pool.take() is second
    assert pool.take() is first


def test_one_that_cannot_carry_another_request_is_closed(pool: HttpPool[Connection]) -> None:
    used, ended = pool.take(), pool.take()
    pool.give_back(used, reusable=False)
    pool.give_back(ended, reusable=True)
    ended.is_idle = False
    assert pool.take() not in (used, ended)
    assert (used.closed, ended.closed) == (True, True)


def test_so_many_are_kept_and_no_more(pool: HttpPool[Connection]) -> None:
    taken = [pool.take() for _ in range(70)]
    for connection in taken:
        pool.give_back(connection, reusable=True)
    assert sum(not connection.closed for connection in taken) == 64


def test_a_fork_takes_none_of_its_parents(
    pool: HttpPool[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = pool.take()
    pool.give_back(parents, reusable=True)
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert pool.take() is not parents
    assert not parents.closed


def test_nothing_outlives_its_end(pool: HttpPool[Connection]) -> None:
    waiting, under_way = pool.take(), pool.take()
    pool.give_back(waiting, reusable=True)
    pool.close()
    pool.close()
    assert waiting.closed
    pool.give_back(under_way, reusable=True)
    assert under_way.closed
    with pytest.raises(ValueError, match="the client is closed"):
        pool.take()

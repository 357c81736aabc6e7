from __future__ import annotations

import os
from pathlib import Path

import pytest

from detserve_core.errors import OutputError
from detserve_core.machine.cache import cache_folder, made_in_cache


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache/detserve"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/var/cache/detserve")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1_000_670_000)  # in no passwd
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME to a folder that can be written"):
        cache_folder()


def test_a_home_that_cannot_be_written_names_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = "set XDG_CACHE_HOME to a folder that can be written"
    assert made_in_cache(tmp_path / "cache" / "zoo").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=rf"\(Not a directory\); {words}"):
        made_in_cache(tmp_path / "file" / "zoo")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=rf"\(it belongs to somebody else\); {words}"):
        made_in_cache(tmp_path / "cache")


@pytest.mark.parametrize("user", ["zoo", "peers", "detached", "build"])
def test_who_writes_into_the_cache_says_it(
    user: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        _USERS[user]()


def _zoo() -> None:
    from detserve_builder.zoo.catalogue import CATALOGUE
    from detserve_builder.zoo.get import get

    get(next(iter(CATALOGUE)), lambda count: None)


def _peers() -> None:
    from detserve_perf.peers.environment import peer_python

    peer_python(["fastapi"], "onnxruntime", lambda phase: None)


def _build() -> None:
    import detserve

    detserve.build("codes_yolo")


def _detached() -> None:
    from detserve_server.triton.detached import start_detached

    start_detached(["serve"])


_USERS = {"zoo": _zoo, "peers": _peers, "detached": _detached, "build": _build}

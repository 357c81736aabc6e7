"""A file over real HTTP: whole or not there, resumed, verified, through proxies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detserve_builder.errors import BuildError
from detserve_builder.zoo.download import Download, download
from tests.builder.zoo.file_server import FileServer, proxy, serving

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture
def file() -> Iterator[FileServer]:
    with serving(FileServer(CONTENT)) as server:
        yield server


def wanted(file: FileServer, folder: Path, content: bytes = CONTENT) -> Download:
    return Download(
        f"{file.url}/some/net.onnx", folder / "net.onnx", hashlib.sha256(content).hexdigest(), len(content)
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_comes_whole_and_only_once(file: FileServer, tmp_path: Path) -> None:
    told: list[int] = []
    download(wanted(file, tmp_path / "new"), told.append)
    assert (tmp_path / "new/net.onnx").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["net.onnx"]
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)
    download(wanted(file, tmp_path / "new"))
    assert len(file.asked) == 1


@pytest.mark.parametrize("etag", [True, False])
def test_a_broken_connection_goes_on_where_it_was(file: FileServer, tmp_path: Path, etag: bool) -> None:
    file.etag, file.breaks_at = etag, [300_000, 200_000]
    download(wanted(file, tmp_path))
    assert (tmp_path / "net.onnx").read_bytes() == CONTENT
    assert [said for _, said in file.asked] == [None, "bytes=300000-", "bytes=500000-"]


def test_without_ranges_it_begins_again(file: FileServer, tmp_path: Path) -> None:
    file.ranges, file.breaks_at = False, [300_000]
    download(wanted(file, tmp_path))
    assert (tmp_path / "net.onnx").read_bytes() == CONTENT
    assert [said for _, said in file.asked] == [None, "bytes=300000-"]


def test_what_came_is_kept_for_the_next_call(file: FileServer, tmp_path: Path) -> None:
    file.breaks_at = [100_000] * 5
    with pytest.raises(BuildError, match="broke 5 times .*500000 of 1000000 bytes are here"):
        download(wanted(file, tmp_path))
    assert names(tmp_path) == ["net.onnx.etag", "net.onnx.part"]
    download(wanted(file, tmp_path))
    assert file.asked[-1][1] == "bytes=500000-"
    assert names(tmp_path) == ["net.onnx"]


def test_a_part_of_another_version_is_dropped(file: FileServer, tmp_path: Path) -> None:
    file.etag = False
    (tmp_path / "net.onnx.part").write_bytes(b"x" * 1000)
    download(wanted(file, tmp_path))
    assert (tmp_path / "net.onnx").read_bytes() == CONTENT


def test_a_changed_file_is_sent_whole(file: FileServer, tmp_path: Path) -> None:
    (tmp_path / "net.onnx.part").write_bytes(b"x" * 1000)
    (tmp_path / "net.onnx.etag").write_text('"earlier"')
    download(wanted(file, tmp_path))
    assert len(file.asked) == 1
    assert (tmp_path / "net.onnx").read_bytes() == CONTENT


def test_a_whole_part_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "net.onnx.part").write_bytes(CONTENT)
    download(wanted(FileServer(CONTENT, url="http://127.0.0.1:9"), tmp_path))
    assert names(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<html>sign in</html>", "20 bytes instead of 1000000"), (CONTENT[::-1], "the sha256 is not")],
)
def test_other_content_is_refused(file: FileServer, tmp_path: Path, content: bytes, said: str) -> None:
    file.content = content
    with pytest.raises(BuildError, match=said):
        download(wanted(file, tmp_path))
    assert "net.onnx" not in names(tmp_path)
    assert "net.onnx.part" not in names(tmp_path)


def test_an_absent_file_is_said(file: FileServer, tmp_path: Path) -> None:
    file.status = 404
    with pytest.raises(BuildError, match=r"net.onnx: the server answers 404 Not Found; .* NAME/FILE"):
        download(wanted(file, tmp_path))
    assert len(file.asked) == 1


def test_a_fault_of_the_server_is_tried_again(file: FileServer, tmp_path: Path) -> None:
    file.status = 503
    with pytest.raises(BuildError, match="503 Service Unavailable"):
        download(wanted(file, tmp_path))
    assert len(file.asked) == 5


def test_no_server_names_proxy_and_mirror(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"Connection refused\); .*HTTPS_PROXY.*DETSERVE_ZOO_URL"):
        download(wanted(FileServer(CONTENT, url="http://127.0.0.1:9"), tmp_path))


def test_a_proxy_of_the_environment_is_used(
    file: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    with proxy() as (url, seen):
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("https_proxy", url)
        download(wanted(file, tmp_path))
        assert seen == [f"{file.url}/some/net.onnx"]
        secure = Download("https://zoo.invalid/net.onnx", tmp_path / "other", "0" * 64, 1)
        with pytest.raises(BuildError, match="403 Forbidden"):
            download(secure)
        assert seen[-1] == "CONNECT zoo.invalid:443"
    assert (tmp_path / "net.onnx").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_said(file: FileServer, tmp_path: Path) -> None:
    from detserve_core.errors import OutputError

    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: "):
        download(wanted(file, tmp_path / "file"))

"""Whatever is done to an audit log without its key is found, and the first wrong line is named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detserve_server.audit.ledger import open_ledger
from detserve_server.audit.verify import Verdict, verify
from detserve_server.errors import AuditBroken, AuditError
from tests.server.audit.audit_logs import access_line, collected, records, request_ids

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 requests in five files, collected in six runs. Tests change copies of it."""
    directory = tmp_path_factory.mktemp("chain") / "audit"
    return collected(directory, KEY, [access_line(n) for n in range(30)], file_bytes=3000, runs=6)


def _copy(log: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(log, folder))


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("audit-*.jsonl"), key=lambda path: (len(path.name), path.name))


def _lines(directory: Path) -> list[tuple[Path, bytes]]:
    return [
        (path, line) for path in _files(directory) for line in path.read_bytes().splitlines(keepends=True)
    ]


def _write(directory: Path, lines: list[tuple[Path, bytes]]) -> None:
    for path in _files(directory):
        path.write_bytes(b"".join(line for owner, line in lines if owner.name == path.name))


def test_an_untouched_log_is_ok_over_files_and_runs(log: Path) -> None:
    verdict = verify(log, PUBLIC)
    assert verdict.counts["request"] == 30
    assert verdict.files == len(_files(log)) == verdict.counts["file"] >= 3
    assert verdict.sequence == 30 + verdict.files
    assert sorted(request_ids(log)) == list(range(30))


def test_the_chain_is_what_the_documentation_says(log: Path) -> None:
    last = hashlib.sha256(b"detserve audit log 1").hexdigest()
    for _, line in _lines(log):
        body = json.loads(line)
        digest = body.pop("hash")
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        last = hashlib.sha256(f"{last}{text}".encode()).hexdigest()
        assert digest == last


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_is_found(log: Path, tmp_path: Path, data: st.DataObject) -> None:
    directory = _copy(log, tmp_path / "audit")
    lines = _lines(directory)
    index = data.draw(st.integers(0, len(lines) - 1))
    path, line = lines[index]
    match data.draw(st.sampled_from(["byte", "remove", "repeat", "swap", "field", "cut", "file", "space"])):
        case "byte":
            place = data.draw(st.integers(0, len(line) - 1))
            lines[index] = (
                path,
                line[:place] + bytes([line[place] ^ data.draw(st.integers(1, 255))]) + line[place + 1 :],
            )
        case "remove":
            del lines[index]
        case "repeat":
            lines.insert(data.draw(st.integers(0, len(lines))), (path, line))
        case "swap":
            other = data.draw(st.integers(0, len(lines) - 1).filter(lambda other: other != index))
            lines[index], lines[other] = (path, lines[other][1]), (lines[other][0], line)
        case "field":
            body = json.loads(line)
            body["sequence"] += data.draw(st.sampled_from([-1, 1]))
            lines[index] = (path, json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        case "cut":
            lines = lines[:index]
        case "file":
            lines = [kept for kept in lines if kept[0] != path]
        case "space":
            lines[index] = (path, line.replace(b",", b", ", 1))
    _write(directory, lines)
    with pytest.raises(AuditBroken):
        verify(directory, PUBLIC)


def test_the_first_wrong_line_is_named(log: Path, tmp_path: Path) -> None:
    directory = _copy(log, tmp_path / "audit")
    path = _files(directory)[1]
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"client":"shop"', b'"client":"mole"')
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditBroken, match=rf"^{re.escape(str(path))}:3: record \d+ was changed"):
        verify(directory, PUBLIC)


def test_a_chain_computed_anew_without_the_key_is_found(log: Path, tmp_path: Path) -> None:
    directory = _copy(log, tmp_path / "audit")
    _forge(directory)
    assert verify(directory, None).counts["request"] == 30  # without a key it looks right
    with pytest.raises(AuditBroken, match="is not signed with the key"):
        verify(directory, PUBLIC)


def _forge(directory: Path) -> None:
    """Change one client and compute every hash after it, and the head, as anybody could."""
    last, lines = hashlib.sha256(b"detserve audit log 1").hexdigest(), []
    for path, line in _lines(directory):
        body = json.loads(line.replace(b'"client":"shop"', b'"client":"mole"'))
        del body["hash"]
        if body["kind"] == "file":
            body["previous"] = last
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        last = hashlib.sha256(f"{last}{text}".encode()).hexdigest()
        body["hash"] = last
        lines.append((path, json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n"))
    _write(directory, lines)
    head = json.loads((directory / "head.json").read_text())
    (directory / "head.json").write_text(json.dumps({**head, "hash": last}))


def test_an_older_state_put_back_whole_is_found_with_an_anchor(tmp_path: Path) -> None:
    directory = collected(tmp_path / "audit", KEY, [access_line(n) for n in range(5)])
    older = _copy(directory, tmp_path / "older")
    log = tmp_path / "audit-access.log"
    log.write_bytes(log.read_bytes() + access_line(5))
    collected(directory, KEY, [access_line(6)])
    anchor = shutil.copy(directory / "head.json", tmp_path / "anchor.json")
    assert verify(directory, PUBLIC, anchors=[anchor]).counts["request"] == 7
    assert verify(older, PUBLIC).counts["request"] == 5  # the head alone cannot know
    with pytest.raises(
        AuditBroken, match=r"anchor\.json is of record 8, .* an older state of it was put back"
    ):
        verify(older, PUBLIC, anchors=[anchor])
    with pytest.raises(AuditBroken, match="the log was written anew"):
        verify(
            collected(tmp_path / "other", KEY, [access_line(n) for n in range(9)]), PUBLIC, anchors=[anchor]
        )


def test_a_line_without_an_end_is_not_read_into_memory(log: Path, tmp_path: Path) -> None:
    directory = _copy(log, tmp_path / "audit")
    with _files(directory)[0].open("r+b") as file:
        file.truncate(2**32)  # a sparse file of zeros
    with pytest.raises(AuditBroken, match="is not a line that a collector writes"):
        verify(directory, PUBLIC)


def test_archived_files_are_missed_unless_named(log: Path, tmp_path: Path) -> None:
    directory = _copy(log, tmp_path / "audit")
    first = records(directory)
    gone = len(_files(directory)[0].read_bytes().splitlines())
    _files(directory)[0].unlink()
    with pytest.raises(
        AuditBroken, match=f"records 1 to {gone} are missing before it; .* give --first {gone + 1}"
    ):
        verify(directory, PUBLIC)
    assert verify(directory, PUBLIC, first=gone + 1).sequence == len(first)
    with pytest.raises(AuditBroken, match="stands where record"):
        verify(directory, PUBLIC, first=gone + 2)


def test_the_collector_does_not_go_on_with_a_changed_log(log: Path, tmp_path: Path) -> None:
    for change in ("change", "cut", "head", "no head", "key"):
        directory = _copy(log, tmp_path / change.replace(" ", "-"))
        newest, head = _files(directory)[-1], directory / "head.json"
        if change == "change":
            newest.write_bytes(newest.read_bytes().replace(b"shop", b"mole"))
        elif change == "cut":
            newest.write_bytes(newest.read_bytes()[:-1])
        elif change == "head":
            head.write_text(head.read_text().replace('"sequence": 3', '"sequence": 2'))
        elif change == "no head":
            head.unlink()
        key = Ed25519PrivateKey.generate() if change == "key" else KEY
        with pytest.raises(AuditBroken):
            with open_ledger(directory, key):
                pass


def test_one_collector_at_a_time(log: Path, tmp_path: Path) -> None:
    directory = _copy(log, tmp_path / "audit")
    with open_ledger(directory, KEY), pytest.raises(AuditError, match="another collector"):
        with open_ledger(directory, KEY):
            pass


def test_no_log_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="as written by: detserve audit collect"):
        verify(tmp_path, PUBLIC)


def test_an_empty_log_is_ok(tmp_path: Path) -> None:
    assert verify(collected(tmp_path / "audit", KEY, []), PUBLIC) == Verdict()

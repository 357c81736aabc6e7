"""API keys: only hashes on disk, whole files, one writer at a time."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from detserve_client.errors import DetserveError
from detserve_server.commands.keys import app
from detserve_server.errors import DurationError, KeyFileError
from detserve_server.keys.duration import parse_duration
from detserve_server.keys.key import new_key, utc_now
from detserve_server.keys.store import KeyFile, change_keys, nginx_file, nginx_keys, read_keys

runner = CliRunner()


def keys_command(*arguments: str, file: Path) -> str:
    result = runner.invoke(app, [*arguments, "--keys", str(file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_key_is_256_random_bits_and_kept_as_a_hash() -> None:
    text, record = new_key("alice")
    found = re.fullmatch(r"dsk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", text)
    assert found
    assert record.id == found[1]
    digest = hashlib.md5(f"{found[1]}:{found[2]}".encode()).digest()  # noqa: S324
    assert record.hash == urlsafe_b64encode(digest).decode().strip("=")
    assert found[2] not in record.model_dump_json()
    assert len({new_key("alice")[0] for _ in range(100)}) == 100


def test_create_list_scope_expire_revoke(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    text = keys_command("create", "--client", "alice", "--models", "a,b", "--expires", "30d", file=file)
    key_id, secret = text.strip().split("_", 2)[1:]
    assert secret not in file.read_text() + nginx_file(file).read_text()
    assert file.stat().st_mode & 0o777 == nginx_file(file).stat().st_mode & 0o777 == 0o600
    assert f'"{key_id}" ",a,b,"' in nginx_file(file).read_text()
    assert key_id in keys_command("list", file=file)
    keys_command("scope", key_id, file=file)
    assert f'"{key_id}" "*"' in nginx_file(file).read_text()
    keys_command("expire", key_id, "--in", "0s", file=file)
    assert read_keys(file).find(key_id).state(utc_now()) == "expired"
    keys_command("revoke", key_id, file=file)
    assert read_keys(file).find(key_id).state(utc_now()) == "revoked"
    assert key_id not in nginx_file(file).read_text()
    nginx_file(file).unlink()
    keys_command("render", file=file)
    assert nginx_file(file).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--client", 'a";}'],
        ["create", "--client", "a", "--models", 'x"y'],
        ["create", "--client", "a", "--models", ""],
        ["create", "--client", "a", "--expires", "soon"],
        ["create", "--client", "a", "--rate", "0"],
        ["create", "--client", "a", "--concurrency", "0"],
        ["revoke", "nobody"],
        ["scope", "000000000000", "--models", "x"],
    ],
)
def test_a_mistake_changes_nothing(tmp_path: Path, arguments) -> None:
    file = tmp_path / "keys.json"
    change_keys(file, lambda _: KeyFile(keys=(new_key("bob")[1],)))
    before = file.read_bytes()
    with pytest.raises(DetserveError) as caught:
        runner.invoke(app, [*arguments, "--keys", str(file)], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        for number in range(100):
            record = new_key(f"client_{number}")[1]
            pool.submit(change_keys, file, lambda kept, record=record: KeyFile(keys=(*kept.keys, record)))
    assert {key.client for key in read_keys(file).keys} == {f"client_{number}" for number in range(100)}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"keys": [{"id": "x"}]}', b'{"more": 1}', b"\xff"])
def test_a_file_that_is_none(tmp_path: Path, content) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(content)
    with pytest.raises(KeyFileError, match="no file of keys"):
        read_keys(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="detserve keys create"):
        read_keys(tmp_path / "keys.json")


def test_expiry_is_what_nginx_is_told() -> None:
    expires = utc_now() + timedelta(hours=1)
    _, record = new_key("a", expires=expires)
    # nginx refuses in the second after the one it is told.
    assert f"{record.hash},{int(expires.timestamp()) - 1}" in nginx_keys(KeyFile(keys=(record,)))


def test_a_record_cannot_say_anything_to_nginx() -> None:
    _, record = new_key("a")
    for field, value in [("client", 'a";'), ("hash", "x" * 23), ("id", "$uri"), ("models", ['"'])]:
        with pytest.raises(ValidationError):
            KeyFile.model_validate({"keys": [{**json.loads(record.model_dump_json()), field: value}]})


@pytest.mark.parametrize("text", ["", "5", "d", "-1d", "1w", "1.5h", "99999999d"])
def test_a_duration_that_is_none(text) -> None:
    with pytest.raises(DurationError, match="such as 90d or 12h"):
        parse_duration(text)


def test_durations() -> None:
    assert parse_duration("90d") == timedelta(days=90)
    assert parse_duration("45s") == timedelta(seconds=45)

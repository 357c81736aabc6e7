"""API keys: only hashes on disk, whole files, one writer at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from detserve_core.errors import DetserveError
from detserve_server.commands.keys import app
from detserve_server.errors import DurationError, GatewayError, KeyFileError
from detserve_server.gateway.keys.duration import parse_duration
from detserve_server.gateway.keys.key import KeyRecord, new_key, utc_now
from detserve_server.gateway.keys.nginx import LONGEST_VALUE, MOST_LIMITS, left_out, nginx_keys
from detserve_server.gateway.keys.store import KeyFile, change_keys, nginx_file, read_keys
from detserve_server.gateway.process import check_configuration, find_nginx
from detserve_server.gateway.settings import GatewaySettings, RateLimits, Upstream

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
    keys_command("scope", key_id, "--no-gateway", file=file)
    assert f'"{key_id}" "*"' in nginx_file(file).read_text()
    keys_command("expire", key_id, "--in", "0s", "--no-gateway", file=file)
    assert read_keys(file).find(key_id).state(utc_now()) == "expired"
    keys_command("revoke", key_id, "--no-gateway", file=file)
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
        ["create", "--client", "a", "--rate", "0.0166"],
        ["create", "--client", "a", "--concurrency", "0"],
        ["create", "--client", "a", "--gateway", "gateway:8443"],
        ["create", "--client", "a", "--models", ",".join(f"detector_{n:05}" for n in range(300))],
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
    with pytest.raises(KeyFileError, match="not a file of keys"):
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


NGINX_OF_KEYS = """
events {{}}
error_log {folder}/error.log;
pid {folder}/pid;
http {{
    map_hash_max_size 65536;
    map_hash_bucket_size 256;
    variables_hash_max_size 8192;
    variables_hash_bucket_size 128;
    map $arg_key $detserve_key_id {{ default ""; }}
    map $arg_key $detserve_identity {{ default ""; }}
    include {folder}/keys.conf;
}}
"""


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Raises what nginx says against the keys of a file."""
    try:
        program = find_nginx()
    except DetserveError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "nginx.conf").write_text(NGINX_OF_KEYS.format(folder=folder))

    def check(*keys: KeyRecord) -> None:
        (folder / "keys.conf").write_text(nginx_keys(KeyFile(keys=keys)))
        check_configuration(program, folder)

    return check


def scoped(*models: str, **fields: Any) -> KeyRecord:
    return new_key("a", models=models or None, **fields)[1]


def test_the_longest_list_of_models_that_nginx_takes(nginx) -> None:
    names = [f"{number:0>99}" for number in range(40)]
    longest = scoped(*names, "x" * (LONGEST_VALUE - 2 - 100 * 40))
    one_more = scoped(*names, "x" * (LONGEST_VALUE - 1 - 100 * 40))
    nginx(longest)
    nginx(longest, one_more)
    assert [key.id for key, _ in left_out(KeyFile(keys=(longest, one_more)))] == [one_more.id]
    assert (
        one_more.id
        not in nginx_keys(KeyFile(keys=(longest, one_more))).partition("map")[2].partition("map")[2]
    )


def test_too_many_models_are_refused_with_how_many_fit(tmp_path: Path, nginx) -> None:
    names = [f"detector_{number:05}" for number in range(300)]
    arguments = [
        "create",
        "--client",
        "a",
        "--models",
        ",".join(names),
        "--keys",
        str(tmp_path / "keys.json"),
    ]
    with pytest.raises(KeyFileError, match="got 300 names") as caught:
        runner.invoke(app, arguments, catch_exceptions=False)
    fit = int(re.search(r"the first (\d+) fit", str(caught.value))[1])
    assert not left_out(KeyFile(keys=(scoped(*names[:fit]),)))
    assert left_out(KeyFile(keys=(scoped(*names[: fit + 1]),)))
    assert not (tmp_path / "keys.json").exists()


def test_rates_that_are_the_same_to_nginx(nginx) -> None:
    rates = [100, 100.00001, 1.4999, 1.5001, 0.011, 1 / 60, 0.02, 1_000_000, 999_999.999]
    nginx(*(scoped(limits=RateLimits(rate_per_s=rate, concurrency=n)) for rate in rates for n in (16, 17)))


def test_more_different_limits_than_nginx_is_given(tmp_path: Path, nginx) -> None:
    keys = tuple(scoped(limits=RateLimits(rate_per_s=1 + number)) for number in range(MOST_LIMITS))
    change_keys(tmp_path / "keys.json", lambda _: KeyFile(keys=keys))
    nginx(*keys)
    keys_command("create", "--client", "a", "--rate", "7", file=tmp_path / "keys.json")
    with pytest.raises(KeyFileError, match="1000 different pairs already"):
        keys_command("create", "--client", "a", "--rate", "0.5", file=tmp_path / "keys.json")
    nginx(*keys, scoped(limits=RateLimits(rate_per_s=0.5)))


def test_two_keys_of_one_id(nginx) -> None:
    key = scoped()
    nginx(key, key.model_copy(update={"client": "b"}))


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
records = st.builds(
    KeyRecord,
    id=st.from_regex(r"[0-9a-f]{12}", fullmatch=True) | st.sampled_from(["0" * 12, "1" * 12]),
    client=st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
    hash=st.from_regex(r"[A-Za-z0-9_-]{22}", fullmatch=True),
    models=st.none() | st.lists(names, min_size=1, max_size=60).map(tuple),
    limits=st.builds(
        RateLimits,
        rate_per_s=st.floats(0.0101, 1_000_000) | st.sampled_from([100, 100.00001]),
        concurrency=st.integers(1, 10_000),
    ),
    created=st.just(utc_now()),
    expires=st.none() | st.datetimes(timezones=st.just(timezone.utc)),
    revoked=st.none() | st.just(utc_now()),
)


@given(keys=st.lists(records, max_size=60))
@settings(max_examples=40, deadline=None)
def test_nginx_takes_whatever_a_record_can_say(nginx, keys) -> None:
    nginx(*keys)


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link, kept = tmp_path / "keys.json", tmp_path / "kept/secret-keys.json"
    link.symlink_to(kept)
    for _ in range(2):
        keys_command("create", "--client", "a", file=link)
    assert link.is_symlink()
    assert len(read_keys(kept).keys) == len(read_keys(link).keys) == 2
    assert nginx_file(link) == nginx_file(kept) == tmp_path / "kept/secret-keys.conf"
    assert nginx_file(link).is_file()
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    with pytest.raises(DetserveError, match="loop.json cannot be written: Too many levels"):
        change_keys(loop, lambda file: file)


def test_a_mode_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys_command("create", "--client", "a", file=file)
    file.chmod(0o640)
    nginx_file(file).chmod(0o644)
    keys_command("create", "--client", "b", file=file)
    assert (file.stat().st_mode & 0o777, nginx_file(file).stat().st_mode & 0o777) == (0o640, 0o644)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write as another user")
def test_what_root_changes_stays_the_container_user_s(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 2345)
    file = tmp_path / "keys/keys.json"
    for client in ("made", "changed"):
        keys_command("create", "--client", client, file=file)
        for path in (file.parent, *file.parent.iterdir()):
            assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345), path
    os.chown(nginx_file(file), 1235, 2345)
    keys_command("create", "--client", "another", file=file)
    assert nginx_file(file).stat().st_uid == 1235


def test_a_change_that_breaks_off_between_the_two_files(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "keys.json"
    key = scoped()
    change_keys(file, lambda _: KeyFile(keys=(key,)))
    before = file.read_bytes(), nginx_file(file).read_bytes()
    order = []
    take_name = Path.replace

    def no_json(self: Path, target: Path) -> Path:
        order.append(Path(target).suffix)
        if target == file:
            raise OSError(28, "No space left on device")
        return take_name(self, target)

    monkeypatch.setattr(Path, "replace", no_json)
    with pytest.raises(DetserveError, match="No space left"):
        keys_command("revoke", key.id, "--no-gateway", file=file)
    monkeypatch.undo()
    assert order == [".conf", ".json", ".conf"]
    assert (file.read_bytes(), nginx_file(file).read_bytes()) == before
    assert not list(tmp_path.glob("*.part"))


def test_a_list_that_is_older_than_what_nginx_reads(tmp_path: Path) -> None:
    """As a process leaves it that is killed between the two files."""
    file = tmp_path / "keys.json"
    key = scoped()
    change_keys(file, lambda _: KeyFile(keys=(key,)))
    older = file.read_bytes()
    keys_command("revoke", key.id, "--no-gateway", file=file)
    assert "is not of these keys" not in runner.invoke(app, ["list", "--keys", str(file)]).stderr
    file.write_bytes(older)
    assert "is not of these keys" in runner.invoke(app, ["list", "--keys", str(file)]).stderr
    keys_command("render", file=file)
    assert "is not of these keys" not in runner.invoke(app, ["list", "--keys", str(file)]).stderr


def test_a_key_goes_into_a_file_that_its_owner_alone_reads(tmp_path: Path) -> None:
    output, file = tmp_path / "alice.key", tmp_path / "keys.json"
    assert keys_command("create", "--client", "alice", "--output", str(output), file=file) == ""
    assert output.stat().st_mode & 0o777 == 0o600
    assert output.read_text().startswith(f"dsk_{read_keys(file).keys[0].id}_")
    kept = output.read_text()
    for taken in (output, tmp_path, Path()):
        with pytest.raises(DetserveError, match="exists, and may hold another key"):
            keys_command("create", "--client", "bob", "--output", str(taken), file=file)
    assert output.read_text() == kept
    assert len(read_keys(file).keys) == 1


def test_without_a_gateway_a_key_is_made_and_a_revocation_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "keys/keys.json"
    made = runner.invoke(app, ["create", "--client", "a", "--keys", str(file)], catch_exceptions=False)
    assert (made.exit_code, "no running gateway is known" in made.stderr) == (0, True)
    key_id = read_keys(file).keys[0].id
    for arguments in (["scope", key_id], ["expire", key_id, "--in", "1d"], ["revoke", key_id]):
        with pytest.raises(GatewayError, match="no running gateway is known .*--gateway .*--no-gateway"):
            keys_command(*arguments, file=file)
    assert read_keys(file).keys[0].revoked


def test_a_guessed_gateway_that_is_not_there_is_said(tmp_path: Path) -> None:
    file = tmp_path / "keys/keys.json"
    change_keys(file, lambda _: KeyFile(keys=(scoped(),)))
    rendered = GatewaySettings(
        listen=("127.0.0.1:9",),
        upstreams=(Upstream(grpc="triton:8001", http="triton:8000"),),
        certificate="/c", certificate_key="/k", keys="/keys.conf", access_log="/log",
    )  # fmt: skip
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway/gateway.json").write_text(rendered.model_dump_json())
    with pytest.raises(GatewayError, match="gateway.json suggests https://127.0.0.1:9: nobody listens"):
        keys_command("revoke", read_keys(file).keys[0].id, file=file)


@pytest.mark.parametrize("kind", ["fifo", "device"])
@pytest.mark.parametrize("command", ["list", "revoke", "create"])
def test_a_file_of_keys_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, command: str) -> None:
    file = tmp_path / "keys.json"
    if kind == "fifo":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    more = {"list": [], "revoke": ["0" * 12, "--no-gateway"], "create": ["--client", "a", "--no-gateway"]}
    asked = [sys.executable, "-m", "detserve", "keys", command, *more[command], "--keys", str(file)]
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "cannot be read (it is not a regular file)" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr

"""Lines of the access log are believed only when they are what the gateway writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from detserve_server.audit.record import is_complete, record_of
from detserve_server.audit.usage import Usage, usage_csv
from detserve_server.audit.verify import verify
from detserve_server.commands.audit import app
from tests.server.audit.audit_logs import access_line, collected, records

KEY = Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "ok"),
        ({"grpc_status": "0"}, "ok"),
        ({"grpc_status": 16}, "denied"),
        ({"grpc_status": 7}, "denied"),
        ({"grpc_status": 8}, "limited"),
        ({"grpc_status": 3}, "rejected"),
        ({"grpc_status": 1}, "cancelled"),
        ({"grpc_status": 4}, "failed"),
        ({"grpc_status": 14}, "failed"),
        ({"grpc_status": None}, "failed"),  # Triton went away before its trailers
        ({"status": 502, "grpc_status": None}, "failed"),
        ({"status": 499, "grpc_status": "-"}, "cancelled"),
        ({"protocol": "http", "grpc_status": None}, "ok"),
        ({"protocol": "http", "grpc_status": 16}, "denied"),  # a disguised gRPC path
        ({"protocol": "http", "status": 401}, "denied"),
        ({"protocol": "http", "status": 403}, "denied"),
        ({"protocol": "http", "status": 429}, "limited"),
        ({"protocol": "http", "status": 413}, "limited"),
        ({"protocol": "http", "status": 400}, "rejected"),
        ({"protocol": "http", "status": 503}, "failed"),
        ({"protocol": "http", "status": 0}, "failed"),
    ],
)
def test_outcome(fields: dict[str, object], outcome: str) -> None:
    record = record_of(access_line(1, **fields).strip())
    assert (record["kind"], record["outcome"]) == ("request", outcome)


def test_times_are_utc_with_milliseconds_and_upstream_times_are_summed() -> None:
    line = access_line(1, time="2026-11-24T15:00:00.5+02:00", upstream_s="0.010, 0.020 : -")
    record = record_of(line.strip())
    assert record["time"] == "2026-11-24T13:00:00.500Z"
    assert record["upstream_s"] == pytest.approx(0.030)
    assert record_of(access_line(1, upstream_s=None).strip())["upstream_s"] == 0


def test_fields_that_are_not_asked_for_are_dropped() -> None:
    record = record_of(access_line(1, authorization="Bearer dsk_secret", body="JPEG").strip())
    assert "secret" not in json.dumps(record)
    assert "JPEG" not in json.dumps(record)


@pytest.mark.parametrize(
    "injected",
    [
        {"model": 'codes"},{"client":"victim'},
        {"client": "shop\n" + access_line(7, client="victim").decode()},
        {"model": "\x1b[2J\x1b]0;owned\x07"},
        {"method": "\u202egnp.exe"},
        {"client": "\x00"},
        {"peer": "x" * 300},
    ],
)
def test_injected_text_makes_no_second_record_and_no_control_character(
    tmp_path: Path, injected: dict[str, str]
) -> None:
    directory = collected(
        tmp_path / "audit", KEY, [access_line(1), access_line(2, **injected), access_line(3)]
    )
    text = b"".join(path.read_bytes() for path in directory.glob("audit-*.jsonl"))
    assert text.replace(b"\n", b"").decode("ascii").isprintable()
    kinds = [record["kind"] for record in records(directory)]
    assert len(kinds) == 4
    if "codes" not in injected.get("model", ""):  # quotes alone are text like any other
        assert kinds == ["file", "request", "untrusted", "request"]
    usage = Usage()
    verify(directory, KEY.public_key(), on_record=usage.update)
    assert [row.client for row in usage.rows()] == ["shop"]


def test_lines_and_logs_of_gateways_without_trace_ids_are_still_read() -> None:
    assert record_of(access_line(1).strip())["trace_id"] == ""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert record_of(access_line(1, trace_id=trace_id).strip())["trace_id"] == trace_id
    old, new = record_of(access_line(1).strip()), record_of(access_line(1, trace_id=trace_id).strip())
    del old["trace_id"]
    assert is_complete(old)
    assert is_complete(new)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b"\x1b[31m GET / HTTP/1.1", b"{}" * 1000, b"[" * 2_000,
        access_line(1, status=-1).strip(), access_line(1, bytes_in=-5).strip(),
        access_line(1, latency_s="nan").strip(), access_line(1, upstream_s="1e999").strip(),
        access_line(1, upstream_s="a").strip(), access_line(1, upstream_s=[1]).strip(),
        access_line(1, bytes_in=10**30).strip(), access_line(1, time="tomorrow").strip(),
        access_line(1, time="9999-12-31T23:59:59-23:00").strip(), access_line(1, time=1e300).strip(),
        access_line(1, time="0001-01-01T00:00:00+23:00").strip(), access_line(1, method="x" * 5000).strip(),
        access_line(1, key="0123456789ab_secret").strip(), access_line(1, claimed_key='","client":"').strip(),
        access_line(1, key="0123456789ab\n").strip(), access_line(1, one_in=0).strip(),
        access_line(1, one_in=1.5).strip(), access_line(1, one_in=10**30).strip(),
        access_line(1, trace_id="../x").strip(), access_line(1, trace_id="0" * 31).strip(),
        access_line(1, protocol="ftp").strip(), access_line(1, model="\ud800").strip(),
    ],
)  # fmt: skip
def test_what_is_no_line_of_the_gateway_is_kept_as_untrusted(line: bytes) -> None:
    record = record_of(line)
    assert record["kind"] == "untrusted"
    assert record["sha256"] == hashlib.sha256(line).hexdigest()
    assert record["bytes"] == len(line)
    assert record["excerpt"].isascii()
    assert record["excerpt"].isprintable()


@settings(deadline=None)
@given(st.binary(max_size=300).filter(lambda line: b"\n" not in line))
def test_no_bytes_raise(line: bytes) -> None:
    assert record_of(line)["kind"] == "untrusted"


_JUNK = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(json.loads(access_line(1)))), _JUNK))
def test_no_value_of_a_field_raises(fields: dict[str, object]) -> None:
    record = record_of(access_line(1, **fields).strip())
    assert json.dumps(record, allow_nan=False).isascii()


def test_usage_per_client_and_day(tmp_path: Path) -> None:
    lines = [access_line(n, bytes_in=1000, bytes_out=10, upstream_s=0.25) for n in range(4)]
    lines += [
        access_line(10, client="=HYPERLINK(1)", grpc_status=16, upstream_s=None, bytes_in=5, bytes_out=5),
        access_line(11, time="2026-11-25T00:30:00+02:00", method="ModelReady", upstream_s=0.5),
        access_line(12, time="2026-11-25T00:00:00Z", protocol="http", method="infer", upstream_s=1),
        b"garbage\n",
    ]
    directory = collected(tmp_path / "audit", KEY, lines)
    usage = Usage()
    verify(directory, KEY.public_key(), on_record=usage.update)
    assert usage_csv(usage.rows()).splitlines() == [
        "day,client,requests,not_ok,inferences,bytes_in,bytes_out,compute_s",
        "2026-11-24,'=HYPERLINK(1),1,1,0,5,5,0.000",
        "2026-11-24,shop,5,0,4,54000,2640,1.500",
        "2026-11-25,shop,1,0,1,50000,2600,1.000",
    ]
    assert usage.untrusted == 1


def test_two_keys_of_one_client_are_told_apart(tmp_path: Path) -> None:
    first, second, foreign = "0123456789ab", "abcdef012345", "f" * 12
    lines = [access_line(n, key=first) for n in range(3)]
    lines += [access_line(5, key=second, bytes_in=7)]
    lines += [access_line(6, client="", claimed_key=foreign, grpc_status=16), access_line(7)]
    directory = collected(tmp_path / "audit", KEY, lines)
    found = [(one["key"], one["claimed_key"]) for one in records(directory) if one["kind"] == "request"]
    assert found == [(first, "")] * 3 + [(second, ""), ("", foreign), ("", "")]
    by_key, by_client = Usage(by_key=True), Usage()
    for usage in (by_key, by_client):
        verify(directory, KEY.public_key(), on_record=usage.update)
    assert usage_csv(by_key.rows(), by_key=True).splitlines() == [
        "day,client,key,requests,not_ok,inferences,bytes_in,bytes_out,compute_s",
        "2026-11-24,,,1,1,0,50000,2600,0.025",  # whoever sent it chose the id: it makes no row
        "2026-11-24,shop,,1,0,1,50000,2600,0.025",  # by a gateway that did not name the key
        f"2026-11-24,shop,{first},3,0,3,150000,7800,0.075",
        f"2026-11-24,shop,{second},1,0,1,7,2600,0.025",
    ]
    assert [(use.client, use.requests) for use in by_client.rows()] == [("", 1), ("shop", 5)]


def test_a_line_that_stands_for_many_refusals(tmp_path: Path) -> None:
    refused = {"status": 401, "protocol": "http", "client": "", "grpc_status": None, "bytes_in": 10}
    lines = [access_line(1), access_line(2, **refused, one_in=50), access_line(3, **refused, one_in=1)]
    directory = collected(tmp_path / "audit", KEY, lines)
    found = [record for record in records(directory) if record["kind"] == "request"]
    assert [record.get("one_in", "not said") for record in found] == ["not said", 50, "not said"]
    usage = Usage()
    verify(directory, KEY.public_key(), on_record=usage.update)
    assert [(use.client, use.requests, use.not_ok, use.bytes_in) for use in usage.rows()] == [
        ("", 51, 51, 20),
        ("shop", 1, 0, 50_000),
    ]
    assert usage.sampled == 1
    shown = CliRunner().invoke(app, ["usage", str(directory), "--by-key"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    assert "estimates" in shown.stdout
    assert "(none)" in shown.stdout

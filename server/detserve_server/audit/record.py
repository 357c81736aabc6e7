"""One line of the gateway's access log -> one record of the audit log."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

_EXCERPT_BYTES = 400
_TEXTS = ("time", "request_id", "client", "model", "method", "outcome")
_NUMBERS = ("bytes_in", "bytes_out", "latency_s", "upstream_s")
_INFERENCES = ("ModelInfer", "ModelStreamInfer", "infer", "rest-detect", "rest-vision")


class Ending(str, Enum):
    """What became of a request."""

    OK = "ok"
    DENIED = "denied"  # this client may not: no key, wrong key, forbidden endpoint
    LIMITED = "limited"  # over a rate or a size
    REJECTED = "rejected"  # the request is wrong: a bad picture, no such model
    CANCELLED = "cancelled"  # the client went away
    FAILED = "failed"  # the server, a full queue too, or the way to it


_OF_GRPC = {
    0: Ending.OK, 1: Ending.CANCELLED, 3: Ending.REJECTED, 5: Ending.REJECTED, 7: Ending.DENIED,
    8: Ending.LIMITED, 9: Ending.REJECTED, 11: Ending.REJECTED, 12: Ending.DENIED, 16: Ending.DENIED,
}  # fmt: skip
_OF_HTTP = {
    401: Ending.DENIED, 403: Ending.DENIED, 413: Ending.LIMITED, 429: Ending.LIMITED,
    499: Ending.CANCELLED,
}  # fmt: skip


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a character that cannot be printed")
    return text


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError("is a time that has no equal in UTC") from None


def _absent(value: object) -> object:
    return None if value in ("", "-") else value


def _seconds(value: object) -> object:
    """nginx names the time of each server it tried: ``0.010, 0.020 : 0.001``; none is 0 seconds."""
    if value is None:
        return 0.0
    if not isinstance(value, str):
        return value
    times = [part.strip() for part in value.replace(":", ",").split(",")]
    return sum(float(part) for part in times if part not in ("", "-"))


_Text = Annotated[str, Field(max_length=256), AfterValidator(_printable)]
_LongText = Annotated[str, Field(max_length=4096), AfterValidator(_printable)]
_KeyId = Annotated[str, Field(pattern="^([0-9a-f]{12})?$")]
_TraceId = Annotated[str, Field(pattern="^([0-9a-f]{32})?$")]
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, lt=1e9, allow_inf_nan=False)]


class AccessLine(BaseModel):
    """What the gateway says of one request; any other field it writes is dropped.

    ``key`` is the id of the API key that was let in, ``claimed_key`` the one that a refused request named,
    whoever sent it. ``trace_id`` is of the client's ``traceparent``, else the request's own id; older lines
    have none. ``one_in`` stands for how many refusals like it the line was written.
    ``bytes_in`` and ``bytes_out`` are of whole messages with their headers. ``latency_s`` runs from the
    first byte of the request to the last of the answer; ``upstream_s`` is the time for which Triton had the
    request.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    time: Annotated[AwareDatetime, AfterValidator(_utc)]
    request_id: _Text
    trace_id: _TraceId = ""
    client: _Text = ""
    key: _KeyId = ""
    claimed_key: _KeyId = ""
    peer: _Text
    certificate: Annotated[
        _LongText, Field(validation_alias=AliasChoices("certificate", "certificate_subject"))
    ] = ""
    protocol: Literal["grpc", "http"]
    model: _Text = ""
    method: _LongText
    status: Annotated[int, Field(ge=0, le=999)]
    grpc_status: Annotated[Annotated[int, Field(ge=0, le=16)] | None, BeforeValidator(_absent)] = None
    bytes_in: _Count
    bytes_out: _Count
    latency_s: _Seconds
    upstream_s: _Seconds = 0.0
    one_in: Annotated[int, Field(ge=1, lt=2**53)] = 1

    @property
    def outcome(self) -> Ending:
        """gRPC says it in its own status, unless the gateway answered with an HTTP error alone.

        A path that becomes one of gRPC only when it is decoded is refused as gRPC too.
        """
        if self.status == 200 and (self.protocol == "grpc" or self.grpc_status is not None):
            return (
                Ending.FAILED if self.grpc_status is None else _OF_GRPC.get(self.grpc_status, Ending.FAILED)
            )
        if self.status in _OF_HTTP:
            return _OF_HTTP[self.status]
        if 200 <= self.status < 400:
            return Ending.OK
        return Ending.REJECTED if 400 <= self.status < 500 else Ending.FAILED


def record_of(line: bytes) -> dict[str, Any]:
    """The record of one line (without its line break): of kind ``request``, or ``untrusted`` with the reason.

    An untrusted line is kept as its length, its hash and an escaped beginning; nothing in it is believed.
    """
    try:
        access = AccessLine.model_validate_json(line)
    except ValidationError as error:
        return untrusted(_reason(error), line[:_EXCERPT_BYTES], len(line), hashlib.sha256(line).hexdigest())
    fields = access.model_dump(mode="json", exclude={"one_in"} if access.one_in == 1 else None)
    return {
        "kind": "request",
        **fields,
        "time": timestamp(access.time),
        "outcome": access.outcome.value,
    }


def untrusted(reason: str, beginning: bytes, length: int, sha256: str) -> dict[str, Any]:
    """The record of a line that is not one of the gateway's."""
    excerpt = beginning[:_EXCERPT_BYTES].decode("latin-1").encode("unicode_escape").decode("ascii")
    return {"kind": "untrusted", "reason": reason, "excerpt": excerpt, "bytes": length, "sha256": sha256}


def gap(what: str) -> dict[str, Any]:
    """The record of a place where lines of the access log may be missing."""
    return {"kind": "gap", "what": what}


def is_complete(record: Mapping[str, Any]) -> bool:
    """Whether a record has what is read of it, as :func:`record_of` and :func:`gap` write it.

    A chain of anything else can be made by whoever has the key, or when no key is given to check it.
    """
    match record["kind"]:
        case "request":
            texts = (*map(record.get, _TEXTS), record.get("key", ""), record.get("trace_id", ""))
            numbers = (*map(record.get, _NUMBERS), record.get("one_in", 1))
            return all(map(_is_text, texts)) and all(map(_is_number, numbers))
        case "untrusted":
            return _is_text(record.get("sha256"))
    return True


def is_inference(record: Mapping[str, Any]) -> bool:
    """Whether a ``request`` record is one that sends pictures."""
    return str(record["method"]).rsplit("/", 1)[-1].endswith(_INFERENCES)


def timestamp(time: datetime) -> str:
    """UTC with milliseconds: ``2026-11-24T13:49:53.120Z``."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**53


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"]))
    if not field:
        return "no JSON object"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"

"""What a server, or the way to it, says when it fails, as one of detserve's errors."""

from __future__ import annotations

import re

from detserve_core.errors import (
    AccessDenied,
    ContractViolation,
    DeadlineExceeded,
    InferenceError,
    ModelNotFound,
    Overloaded,
    RequestRejected,
    ServerFault,
    ServerUnavailable,
)
from detserve_core.proxies import grpc_proxy, unused_http_proxy

BY_GRPC_CODE: dict[str, type[InferenceError]] = {
    "CANCELLED": ServerUnavailable,
    "UNKNOWN": ServerFault,
    "INVALID_ARGUMENT": RequestRejected,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": ModelNotFound,
    "ALREADY_EXISTS": ServerFault,
    "PERMISSION_DENIED": AccessDenied,
    "RESOURCE_EXHAUSTED": Overloaded,
    "FAILED_PRECONDITION": ServerFault,
    "ABORTED": ServerFault,
    "OUT_OF_RANGE": RequestRejected,
    "UNIMPLEMENTED": ContractViolation,
    "INTERNAL": ServerFault,
    "UNAVAILABLE": ServerUnavailable,
    "DATA_LOSS": ServerFault,
    "UNAUTHENTICATED": AccessDenied,
}

BY_HTTP_STATUS: dict[int, type[InferenceError]] = {
    400: RequestRejected,
    401: AccessDenied,
    403: AccessDenied,
    404: ModelNotFound,
    407: AccessDenied,
    408: DeadlineExceeded,
    413: RequestRejected,
    415: RequestRejected,
    422: RequestRejected,
    429: Overloaded,
    500: ServerFault,
    501: ContractViolation,
    502: ServerUnavailable,
    503: ServerUnavailable,
    504: DeadlineExceeded,
}

# What Triton says is clearer than its status: a full queue is UNAVAILABLE, a python model's error INTERNAL.
BY_TEXT: tuple[tuple[re.Pattern[str], type[InferenceError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"^picture\b|^parameter\b", RequestRejected),
        (r"request for unknown model|has no available versions|model version not ready", ModelNotFound),
        (r"unable to find shared memory region", ServerFault),  # its status is NOT_FOUND, as a model's
        (r"exceeds maximum queue size|request timeout expired", Overloaded),
        (r"(protocol|api) is restricted|\bkey is not for\b", AccessDenied),
        (r"message larger than max", RequestRejected),
        (r"^unexpected (shape|data ?type) for input|^\[.*\] unexpected shape", RequestRejected),
    )
)

# What gRPC and Python's ssl say of a connection that cannot be made, and what to do about it.
_CONNECTION_MISTAKES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), sentence)
    for pattern, sentence in (
        (
            r"certificate has expired",
            "its certificate has expired; make it anew on the server",
        ),
        (
            r"hostname verification check failed|certificate is not valid for|(ip address|hostname) mismatch",
            "its certificate is for another host; give a name that is in the certificate as --url (url=)",
        ),
        (
            r"CERTIFICATE_VERIFY_FAILED|unable to get local issuer|self-signed certificate",
            "its certificate is signed by an authority that is not known here; give the authority's "
            "certificate as --ca FILE (Security(ca=...))",
        ),
        (
            r"alert certificate required|alert handshake failure",
            "it wants a certificate from this client: --certificate FILE (Security(certificate=...))",
        ),
        (
            r"alert unknown ca|alert bad certificate|failed to create security handshaker",
            "this client's certificate is refused; check --certificate FILE (Security(certificate=...))",
        ),
        (r"wrong.version.number", "it does not speak TLS there; use grpc:// or http://"),
        (
            r"missing selected ALPN property|failed parsing HTTP/2",
            "it does not speak gRPC there; is that its HTTP port?",
        ),
    )
)

# Triton's words, the first to what came in while others were in flight.
_GOING_DOWN = re.compile(r"^server is stopping|^server (is )?not ready", re.IGNORECASE)

_PREFIX = re.compile(
    r"""^(?:
        \[request\ id:[^\]]*\]\s*
        | in\ ensemble\ '[^']*',\s*
        | failed\ to\ process\ the\ request\(s\)\ for\ model\ (?:instance\ )?'[^']*',\s*message:\s*
        | (?:TritonModelException|ValueError|TritonError|c_python_backend_utils\.TritonError):\s*
    )""",
    re.IGNORECASE | re.VERBOSE,
)


_CONNECTION_PREFIX = re.compile(r"^(?:[A-Z_]+: )?ipv[46]:\S+: (?:Failed to connect to remote host: )?")


def error_from_grpc(code: str, text: str, *, url: str, model: str) -> InferenceError:
    """The error for a gRPC status: ``code`` is its name, e.g. ``UNAVAILABLE``; ``text`` its details."""
    return _error(BY_GRPC_CODE.get(code, ServerFault), text or code, url, model)


def error_from_http(status: int, text: str, *, url: str, model: str) -> InferenceError:
    """The error for an HTTP status other than 200 and the server's words."""
    by_class = {3: ContractViolation, 4: RequestRejected}.get(status // 100, ServerFault)
    return _error(BY_HTTP_STATUS.get(status, by_class), text or f"HTTP status {status}", url, model)


def unreachable(reason: str, *, url: str) -> ServerUnavailable:
    """The error for a connection that is refused, lost or never made."""
    return ServerUnavailable(_sentence(ServerUnavailable, reason, url, ""))


def unready(*, url: str) -> ServerUnavailable:
    """The error for a server that says of itself that it is not ready."""
    return ServerUnavailable(f"{url} is not ready: it is going down or still starting; try again")


def too_late(timeout_s: float, *, url: str) -> DeadlineExceeded:
    """The error for an answer that did not come within ``timeout_s``."""
    return DeadlineExceeded(f"no answer from {url} within {timeout_s:.3g} s{_proxied(url)}")


def plain(text: str) -> str:
    """Triton's text without its prefixes and tracebacks, on one line and without a full stop."""
    text = text.split("\n\nAt:\n")[0].strip()
    while prefix := _PREFIX.match(text):
        text = text[prefix.end() :]
    text = _CONNECTION_PREFIX.sub("", text.rpartition("last error: ")[2])
    return " ".join(text.split()).rstrip(".")


def _error(kind: type[InferenceError], text: str, url: str, model: str) -> InferenceError:
    text = plain(text)
    for pattern, kind_by_text in BY_TEXT:
        if pattern.search(text):
            kind = kind_by_text
            break
    return kind(_sentence(kind, text, url, model))


def _unavailable(text: str, url: str) -> str:
    for pattern, sentence in _CONNECTION_MISTAKES:
        if pattern.search(text):
            return f"{url} cannot be used: {sentence}{_proxied(url)}"
    if _GOING_DOWN.search(text):
        return str(unready(url=url))
    if proxied := _proxied(url):
        return f"{url} cannot be reached: {text}{proxied}"
    wants = ""
    if unused := unused_http_proxy(url):
        wants = f", or only behind the proxy of {unused}, which is not used here"
    elif "s://" in url and re.search(r"closed|broken pipe|reset by peer", text, re.IGNORECASE):
        wants = ", or does it want a certificate (--certificate)"
    elif re.search(r"^socket closed|connection was closed before", text, re.IGNORECASE):
        wants = ", or does it want TLS (grpcs:// or https://)"
    return f"{url} cannot be reached: {text}; is the server running there{wants}?"


def _proxied(url: str) -> str:
    proxy = grpc_proxy(url)
    return f"; {proxy}" if proxy else ""


def _sentence(kind: type[InferenceError], text: str, url: str, model: str) -> str:
    if kind is RequestRejected:
        # A request has one picture, so its index in the batch says nothing.
        return re.sub(r"^picture \d+\b:?", "the picture is rejected:", text)
    return {
        ServerUnavailable: _unavailable(text, url),
        DeadlineExceeded: f"no answer from {url} in time: {text}",
        ModelNotFound: f"{url} has no model {model!r} ready: {text}",
        Overloaded: f"{url} is overloaded: {text}",
        AccessDenied: f"{url} refuses this client: {text}",
        ServerFault: f"{url} failed: {text}",
        ContractViolation: f"{url} does not answer as a Triton server: {text}",
    }[kind]

"""From settings to nginx.conf."""

from __future__ import annotations

import math
import string
from functools import lru_cache
from importlib.resources import files

from detserve_server.gateway.plain_http import plain_http
from detserve_server.gateway.settings import GatewaySettings, RateLimits

_KEY_IDENTITY = r"""
    # A key is dsk_<id>_<secret>. The secret has 256 random bits, so nobody finds it from its MD5
    # (that takes a preimage; MD5 is broken for collisions only), and nginx can check it by itself.
    map $http_authorization $detserve_key_id {
        default "";
        "~^(?i:Bearer) dsk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}$" $1;
    }
    map $http_authorization $detserve_key_secret {
        default "";
        "~^(?i:Bearer) dsk_[0-9a-f]{12}_([A-Za-z0-9_-]{43})$" $1;
    }
    secure_link $detserve_key_record;
    secure_link_md5 "$detserve_key_id:$detserve_key_secret";
    map "$ssl_client_verify:$secure_link:$detserve_key_id" $detserve_identity {
        default "";
        "~^@{certificate_state}:1:(.+)$" $1;
    }
    map "$ssl_client_verify:$secure_link:$http_authorization" $detserve_identity_fault {
        default "this key is unknown: it is wrong or revoked";
        "~^@{certificate_state}::$" "no key was sent; send the header authorization: Bearer KEY";
        "~^@{certificate_state}:0:" "this key has expired";
        "~^(?!@{certificate_state}:)" "a client certificate is needed";
    }
    # The file of keys says its serial; one of an earlier version has none.
    map "" $detserve_keys_serial {
        default "";
    }
    include @{keys};
    limit_req_zone $binary_remote_addr zone=keys_serial:1m rate=10r/s;
"""

# try_files, because a return would answer before limit_req counts.
_KEYS_LOCATION = r"""
        # For detserve keys, which waits until a change is in force: a hash of hashes, for whoever asks.
        location = /gateway/keys {
            access_log off;
            limit_req zone=keys_serial burst=20 nodelay;
            error_page 500 /refused/http/500; # as at /gateway/health
            if ($request_method != GET) {
                return 403;
            }
            root /dev/null;
            try_files /no-file @keys_serial;
        }

        location @keys_serial {
            access_log off;
            default_type application/json;
            add_header Cache-Control no-store;
            return 200 '{"serial":"$detserve_keys_serial"}';
        }
"""

# A subject as nginx writes it (RFC 2253): attributes end at a comma or a plus, which stand behind a backslash
# within a value. Exactly one attribute is a common name, wherever it stands.
_OTHER_ATTRIBUTE = r"(?!CN=)(?:[^\x5c,+]|\x5c.)*+"
_COMMON_NAME = rf"(?:{_OTHER_ATTRIBUTE}[,+])*+CN=([A-Za-z0-9_.-]{{1,64}})(?:[,+]{_OTHER_ATTRIBUTE})*+"

_CERTIFICATE_IDENTITY = r"""
    map "$ssl_client_verify:$ssl_client_s_dn" $detserve_identity {
        default "";
        "~^SUCCESS:@{common_name}$" $1;
    }
    map $detserve_identity $detserve_client {
        default $detserve_identity;
    }
    map $detserve_identity $detserve_models {
        default "*";
    }
    map $ssl_client_verify $detserve_identity_fault {
        default "a client certificate is needed";
        SUCCESS "the client certificate needs exactly one common name, of 1 to 64 letters, digits, _ . -";
    }
"""


_PACE = (
    "limit_req zone=refused burst=500 delay=100;",
    "limit_conn concurrency_refused 100;",
    "limit_req_status 444;",
    "limit_conn_status 444;",
)


class _Template(string.Template):
    """``@{name}``: nginx has the dollar for its own variables."""

    delimiter = "@"


def render(settings: GatewaySettings) -> str:
    """The text of nginx.conf."""
    template = files("detserve_server.gateway").joinpath("nginx.conf.template").read_text(encoding="utf-8")
    secret = settings.secret is not None
    pace = "\n".join(_indented(3, line) for line in _PACE)
    return _Template(template).substitute(
        settings.model_dump(),
        workers=settings.workers or "auto",
        error_log=settings.error_log or "stderr",
        open_files=open_files(settings.connections),
        pace=pace,
        shutdown_timeout_s=settings.shutdown_timeout_s,
        identity=_identity(settings).strip("\n"),
        grpc_servers=_servers([(upstream.grpc, upstream.weight) for upstream in settings.upstreams]),
        http_servers=_servers([(upstream.http, upstream.weight) for upstream in settings.upstreams]),
        secret=f"    include {settings.secret};\n" if secret else "",
        grpc_secret=_indented(3, "grpc_set_header triton-grpc-protocol-detserve-gateway $detserve_secret;")
        if secret
        else "",
        http_secret=_indented(3, "proxy_set_header detserve-gateway $detserve_secret;") if secret else "",
        listen="\n".join(_indented(2, f"listen {address} ssl http2;") for address in settings.listen),
        client_certificates=_client_certificates(settings),
        sessions=_sessions(settings),
        keys_location="" if settings.keys is None else _KEYS_LOCATION.strip("\n") + "\n",
        **plain_http(settings, pace),
    )


def open_files(connections: int) -> int:
    """Of a worker with so many places: one to a client and one to Triton or of a body each, and logs."""
    return 2 * connections + 256


@lru_cache(10_000)
def requests_per_min(rate_per_s: float) -> int:
    """What nginx is told of a rate: it counts whole requests a second or a minute, one a minute at least."""
    return max(1, round(rate_per_s * 60))


def limit_directives(limits: RateLimits, variable: str, name: str, *, clients: int = 7500) -> list[str]:
    """Directives that hold each value of an nginx variable to ``limits``; an empty value is not held.

    The zones have room for so many ``clients``: where one is full, nginx forgets rates or refuses requests.
    A client takes 128 bytes for its rate and 64 while it has requests in flight.
    """
    per_min = requests_per_min(limits.rate_per_s)
    per_s, rest = divmod(per_min, 60)
    rate = f"{per_min}r/m" if rest else f"{per_s}r/s"
    return [
        f"limit_req_zone {variable} zone=rate_{name}:{_zone_kib(128 * clients)}k rate={rate};",
        f"limit_req zone=rate_{name} burst={max(1, round(per_min / 60))} nodelay;",
        f"limit_conn_zone {variable} zone=concurrency_{name}:{_zone_kib(64 * clients)}k;",
        f"limit_conn concurrency_{name} {limits.concurrency};",
    ]


def _zone_kib(content_bytes: int) -> int:
    """A power of two: a zone's counters are lost when its size changes. 20 KiB and 2 % are nginx's own."""
    needed_kib = math.ceil(20 + content_bytes * 1.02 / 1024)
    return max(64, 1 << (needed_kib - 1).bit_length())


def _identity(settings: GatewaySettings) -> str:
    if settings.keys is not None:
        state = "NONE" if settings.client_authorities is None else "SUCCESS"
        return _Template(_KEY_IDENTITY).substitute(keys=settings.keys, certificate_state=state)
    limits = limit_directives(settings.certificate_limits, "$detserve_identity", "certificate")
    identity = _Template(_CERTIFICATE_IDENTITY).substitute(common_name=_COMMON_NAME)
    return identity + "\n".join(_indented(1, line) for line in limits)


def _client_certificates(settings: GatewaySettings) -> str:
    if settings.client_authorities is None:
        return ""
    lines = [
        f"ssl_client_certificate {settings.client_authorities};",
        "ssl_verify_client optional;",  # a wrong certificate is refused by nginx, a missing one by the maps
        "ssl_verify_depth 3;",
        "keepalive_timeout 15s;",  # a certificate is checked when a connection begins: it shall not last
    ]
    if settings.client_crl is not None:
        lines.append(f"ssl_crl {settings.client_crl};")
    elif settings.client_crl_conf is not None:
        path = str(settings.client_crl_conf)
        lines.append(f"include {path[:-1]}[{path[-1]}];")  # a pattern may match nothing, a name may not
    return "".join(_indented(2, line) + "\n" for line in lines)


def _sessions(settings: GatewaySettings) -> str:
    # A resumed session has the verdict on its certificate of the day when it began.
    cache = "shared:detserve:10m" if settings.client_authorities is None else "off"
    return _indented(2, f"ssl_session_cache {cache};")


def _servers(weighted: list[tuple[str, int]]) -> str:
    # max_fails=0: a client can have a server break its request, which nginx would count against the server.
    return "\n".join(
        _indented(2, f"server {address} weight={weight} max_fails=0;") for address, weight in weighted
    )


def _indented(depth: int, line: str) -> str:
    return "    " * depth + line

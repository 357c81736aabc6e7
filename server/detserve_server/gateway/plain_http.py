"""The parts of nginx.conf for ``detserve rest`` behind the gateway."""

from __future__ import annotations

from detserve_server.gateway.settings import GatewaySettings

_NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"

# What stands behind ? is of plain characters, and is taken where a picture is sent alone.
_ENDPOINTS = rf"""
        "GET /" rest-page;
        "~^GET /page/[A-Za-z0-9_-]{{1,64}}(?:\.[A-Za-z0-9_-]{{1,16}}){{0,3}}$" rest-page;
        "GET /v1/openapi.json" rest-openapi;
        "~^GET /v1/health(?:/(?:live|ready))?$" rest-health;
        "GET /v1/models" rest-models;
        "~^GET /v1/models/{_NAME}$" rest-model;
        "~^POST /v1/models/{_NAME}/detect(?:\?[A-Za-z0-9_.,=&+-]{{0,200}})?$" rest-detect;
        "POST /v1/vision/detection" rest-vision;
        "POST /v1/vision/custom/list" rest-vision-list;
        "~^POST /v1/vision/custom/{_NAME}$" rest-vision;
"""

_MODELS = rf"""
        "/v1/vision/custom/list" "";
        "~^/v1/(?:models|vision/custom)/({_NAME})(?:[/?]|$)" $1;
"""

# By the gateway's number of a refusal: type, status and title as detserve_rest.problems has them.
_PROBLEMS = {
    "default": ("bug", 500, "The service failed"),
    "~^(?:400|497)$": ("bad-request", 400, "The request cannot be read"),
    "~^(?:401|495)$": ("not-known", 401, "Nobody known asks"),
    "403": ("access-denied", 403, "This caller may not do that"),
    "413": ("too-large", 413, "The request is too large"),
    "415": ("unsupported-media-type", 415, "The body is of a type that is not read here"),
    "429": ("over-the-limit", 429, "The caller is over its limit"),
    "~^(?:414|494)$": ("headers-too-large", 431, "The headers are too large"),
    "~^50[23]$": ("unavailable", 503, "The server behind this service cannot be reached"),
    "504": ("time-out", 504, "The server behind this service did not answer in time"),
}

_MAPS = r"""
    # ---- detserve rest: what it is asked for and refused in is a problem document
    map $request_uri $detserve_refused_as {
        default $detserve_protocol;
        "~^/v1/" problem;
    }
    map $request_uri $detserve_problem_instance {
        default "/v1";
        "~^(/v1/[A-Za-z0-9_./-]{0,200})(?:\?|$)" $1;
    }
    map $detserve_refusal $detserve_problem {
@{problems}
    }
    map $detserve_refusal $detserve_retry_after {
        default "";
        "~^(?:429|50[23])$" 1;
    }
    limit_req_zone $binary_remote_addr zone=page:1m rate=30r/s;
    upstream detserve_rest {
        zone detserve_rest 64k;
        least_conn;
@{servers}
        keepalive 64;
        keepalive_timeout 30s;
    }
"""

_LOCATIONS = r"""
        location /v1 {
            if ($detserve_verdict = 401) {
                return 401;
            }
            if ($detserve_verdict = 403) {
                return 403;
            }
            if ($detserve_verdict = 415) {
                return 415;
            }
            proxy_pass http://detserve_rest;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host detserve-rest;
            proxy_set_header Authorization "";
            proxy_set_header Accept-Encoding "";
            proxy_set_header X-Request-Id $request_id;
            proxy_set_header detserve-model "";
            proxy_set_header detserve-models $detserve_scope;
            proxy_set_header traceparent $detserve_traceparent;
            add_header X-Trace-Id $detserve_trace_id always;
@{secret}
            proxy_next_upstream error timeout non_idempotent;
            proxy_next_upstream_tries 2;
            proxy_next_upstream_timeout 5s;
            proxy_connect_timeout 2s;
            proxy_read_timeout @{inference_timeout_s}s;
            proxy_send_timeout @{client_timeout_s}s;
        }

        # The page, for whoever asks: public files, which ask for the key that they send with a request.
        location ~ ^/(?:$|page/) {
            access_log off;
            limit_req zone=page burst=60 nodelay;
            error_page 403 /refused/http/403; # a 429 here is nginx's own, and is not logged
            error_page 502 503 504 =503 /refused/http/503;
            if ($detserve_endpoint != rest-page) {
                return 403;
            }
            proxy_pass http://detserve_rest;
            proxy_http_version 1.1;
            proxy_pass_request_headers off;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";
            proxy_set_header Host detserve-rest;
            proxy_set_header X-Request-Id $request_id;
@{secret}
            proxy_connect_timeout 2s;
            proxy_read_timeout 5s;
        }

        location ~ ^/refused/problem/(?<detserve_refusal>\d+)$ {
            internal;
@{pace}
            try_files /- @refused_problem;
        }

        location @refused_problem {
            default_type application/problem+json;
            add_header X-Request-Id $request_id always;
            add_header X-Trace-Id $detserve_trace_id always;
            add_header WWW-Authenticate $detserve_challenge always;
            add_header Retry-After $detserve_retry_after always;
            return 200 '{$detserve_problem,@{particulars}}';
        }
"""

_PARTICULARS = (
    '"detail":"$detserve_refusal_text","instance":"$detserve_problem_instance","request_id":"$request_id"'
)

_REFUSED_AS_ASKED = r"""
    map "" $detserve_refused_as {
        default $detserve_protocol;
    }
"""


def plain_http(settings: GatewaySettings, pace: str) -> dict[str, str]:
    """What the template wants: ``rest_endpoints``, ``rest_models``, ``rest_maps``, ``rest_locations``.

    ``pace`` is what slows refusals down.
    """
    if not settings.rest:
        nothing = dict.fromkeys(("rest_endpoints", "rest_models", "rest_locations"), "")
        return nothing | {"rest_maps": _REFUSED_AS_ASKED.strip("\n")}
    servers = "\n".join(f"        server {address} weight=1 max_fails=0;" for address in settings.rest)
    secret = "            proxy_set_header detserve-gateway $detserve_secret;" if settings.secret else ""
    locations = _LOCATIONS.replace("@{secret}", secret).replace("@{pace}", pace)
    locations = locations.replace("@{particulars}", _PARTICULARS)
    for name in ("inference_timeout_s", "client_timeout_s"):
        locations = locations.replace(f"@{{{name}}}", str(getattr(settings, name)))
    return {
        "rest_endpoints": _ENDPOINTS.strip("\n"),
        "rest_models": _MODELS.strip("\n"),
        "rest_maps": _MAPS.replace("@{servers}", servers).replace("@{problems}", _problems()).strip("\n"),
        "rest_locations": locations.strip("\n"),
    }


def _problems() -> str:
    """The rows of a map: the members that a problem document begins with."""
    return "\n".join(
        f"""        "{refusal}" '"type":"urn:detserve:problem:{kind}","title":"{title}","status":{status}';"""
        for refusal, (kind, status, title) in _PROBLEMS.items()
    )

"""What reaches Triton: inference, health, metadata and model configuration, and nothing else."""

from __future__ import annotations

import time

import grpc
import pytest
import urllib3
from tritonclient.grpc import service_pb2

from tests.live.gateway.conftest import YOLO, Site, wait_for

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
OPEN_METHODS = {
    "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer",
}  # fmt: skip
OPEN_PATHS = [
    "/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{YOLO}", f"/v2/models/{YOLO}/ready",
    f"/v2/models/{YOLO}/config", f"/v2/models/{YOLO}/versions/1", f"/v2/models/{YOLO}/versions/1/ready",
    f"/v2/models/{YOLO}/versions/1/config",
]  # fmt: skip
# Every other endpoint of Triton's HTTP server (http_server.cc).
CLOSED_PATHS = [
    ("POST", "/v2/repository/index"),
    *(("POST", f"/v2/repository/models/{YOLO}/{action}") for action in ("load", "unload")),
    *(
        ("GET", f"/v2/{kind}{region}/status")
        for kind in ("systemsharedmemory", "cudasharedmemory")
        for region in ("", "/region/x")
    ),
    *(
        ("POST", f"/v2/{kind}/region/x/{action}")
        for kind in ("systemsharedmemory", "cudasharedmemory")
        for action in ("register", "unregister")
    ),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("GET", f"/v2/models/{YOLO}/trace/setting"),
    ("POST", f"/v2/models/{YOLO}/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/models/stats"),
    ("GET", f"/v2/models/{YOLO}/stats"),
    ("GET", f"/v2/models/{YOLO}/versions/1/stats"),
    ("POST", f"/v2/models/{YOLO}/generate"),
    ("POST", f"/v2/models/{YOLO}/generate_stream"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/gateway"),
    ("POST", "/gateway/health"),
    ("POST", "/gateway/keys"),
    ("GET", "/gateway/keys/"),
    ("GET", "/refused/http/401"),
    ("GET", "/.env"),
]
TRICKS = [
    "//v2/health/live",
    "/v2//health/live",
    "/v2/health/live/",
    "/v2/health/live?x=1",
    "/v2/health/live#x",
    "/v2/./health/live",
    "/v2/models/../health/live",
    f"/v2/models/{YOLO}/../../repository/index",
    f"/v2/models/{YOLO}/config/..%2f..%2f..%2frepository/index",
    "/v2/models/..%2frepository/config",
    "/v2/models/%2e%2e/config",
    "/v2/models/../config",
    f"/v2/models/{YOLO}%2fconfig",
    f"/v2/models/{YOLO}%2Fstats/config",
    f"/v2/models/{YOLO}%00/config",
    f"/v2/models/{YOLO}\x00/config",
    f"/v2/models/{YOLO}%0d%0aX-Injected:%201/config",
    f"/v2/models/{YOLO};stats/config",
    f"/v2/models/{YOLO}\\..\\x/config",
    f"/v2/models/{YOLO}%5cstats/config",
    f"/v2/models/{YOLO}/CONFIG",
    f"/V2/models/{YOLO}/config",
    f"/v2/models/{'a' * 200}/config",
    f"/v2/models/{YOLO}/versions/-1/config",
    "/v2/models/\u00e9/config",
    "http://triton/v2/repository/index",
    "/v2%2fhealth%2flive",
    "/%76%32/health/live",
    "*",
]


def test_the_open_paths(site: Site) -> None:
    assert {path: site.status("GET", path) for path in OPEN_PATHS} == dict.fromkeys(OPEN_PATHS, 200)


@pytest.mark.parametrize(("method", "path"), CLOSED_PATHS)
def test_every_other_endpoint_over_http(site: Site, method, path) -> None:
    assert site.status(method, path) == 403
    assert site.last()["upstream_s"] is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUX"])
def test_open_paths_with_other_methods(site: Site, method) -> None:
    assert site.status(method, "/v2/health/live") in (400, 403)
    assert site.last()["upstream_s"] is None


@pytest.mark.parametrize("target", TRICKS)
def test_path_tricks(site: Site, target) -> None:
    assert site.status("GET", target) in (400, 403)
    assert site.last()["upstream_s"] is None


def test_an_absolute_uri_is_its_path(site: Site) -> None:
    assert site.status("GET", "http://elsewhere/v2/health/live") == 200
    assert site.status("GET", "http://elsewhere/v2/health/live", None) == 401


def test_the_methods_of_the_service_are_known() -> None:
    assert {method.name for method in SERVICE.methods} >= OPEN_METHODS


@pytest.mark.parametrize("name", [method.name for method in SERVICE.methods])
def test_every_grpc_method(site: Site, name) -> None:
    method = SERVICE.methods_by_name[name]
    request = getattr(service_pb2, method.input_type.name)()
    for field in ("name", "model_name"):
        if field in method.input_type.fields_by_name:
            setattr(request, field, YOLO)
    code, words = grpc_status(site, f"/{SERVICE.full_name}/{name}", request.SerializeToString())
    if name in OPEN_METHODS:
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT), words
    else:
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert "closed at the gateway" in words
        assert site.last()["upstream_s"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/modelinfer",
        "/inference.GRPCInferenceService//ModelInfer",
        "/inference.GRPCInferenceService/ModelInfer/",
        "/inference.GRPCInferenceService/ModelInfer?x",
        "/inference.GRPCInferenceService/%4dodelInfer",
        "/inference.GRPCInferenceService/ServerLive/../RepositoryIndex",
    ],
)
def test_grpc_path_tricks(site: Site, path) -> None:
    code, _ = grpc_status(site, path, b"")
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert site.last()["upstream_s"] is None


def test_triton_itself_is_closed_to_all_but_the_gateway(site: Site) -> None:
    pool = urllib3.PoolManager()
    for method, path, closed in [
        ("GET", f"/v2/models/{YOLO}/config", True),
        ("GET", f"/v2/models/{YOLO}", True),
        ("POST", f"/v2/models/{YOLO}/infer", True),
        ("GET", "/v2/models/stats", True),
        ("POST", "/v2/repository/index", True),
        ("GET", "/v2/systemsharedmemory/status", True),
        ("GET", "/v2/health/ready", False),
    ]:
        answer = pool.request(method, site.triton.http_url + path)
        assert (answer.status == 403) == closed, path
    channel = grpc.insecure_channel(site.triton.grpc_url.removeprefix("grpc://"))
    with channel, pytest.raises(grpc.RpcError, match="restricted"):
        channel.unary_unary(f"/{SERVICE.full_name}/ModelInfer")(b"", timeout=5)


def test_the_gateway_s_secret_opens_no_control(site: Site) -> None:
    headers = {"detserve-gateway": site.secret}
    answer = urllib3.request("POST", f"{site.triton.http_url}/v2/repository/index", headers=headers)
    assert answer.status == 403


def test_health_without_a_key_for_load_balancers(site: Site) -> None:
    assert site.status("GET", "/gateway/health", None) == 200


def test_health_is_asked_of_triton_ten_times_a_second_at_most(site: Site) -> None:
    """And 20 more at once, from one address; whoever has a key is served all the while."""
    started_s, lines = time.monotonic(), len(site.log())
    with urllib3.PoolManager(ca_certs=str(site.tls.authority), retries=False) as pool:
        answers = [pool.request("GET", f"{site.gateway.http_url}/gateway/health") for _ in range(200)]
    seconds = time.monotonic() - started_s
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 429}
    assert 20 <= statuses.count(200) <= 21 + 10 * seconds + 1
    time.sleep(0.2)
    assert len(site.log()) == lines, "neither is logged"
    assert site.status("GET", "/v2/health/ready") == 200
    wait_for(lambda: site.status("GET", "/gateway/health", None) == 200)  # as the other tests expect


def grpc_status(site: Site, path: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    address = site.gateway.grpc_url.removeprefix("grpcs://")
    security = site.security()
    with grpc.secure_channel(address, security.grpc_credentials()) as channel:
        try:
            channel.unary_unary(path)(message, metadata=tuple(security.headers().items()), timeout=10)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""

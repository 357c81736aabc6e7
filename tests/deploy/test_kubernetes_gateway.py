"""deploy/kubernetes: how a gateway's pod starts, fills and ends."""

from __future__ import annotations

import re

import yaml

from detserve_server.gateway.settings import GatewaySettings, RateLimits, Upstream
from detserve_server.triton.shared_memory import MIB
from tests.deploy.kubernetes import CHECKOUT, OVERLAYS, Object, pods_of, sidecars_of


def _gateway(rendered: dict[str, list[Object]], overlay: str = "cpu") -> tuple[Object, Object]:
    """The gateway's pod and nginx in it."""
    pod = pods_of(rendered[overlay])["gateway"]
    (nginx,) = pod["containers"]
    return pod, nginx


def _settings() -> GatewaySettings:
    upstream = Upstream(grpc="triton:8001", http="triton:8000")
    return GatewaySettings(
        upstreams=(upstream,), certificate="/c", certificate_key="/k", keys="/keys.conf", access_log="/log"
    )


def test_the_collector_outlives_nginx(rendered: dict[str, list[Object]]) -> None:
    """As a sidecar it is told to end when nginx has ended, and is given time for what it still reads."""
    pod, nginx = _gateway(rendered)
    (audit,) = sidecars_of(pod)
    assert audit["name"] == "audit"
    assert {mount["name"] for mount in audit["volumeMounts"]} >= {"log", "audit"}
    settings = _settings()
    draining_s = settings.inference_timeout_s + settings.client_timeout_s
    told_s = nginx["lifecycle"]["preStop"]["sleep"]["seconds"]
    watch = re.search(r"WATCH_S:=(\d+)", (CHECKOUT / "deploy/gateway/serve.sh").read_text())
    assert watch
    assert pod["terminationGracePeriodSeconds"] >= told_s + draining_s + int(watch[1]) + 10


def test_bodies_that_arrive_do_not_kill_the_gateway(rendered: dict[str, list[Object]]) -> None:
    """Four keys with their most requests of the largest size fit; a full tmpfs is an error, not the end."""
    bodies_bytes = 4 * RateLimits().concurrency * _settings().max_body_bytes
    assert bodies_bytes == 1024 * MIB
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())["services"]["gateway"]
    assert compose["tmpfs"] == ["/tmp:size=1g,mode=1777"]
    limit = re.search(r":-(\d+)m", compose["mem_limit"])
    assert limit
    assert int(limit[1]) * MIB >= bodies_bytes + 256 * MIB
    for overlay in OVERLAYS:
        pod, nginx = _gateway(rendered, overlay)
        (tmp,) = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
        assert tmp["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}, (
            "on disk a full one is an eviction"
        )
        assert nginx["resources"]["limits"]["memory"] == f"{limit[1]}Mi"


def _patience_s(container: Object) -> int:
    probe = container["startupProbe"]
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def test_the_gateway_waits_longer_than_triton_may_take(rendered: dict[str, list[Object]]) -> None:
    """An hour: for Triton's image, which has more than 10 GB, and its start."""
    _, nginx = _gateway(rendered)
    (triton,) = pods_of(rendered["cpu"])["triton"]["containers"]
    assert _patience_s(nginx) >= 3600 >= 3 * _patience_s(triton)

"""deploy/kubernetes: rendered by the real kustomize, checked against the schemas and against our own rules.

No cluster is at hand: nothing of this has run in one.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detserve_server.triton.repository import read_repository
from detserve_server.triton.shared_memory import MIB, shm_size_bytes
from tests.deploy.kubernetes import (
    CHECKOUT,
    OVERLAYS,
    Object,
    object_of,
    pod_of,
    pods_of,
    sidecars_of,
)

VERSION = "1.37"
IMAGE = CHECKOUT / "deploy/images/triton"


def _check_schema(one: Object) -> None:
    """Raise where the API server would refuse the object."""
    group = one["apiVersion"].partition("/")[0]
    if one["kind"] == "ScaledObject":
        from cloudcoil.models.keda.v1alpha1 import ScaledObject

        ScaledObject.model_validate(one)
    elif one["kind"] == "ServiceMonitor":
        from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

        ServiceMonitor.model_validate(one)
    elif one["kind"] == "PrometheusRule":
        from cloudcoil.models.prometheus_operator.v1 import PrometheusRule

        PrometheusRule.model_validate(one)
    elif group == "serving.kserve.io":  # no package carries its schema: the pod in it is checked as a pod
        metadata = {"name": one["metadata"]["name"]}
        _check_schema({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_of(one)})
    else:
        import kubernetes_validate

        with warnings.catch_warnings():
            warnings.simplefilter("error")  # falling back to another version's schema
            kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_the_schemas_hold(rendered: dict[str, list[Object]], overlay: str) -> None:
    for one in rendered[overlay]:
        _check_schema(one)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec.template.spec.containers.0.livenesProbe", {}),
        ("Deployment", "spec.replicas", "two"),
        ("Service", "spec.ports.0.port", "https"),
        ("NetworkPolicy", "spec.podSelectors", {}),
        ("HorizontalPodAutoscaler", "spec.maxReplicas", None),
        ("ScaledObject", "spec.triggers", "prometheus"),
        ("ServiceMonitor", "spec.endpoints.0.interval", "5 seconds"),
        ("InferenceService", "spec.predictor.containers.0.resources.limits", 4),
    ],
)
def test_the_schemas_refuse(rendered: dict[str, list[Object]], kind: str, path: str, value: object) -> None:
    every = [one for objects in rendered.values() for one in objects if one["kind"] == kind]
    broken = copy.deepcopy(every[0])
    *way, last = path.split(".")
    place: Any = broken
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    with pytest.raises(Exception, match=re.escape(last) if last != "0" else ""):
        _check_schema(broken)


def _breaches(pod: Object) -> list[str]:
    """What our rules say against a pod."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [
        f"volume {volume['name']} is of the host" for volume in pod.get("volumes", []) if "hostPath" in volume
    ]
    security = pod.get("securityContext", {})
    if not (security.get("runAsNonRoot") and security.get("runAsUser")):
        found.append("may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("no seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        found.append("is given a token of the API server")
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += [f"{container['name']}: {breach}" for breach in _container_breaches(container)]
    for container in [*pod["containers"], *sidecars_of(pod)]:
        probes = ("startupProbe", "readinessProbe", "livenessProbe")
        found += [f"{container['name']}: no {probe}" for probe in probes if probe not in container]
    return found


def _container_breaches(container: Object) -> list[str]:
    security = container.get("securityContext", {})
    checks = {
        "the root file system is writable": security.get("readOnlyRootFilesystem") is True,
        "privileges can be gained": security.get("allowPrivilegeEscalation") is False,
        "capabilities are kept": security.get("capabilities") == {"drop": ["ALL"]},
        "is privileged": not security.get("privileged"),
        "a host port": not any("hostPort" in port for port in container.get("ports", [])),
        "the image has no fixed version": re.search(
            r"[:@][\w:-]*\d[\w.-]*$", container["image"].rpartition("/")[2]
        ),
    }
    resources = container.get("resources", {})
    for what in ("requests", "limits"):
        for unit in ("cpu", "memory"):
            checks[f"no {what} of {unit}"] = unit in resources.get(what, {})
    return [breach for breach, holds in checks.items() if not holds]


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_the_rules_hold(rendered: dict[str, list[Object]], overlay: str) -> None:
    pods = pods_of(rendered[overlay])
    assert pods
    assert {name: breaches for name, pod in pods.items() if (breaches := _breaches(pod))} == {}


def _set(*path: str | int, value: object) -> Callable[[Object], None]:
    def change(pod: Object) -> None:
        place: Any = pod
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("hostNetwork", value=True),
        _set("securityContext", "runAsUser", value=0),
        _set("volumes", 0, "hostPath", value={"path": "/"}),
        _set("containers", 0, "image", value="nginx:latest"),
        _set("containers", 0, "image", value="registry.example.com:5000/nginx"),
        _set("containers", 0, "securityContext", "capabilities", value={"drop": ["ALL"], "add": ["NET_RAW"]}),
        _set("containers", 0, "resources", "limits", value={"cpu": "1"}),
        _set("initContainers", 0, "securityContext", "readOnlyRootFilesystem", value=False),
        _set("containers", 0, "livenessProbe_", value={}),
    ],
)
def test_the_rules_find_a_breach(rendered: dict[str, list[Object]], change: Callable[[Object], None]) -> None:
    pod = copy.deepcopy(pods_of(rendered["cpu"])["triton"])
    assert _breaches(pod) == []
    change(pod)
    if "livenessProbe_" in pod["containers"][0]:
        del pod["containers"][0]["livenessProbe"]
    assert len(_breaches(pod)) == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_named_is_there(rendered: dict[str, list[Object]], overlay: str) -> None:
    """Selectors meet labels, target ports meet named ports, config maps and claims exist."""
    objects = rendered[overlay]
    workloads = [one for one in objects if one["kind"] in ("Deployment", "StatefulSet")]
    for one in workloads:
        assert (
            one["spec"]["selector"]["matchLabels"].items()
            <= one["spec"]["template"]["metadata"]["labels"].items()
        )
    for service in (one for one in objects if one["kind"] == "Service"):
        chosen = [
            pod
            for pod in workloads
            if service["spec"]["selector"].items() <= pod["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert chosen, service
        for pod in chosen:
            template = pod["spec"]["template"]["spec"]
            named = {port["name"] for one in template["containers"] for port in one["ports"]}
            # Before Kubernetes 1.33 a service does not find the names of a sidecar's ports.
            numbered = {port["containerPort"] for one in sidecars_of(template) for port in one["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= named | numbered
    here = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for pod in pods_of(objects).values():
        containers = [*pod["containers"], *pod.get("initContainers", [])]
        mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
        claimed = {"audit"} if "audit" in mounted else set()
        assert mounted == {volume["name"] for volume in pod["volumes"]} | claimed
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in here
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in here


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_gateway_and_what_it_asks_reach_triton(
    rendered: dict[str, list[Object]], overlay: str
) -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in rendered[overlay] if one["kind"] == "NetworkPolicy"
    }
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    inference, plain, metrics = policies["triton"]["ingress"]
    assert inference["from"] == [{"podSelector": {"matchLabels": {"app": "gateway"}}}]
    assert {port["port"] for port in inference["ports"]} == {8000, 8001}
    assert plain == {"from": [{"podSelector": {"matchLabels": {"app": "rest"}}}], "ports": [{"port": 8000}]}
    (asked,) = policies["rest"]["ingress"]
    assert asked["from"] == inference["from"]
    assert {port["port"] for port in asked["ports"]} == {8080}
    triton, _names = policies["rest"]["egress"]
    assert triton["to"] == [{"podSelector": {"matchLabels": {"app": "triton"}}}]
    assert {port["port"] for port in metrics["ports"]} == {8002}
    assert "egress" not in policies["triton"]
    assert object_of(rendered[overlay], "Service", "triton")["spec"]["clusterIP"] == "None", (
        "shared out by request"
    )


def test_shared_memory_is_that_of_compose(rendered: dict[str, list[Object]]) -> None:
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    size = re.search(r":-(\d+)m", compose["services"]["triton-cpu"]["shm_size"])
    assert size
    needed = shm_size_bytes(read_repository(CHECKOUT / "model_repository"))
    for overlay in (*OVERLAYS, "kserve"):
        for name, pod in pods_of(rendered[overlay]).items():
            for volume in (volume for volume in pod["volumes"] if volume["name"] == "shm"):
                assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{size[1]}Mi"}, (
                    overlay,
                    name,
                )
    assert needed <= int(size[1]) * MIB


def test_a_pod_has_the_time_to_drain_and_to_finalize(rendered: dict[str, list[Object]]) -> None:
    drain = re.search(r"MOST_S:=(\d+)", (IMAGE / "drain.sh").read_text())
    exit_timeout = re.search(r"--exit-timeout-secs=(\d+)", (IMAGE / "serve.sh").read_text())
    assert drain
    assert exit_timeout
    for overlay in OVERLAYS:
        pod = pods_of(rendered[overlay])["triton"]
        assert pod["terminationGracePeriodSeconds"] >= int(drain[1]) + int(exit_timeout[1]) + 5
        (hook,) = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert Path(hook).parent == Path("/usr/local/bin")
        assert Path(hook).name in (IMAGE / "Dockerfile").read_text()


def test_the_canary_differs_in_its_repository_and_has_a_tenth(rendered: dict[str, list[Object]]) -> None:
    stable = object_of(rendered["canary"], "Deployment", "triton")
    canary = object_of(rendered["canary"], "Deployment", "triton-canary")
    assert (canary["spec"]["replicas"], stable["spec"]["replicas"]) == (1, 9)
    old, new = (one["spec"]["template"]["spec"] for one in (stable, canary))
    version = re.search(r":([\d.]+)$", new["initContainers"][0]["image"])
    assert version
    assert {"name": "VERSION", "value": version[1]} in new["initContainers"][0]["env"]
    assert {"name": "MODEL_REPOSITORY", "value": f"/cache/{version[1]}"} in new["containers"][0]["env"]
    assert old["initContainers"][0]["image"] != new["initContainers"][0]["image"]
    assert old["containers"][0]["image"] == new["containers"][0]["image"]


def test_the_cache_is_filled_whole_and_once(rendered: dict[str, list[Object]], tmp_path: Path) -> None:
    """The init container's script, by several at a time and again."""
    init = pods_of(rendered["gpu"])["triton"]["initContainers"][0]
    source, cache = tmp_path / "models", tmp_path / "cache"
    shutil.copytree(CHECKOUT / "model_repository", source)
    cache.mkdir()
    (cache / ".0.1.0.pod1/half").mkdir(parents=True)  # a pod that was killed while it copied

    def fill(host: str) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": "/usr/bin:/bin",
            "SOURCE": str(source),
            "CACHE": str(cache),
            "VERSION": "0.1.0",
        }
        return subprocess.Popen([*init["command"], *init["args"]], env={**environment, "HOSTNAME": host})

    assert [one.wait(30) for one in [fill(f"pod{number}") for number in range(1, 5)]] == [0] * 4
    assert [path.name for path in cache.iterdir()] == ["0.1.0"]
    files = {path.relative_to(source) for path in source.rglob("*")}
    assert {path.relative_to(cache / "0.1.0") for path in (cache / "0.1.0").rglob("*")} == files
    shutil.rmtree(source)
    assert fill("pod5").wait(5) == 0, "what is there is not copied again"

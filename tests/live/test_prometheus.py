"""A real Prometheus reads two real servers and the audit collector; dashboard and autoscalers ask it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from detserve_client import Client
from detserve_core.machine.ports import choose_ports
from detserve_server.audit.client_metrics import serve_client_metrics
from detserve_server.audit.collector_state import CollectorState
from detserve_server.gateway.prom_file import write_state
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.deploy.dashboard import panels_of
from tests.deploy.kubernetes import FOLDER
from tests.live.conftest import CHECKOUT, COMMITTED, DEFAULT, SAMPLES

PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="apt-get install prometheus")

RULES = CHECKOUT / "deploy/monitoring/prometheus/rules/detserve.yml"
REPLICAS = 2
WAIT_S = 60


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[RunningServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(embedded_server(COMMITTED, models=[DEFAULT])) for _ in range(REPLICAS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prometheus")


@pytest.fixture(scope="module")
def ask(replicas, folder: Path) -> Iterator[Callable[[str], list[Any]]]:  # type: ignore[no-untyped-def]
    """What Prometheus answers to a query, the shipped configuration being its own but for the targets.

    The alert rules are the shipped ones too, but do not wait: an alert fires at once.
    """
    ports = choose_ports({"audit": None, "prometheus": None})
    _write_gateways_state(folder, change_refused=0, ends_in_s=60 * 86400)
    state = CollectorState({"audit": folder, "log": folder})
    count = serve_client_metrics(ports["audit"], gateway=folder / "gateway.prom", state=state)
    request = {"kind": "request", "client": "shop", "latency_s": 0.03, "bytes_in": 100, "bytes_out": 10}
    targets = {
        "triton": [urllib.parse.urlsplit(replica.metrics_url).netloc for replica in replicas],
        "audit": [f"127.0.0.1:{ports['audit']}"],
        "prometheus": [f"127.0.0.1:{ports['prometheus']}"],
    }
    config = yaml.safe_load((CHECKOUT / "deploy/monitoring/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / "rules.yml")]
    (folder / "rules.yml").write_text(re.sub(r"^ *for: .*\n", "", RULES.read_text(), flags=re.MULTILINE))
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{ports['prometheus']}"
    process = subprocess.Popen(
        [
            str(PROMETHEUS),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def query(text: str) -> list[Any]:
        count({**request, "method": "ModelInfer", "model": DEFAULT, "outcome": "ok"})
        answer = urllib3.request("GET", f"{url}/api/v1/query", fields={"query": text}).data
        return list(json.loads(answer)["data"]["result"])

    try:
        _wait_for(lambda: len(query("up == 1")) == REPLICAS + 2)
        yield query
    finally:
        process.terminate()
        process.wait(10)


def _write_gateways_state(folder: Path, *, change_refused: int, ends_in_s: int) -> None:
    ends = int(time.time()) + ends_in_s
    write_state(
        folder / "access.jsonl",
        {
            "detserve_gateway_change_refused": change_refused,
            "detserve_gateway_certificate_expires_timestamp_seconds": ends,
            "detserve_gateway_revocations_expire_timestamp_seconds": ends,
        },
    )


def _wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while True:
        try:
            if condition():
                return
        except urllib3.exceptions.HTTPError:  # Prometheus is not up yet
            pass
        assert time.monotonic() < end_s
        time.sleep(0.5)


def _detect(replicas: list[RunningServer]) -> None:
    for replica in replicas:
        with Client(replica.grpc_url, DEFAULT) as client:
            client.detect(sorted(SAMPLES.glob("*.jpg"))[0])


def test_every_query_of_the_dashboard_gives_data(replicas, ask) -> None:  # type: ignore[no-untyped-def]
    """But of a GPU, and of a detector that is a model of its own: there is neither."""
    empty: list[str] = []

    def only_these_are_empty() -> bool:
        _detect(replicas)
        empty[:] = [
            expression
            for _, expression in panels_of(interval="15s")
            if not any(one["value"][1] != "NaN" for one in ask(expression))
        ]
        return all(re.match(r"nv_gpu|sum by \(model, reason\)", one) for one in empty)

    _wait_for(only_these_are_empty)
    assert len(empty) == 3, empty


def test_every_query_of_the_autoscalers_gives_data(replicas, ask) -> None:  # type: ignore[no-untyped-def]
    scaled = yaml.safe_load((FOLDER / "components/keda/scaledobject.yaml").read_text())
    for trigger in scaled["spec"]["triggers"]:
        query = trigger["metadata"]["query"]
        here = query.replace('namespace="detserve",', "").replace('namespace="detserve"', "")

        def waited(here: str = here) -> bool:
            _detect(replicas)
            return [float(one["value"][1]) > 0 for one in ask(here)] == [True]

        _wait_for(waited)


def test_the_counters_of_all_replicas_add_up(replicas, ask) -> None:  # type: ignore[no-untyped-def]
    """To the request, and what the audit collector counts of them is not in the sum."""
    query = f'sum(detserve_requests_total{{model="{DEFAULT}",outcome="answered"}})'
    buckets = f'sum(detserve_request_seconds_bucket{{model="{DEFAULT}",le="+Inf"}})'

    def total(text: str) -> float:
        return float(ask(text)[0]["value"][1])

    time.sleep(3)
    before = total(query)
    for _ in range(5):
        _detect(replicas)
    _wait_for(lambda: total(query) - before >= 5 * REPLICAS)
    time.sleep(3)
    assert total(query) - before == 5 * REPLICAS
    assert total(buckets) == total(query)


def test_every_metric_of_the_alert_rules_is_scraped(replicas, ask) -> None:  # type: ignore[no-untyped-def]
    """A rule that names a metric which nobody exports would never fire, and nothing would say so."""
    rules = yaml.safe_load(RULES.read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    named = {name for one in expressions for name in re.findall(r"\b(?:detserve|nv)_\w+", one)}
    assert len(named) > 5
    missing: set[str] = set()

    def all_are_there() -> bool:
        _detect(replicas)
        missing.clear()
        missing.update(name for name in named if not ask(name))
        return not missing

    try:
        _wait_for(all_are_there)
    except AssertionError:
        raise AssertionError(f"no exporter has {sorted(missing)}") from None


def test_alerts_fire_on_what_the_gateway_says_and_stop_when_it_is_well(folder: Path, ask) -> None:  # type: ignore[no-untyped-def]
    of_the_gateway = {
        "DetserveChangeRefused",
        "DetserveCertificateExpires",
        "DetserveCertificateExpiresNow",
        "DetserveRevocationsExpire",
    }

    def firing() -> set[str]:
        return {one["metric"]["alertname"] for one in ask('ALERTS{alertstate="firing"}')} & of_the_gateway

    _wait_for(lambda: firing() == set())
    _write_gateways_state(folder, change_refused=1, ends_in_s=3600)
    _wait_for(lambda: firing() == of_the_gateway)
    _write_gateways_state(folder, change_refused=0, ends_in_s=60 * 86400)
    _wait_for(lambda: firing() == set())

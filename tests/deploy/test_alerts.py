"""The alert rules, evaluated by Prometheus itself on series with which each fires and does not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.kubernetes import CHECKOUT
from tests.deploy.promql import PROMTOOL, needs_promtool

RULES = CHECKOUT / "deploy/monitoring/prometheus/rules/detserve.yml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
HOUR = 60
Series = dict[str, str]


def _outcomes(minutes: int, **per_minute: int) -> Series:
    """Counters of requests by outcome."""
    return {
        f'detserve_requests_total{{model="m",outcome="{outcome}"}}': f"0+{growth}x{minutes}"
        for outcome, growth in per_minute.items()
    }


def _buckets(within_1_s: int) -> Series:
    name = "detserve_request_seconds_bucket"
    counts = {"1": within_1_s, "2": 100, "+Inf": 100}
    return {f'{name}{{model="m",le="{le}"}}': f"0+{count}x{HOUR}" for le, count in counts.items()}


def _constant(series: str, value: float, minutes: int = HOUR) -> Series:
    return {series: f"{value:g}+0x{minutes}" if value < 1e6 else f"{value:.0f}+0x{minutes}"}


def _queue(waiting: int) -> Series:
    labels = '{model="m",instance="a",process="1"}'
    return {
        **_constant(f"detserve_queue_pictures{labels}", waiting),
        **_constant(f"detserve_queue_limit_pictures{labels}", 100),
    }


def _disk(free: int) -> Series:
    return {
        **_constant('detserve_disk_free_bytes{folder="log"}', free),
        **_constant('detserve_disk_size_bytes{folder="log"}', 100),
    }


def _ends(what: str, days: float) -> Series:
    return _constant(f"detserve_gateway_{what}_timestamp_seconds", days * 86400 + HOUR * 60)


#: Alert: series with which it fires, series with which it does not, minute at which is looked.
CASES: dict[str, tuple[Series, Series, int]] = {
    "DetserveErrorsFast": (
        _outcomes(2 * HOUR, answered=1000, failed=20),
        _outcomes(2 * HOUR, answered=1000, failed=10, refused=1000),
        2 * HOUR,
    ),
    "DetserveErrorsMedium": (
        _outcomes(8 * HOUR, answered=1000, failed=10),
        _outcomes(8 * HOUR, answered=1000, failed=4),
        8 * HOUR,
    ),
    "DetserveErrorsSlow": (
        _outcomes(80 * HOUR, answered=1000, failed=2),
        _outcomes(80 * HOUR, answered=10000, failed=5),
        80 * HOUR,
    ),
    "DetserveSlow": (_buckets(90), _buckets(100), HOUR),
    "DetserveQueueNearlyFull": (_queue(90), _queue(70), HOUR),
    "DetserveRejecting": (
        _outcomes(HOUR, answered=90, overloaded=5, expired=5),
        _outcomes(HOUR, answered=96, overloaded=4, refused=50),
        HOUR,
    ),
    "DetserveTargetDown": (
        _constant('up{job="triton",instance="a"}', 0),
        {**_constant('up{job="triton",instance="a"}', 1), **_constant('up{job="other"}', 0)},
        HOUR,
    ),
    "DetserveCertificateExpires": (_ends("certificate_expires", 6), _ends("certificate_expires", 8), HOUR),
    "DetserveCertificateExpiresNow": (
        _ends("certificate_expires", 0.5),
        _ends("certificate_expires", 2),
        HOUR,
    ),
    "DetserveRevocationsExpire": (_ends("revocations_expire", 1), _ends("revocations_expire", 3), HOUR),
    "DetserveChangeRefused": (
        _constant("detserve_gateway_change_refused", 1),
        _constant("detserve_gateway_change_refused", 0),
        HOUR,
    ),
    "DetserveAuditAway": (_constant("up", 1), _constant("detserve_audit_lag_seconds", 1), HOUR),
    "DetserveAuditBehind": (
        _constant("detserve_audit_lag_seconds", 90),
        _constant("detserve_audit_lag_seconds", 30),
        HOUR,
    ),
    "DetserveAuditGap": (
        {'detserve_audit_records_total{kind="gap"}': "0+0x50 1+0x10"},
        {
            **_constant('detserve_audit_records_total{kind="gap"}', 1),
            'detserve_audit_records_total{kind="request"}': "0+9x60",
        },
        HOUR,
    ),
    "DetserveDiskNearlyFull": (_disk(5), _disk(20), HOUR),
}


@needs_promtool
@pytest.mark.parametrize("alert", CASES)
@pytest.mark.parametrize("fires", [True, False], ids=["fires", "quiet"])
def test_each_alert_fires_and_does_not(tmp_path: Path, alert: str, fires: bool) -> None:
    firing, quiet, minute = CASES[alert]
    step = "1m" if minute <= 2 * HOUR else "30m"
    series = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    condition = f"count({series}) > bool 0" if fires else f"sum(absent({series}))"
    given = firing if fires else quiet
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "promql_expr_test": [
            {
                "expr": condition,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": step, "tests": [test]})
    )
    done = subprocess.run([str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_without_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@needs_promtool
def test_the_rules_and_the_configuration_are_valid() -> None:
    config = RULES.parents[1] / "prometheus.yml"
    done = subprocess.run([str(PROMTOOL), "check", "config", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 20 rules found" in done.stdout


def test_kubernetes_has_the_same_rules() -> None:
    rules = CHECKOUT / "deploy/kubernetes/components/monitoring/rules.yaml"
    assert yaml.safe_load(rules.read_text())["spec"]["groups"] == GROUPS


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_leads_to_a_heading_of_the_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    page, _, slug = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (CHECKOUT / page).read_text(), re.MULTILINE)
    assert slug in {heading.lower().replace(" ", "-") for heading in headings}


def test_every_metric_of_the_rules_is_documented() -> None:
    page = (CHECKOUT / "docs/reference/metrics.md").read_text()
    asked = set(re.findall(r"\bdetserve_[a-z_]+", RULES.read_text()))
    assert asked
    assert not [name for name in asked if name not in page]

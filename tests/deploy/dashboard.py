"""The queries of the provisioned Grafana dashboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "deploy/monitoring/grafana/dashboards/detserve.json").read_text()
)


def panels_of(*, interval: str) -> list[tuple[str, str]]:
    """Title and PromQL of every query, with Grafana's variables filled in."""
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", interval).replace("$model", ".*"))
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    ]

"""deploy/kubernetes: what the autoscalers go by."""

from __future__ import annotations

import re

import yaml

from tests.deploy.kubernetes import FOLDER, OVERLAYS, Object, object_of


def test_thresholds_follow_from_the_plan(rendered: dict[str, list[Object]]) -> None:
    """Little's law: requests that wait are the rate times the wait."""
    scaled = object_of(rendered["gpu"], "ScaledObject", "triton")
    autoscaler = object_of(rendered["cpu"], "HorizontalPodAutoscaler", "triton")
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
    triggers = object_of(rendered["gpu"], "ScaledObject", "triton")["spec"]["triggers"]
    assert adapter == [trigger["metadata"]["query"] for trigger in triggers]
    seconds, _ = adapter
    assert re.search(r" / clamp_min\(sum\(.*, 0\.001\)$", seconds), "without traffic 0 and not nothing"


def test_keda_is_asked_for_no_fallback_that_it_refuses(rendered: dict[str, list[Object]]) -> None:
    """KEDA's webhook: only beside triggers that are all of metricType AverageValue."""
    spec = object_of(rendered["gpu"], "ScaledObject", "triton")["spec"]
    types = {trigger["metricType"] for trigger in spec["triggers"]}
    assert "fallback" not in spec or types == {"AverageValue"}


def test_kserve_scales_by_the_pictures_that_wait_as_keda_does(rendered: dict[str, list[Object]]) -> None:
    service = object_of(rendered["kserve"], "InferenceService", "detserve")
    assert service["metadata"]["annotations"] == {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "keda",
    }
    predictor = service["spec"]["predictor"]
    assert not {"scaleMetric", "scaleTarget"} & set(predictor)
    (metric,) = predictor["autoScaling"]["metrics"]
    triggers = object_of(rendered["gpu"], "ScaledObject", "triton")["spec"]["triggers"]
    (waiting,) = [trigger for trigger in triggers if trigger["metricType"] == "AverageValue"]
    asked = {**metric["external"]["metric"], "threshold": metric["external"]["target"]["value"]}
    assert asked == {"backend": "prometheus", **waiting["metadata"]}


def test_applying_again_does_not_undo_the_autoscaler(rendered: dict[str, list[Object]]) -> None:
    counts = {
        overlay: object_of(rendered[overlay], "Deployment", "triton")["spec"].get("replicas")
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

"""Images with a known hole are named, with the versions that have it closed."""

from __future__ import annotations

import pytest

from detserve_server.doctor.image_floors import check_floors


@pytest.mark.parametrize(
    ("image", "passed"),
    [
        ("nginx:1.28.0", False),
        ("nginx:1.30.6", False),
        ("nginx:1.30.7", True),
        ("docker.io/library/nginx:1.30.7-alpine", True),
        ("nginx:1.30.10@sha256:" + "0" * 64, True),
        ("nginx:1.31.1", False),  # a branch of which nothing is known
        ("grafana/grafana:12.2.0", False),
        ("grafana/grafana:12.2.8", True),
        ("grafana/grafana:12.3.5", False),
        ("grafana/grafana:11.6.14", True),
        ("prom/prometheus:v3.5.0", False),
        ("prom/prometheus:v3.5.3", True),
        ("nvcr.io/nvidia/tritonserver:26.06-py3", False),
        ("nvcr.io/nvidia/tritonserver:26.07-py3", True),
        ("nvcr.io/nvidia/tritonserver:27.01-py3", True),
    ],
)
def test_a_version_with_a_known_hole_is_named(image: str, passed: bool) -> None:
    check = check_floors(["registry.example.com:5000/own", image])
    assert check.passed is passed
    assert image in check.found
    assert not (check.stops and check.fix)
    assert passed or check.fix.startswith("take ")


def test_what_a_newer_branch_has_is_not_claimed() -> None:
    assert "not known here" in check_floors(["nginx:1.31.1"]).fix
    assert "take 26.07, which fix" in check_floors(["nvcr.io/nvidia/tritonserver:25.01-py3"]).fix


@pytest.mark.parametrize("image", ["", "nginx", "nginx:stable", "own:5000/nginx", "own/nginx:1.0.0"])
def test_of_other_images_nothing_is_said(image: str) -> None:
    assert check_floors([image]).found == "no image whose versions are known here"

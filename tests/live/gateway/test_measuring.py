"""``detserve perf`` and ``canary`` through a gateway, with the options and the environment of ``detect``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.command import detserve
from tests.live.conftest import SAMPLES
from tests.live.gateway.conftest import SSD, YOLO, Site


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted(SAMPLES.glob("*.jpg"))[:2]:
        shutil.copy(path, folder)
    return folder


def annotations(pictures: Path, site: Site) -> Path:
    labels = site.client("grpc").labels
    first, *_ = sorted(path.name for path in pictures.iterdir())
    file = pictures.parent / "instances.json"
    content = {
        "images": [{"id": 1, "file_name": first, "width": 960, "height": 960}],
        "categories": [{"id": 1, "name": labels[0]}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 50, 50], "area": 2500, "iscrowd": 0}
        ],
    }
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("given", ["options", "environment"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("command", ["accuracy", "overload", "canary"])
def test_the_key_and_the_authority_arrive(
    site: Site, pictures: Path, tmp_path: Path, command: str, protocol: str, given: str
) -> None:
    url, out = site.url(protocol), tmp_path / "out"
    arguments: list[object] = {
        "accuracy": ["perf", "accuracy", "--url", url, "--dataset", annotations(pictures, site)],
        "overload": ["perf", "overload", "--url", url, "--pictures", pictures, "--output", out],
        "canary": ["canary", "--old", url, "--new", url, "--pictures", pictures],
    }[command]
    further = {"accuracy": ["--images", pictures], "overload": ["--loads", "0.5", "--duration-s", "1"]}
    arguments += ["--model", YOLO, *further.get(command, [])]
    without = detserve(*arguments)
    assert without.returncode == 1
    assert "--ca FILE" in without.stderr.splitlines()[-1]
    key_file, ca = tmp_path / "key", site.tls.authority
    key_file.write_text(site.keys["alice"])
    environment = {}
    if given == "options":
        arguments += ["--api-key-file", key_file, "--ca", ca]
    else:
        environment = {"DETSERVE_API_KEY": site.keys["alice"], "DETSERVE_CA": str(ca)}
    done = detserve(*arguments, **environment)
    assert done.returncode == 0, done.stderr


def test_a_key_does_not_go_to_a_server_without_tls(site: Site, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key")
    options = ["--model", YOLO, "--pictures", pictures, "--output", tmp_path]
    done = detserve(
        "perf", "overload", "--url", site.triton.grpc_url, "--api-key-file", tmp_path / "key", *options
    )
    assert done.returncode == 1
    assert "an API key and certificates need TLS" in done.stderr


def test_a_key_for_the_detector_alone(site: Site, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(site.keys["bob"])
    options = ["--model", SSD, "--pictures", pictures, "--output", tmp_path, "--loads", "0.5"]
    options += ["--duration-s", "1", "--api-key-file", tmp_path / "key", "--ca", site.tls.authority]
    done = detserve("perf", "overload", "--url", site.url("grpc"), *options)
    assert done.returncode == 0, done.stderr

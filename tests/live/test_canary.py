"""A new server takes over when it detects the same, and is held back or rolled back when it does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest

from detserve_client import Client
from detserve_server.gateway.shared_secret import new_secret
from detserve_server.rollout.traffic import Gateway
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.command import detserve
from tests.live.behind_gateway import NginxGateway, load, nginx_gateway, served, upstream
from tests.live.conftest import CHECKOUT, DEFAULT, SAMPLES

PICTURE = SAMPLES / "scene_2.jpg"
SECRET = new_secret()  # these servers answer their gateway alone, as in production
AS_GATEWAY = {"DETSERVE_GATEWAY_SECRET": SECRET}


def _repository(folder: Path) -> Path:
    for model in (CHECKOUT / "model_repository").glob(f"{DEFAULT}*"):
        shutil.copytree(model, folder / model.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _other_threshold(folder: Path) -> Path:
    """The same weights, and a score threshold at which boxes are lost."""
    path = _repository(folder) / f"{DEFAULT}_pipeline/config.pbtxt"
    path.write_text(
        path.read_text().replace(r"\"thresholds\":{\"score\":0.5", r"\"thresholds\":{\"score\":0.9")
    )
    return folder


def _noisy(folder: Path) -> Path:
    """The same graph with a tenth of noise on every convolution's weights."""
    path = _repository(folder) / f"{DEFAULT}_pipeline/1/model.onnx"
    model = onnx.load(path)
    random = np.random.default_rng(5)
    for tensor in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor)
        if weights.ndim == 4 and weights.dtype == np.float32:
            noise = random.normal(0, 0.1 * weights.std(), weights.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights + noise, tensor.name))
    onnx.save(model, path)
    return folder


@pytest.fixture(scope="module")
def blue() -> Iterator[RunningServer]:
    """The server of today."""
    with embedded_server(CHECKOUT / "model_repository", models=[DEFAULT], gateway_secret=SECRET) as running:
        yield running


@pytest.fixture(scope="module")
def green() -> Iterator[RunningServer]:
    """The same detector on a new server."""
    with embedded_server(CHECKOUT / "model_repository", models=[DEFAULT], gateway_secret=SECRET) as running:
        yield running


@pytest.fixture(scope="module", params=[_other_threshold, _noisy])
def broken(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    repository = request.param(tmp_path_factory.mktemp("broken") / "repository")
    with embedded_server(repository, gateway_secret=SECRET) as running:
        yield running


@pytest.fixture
def boxes(gateway: NginxGateway) -> int:
    with Client(gateway.url, DEFAULT, security=gateway.security) as client:
        return len(client.detect(PICTURE))


@pytest.fixture
def gateway(blue: RunningServer, tmp_path: Path) -> Iterator[NginxGateway]:
    with nginx_gateway(tmp_path / "gateway", [upstream(blue)], SECRET) as running:
        yield running


def _canary(old: RunningServer, new: RunningServer, *options: str) -> subprocess.CompletedProcess[str]:
    both = ("--old", old.grpc_url, "--new", new.http_url, "--model", DEFAULT)
    return detserve("canary", *both, *options, **AS_GATEWAY)


def test_the_same_detector_may_take_over(blue: RunningServer, green: RunningServer, tmp_path: Path) -> None:
    strict = ("--max-changed", "0", "--min-iou", "1", "--max-ap-drop", "0")
    labels = ("--pictures", str(SAMPLES), "--labels", str(SAMPLES / "instances.json"))
    done = _canary(blue, green, *labels, *strict, "--output", str(tmp_path / "canary.json"))
    assert done.returncode == 0, done.stderr
    assert "may take over" in done.stdout
    found = json.loads((tmp_path / "canary.json").read_text())
    assert (found["pictures"], found["changed"], found["breaches"]) == (8, 0, [])
    assert found["ap"][0] == found["ap"][1] > 0.5


def test_another_detector_is_held_back(blue: RunningServer, broken: RunningServer) -> None:
    done = _canary(blue, broken, "--pictures", str(SAMPLES))
    assert done.returncode == 1
    assert "detserve: the new detector is held back: detections changed on" in done.stderr
    labels = ("--labels", str(SAMPLES / "instances.json"), "--pictures", str(SAMPLES))
    labelled = _canary(blue, broken, *labels)
    assert labelled.returncode == 1
    assert "detections changed on" in labelled.stderr


@pytest.mark.parametrize("broken", [_noisy], indirect=True)
def test_noise_on_the_weights_is_seen_in_ap(blue: RunningServer, broken: RunningServer) -> None:
    labels = ("--labels", str(SAMPLES / "instances.json"), "--pictures", str(SAMPLES))
    done = _canary(blue, broken, *labels, "--max-changed", "1", "--min-iou", "0", "--max-ap-drop", "0.001")
    assert done.returncode == 1
    assert "AP fell from" in done.stderr


def test_paths_on_standard_input(blue: RunningServer, green: RunningServer) -> None:
    command = [sys.executable, "-m", "detserve.command", "canary", "--from-stdin"]
    command += ["--old", blue.grpc_url, "--new", green.grpc_url, "--model", DEFAULT]
    paths = "".join(f"{path}\n" for path in sorted(SAMPLES.glob("*.jpg"))[:3])
    environment = {**os.environ, **AS_GATEWAY}
    done = subprocess.run(command, env=environment, input=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 pictures, 0 changed" in done.stdout


def _rollout(gateway: NginxGateway, new: RunningServer, watch_s: float = 3) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "detserve.command", "rollout", "--gateway", str(gateway.folder)]
    command += ["--to-grpc", upstream(new).grpc, "--to-http", upstream(new).http, "--share", "0.3"]
    command += ["--watch-s", str(watch_s), "--model", DEFAULT, "--pictures", str(SAMPLES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _has_all(gateway: NginxGateway) -> list[str]:
    return [one.grpc for one in Gateway(gateway.folder).settings().upstreams]


@pytest.mark.slow
def test_the_same_detector_is_promoted_under_load_and_can_be_rolled_back(
    gateway: NginxGateway, blue: RunningServer, green: RunningServer, boxes: int
) -> None:
    with load(gateway, DEFAULT, PICTURE, boxes) as sent:
        sent.wait_for(50)
        before = sent.answered
        of_green = served(green, DEFAULT)
        process = _rollout(gateway, green)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        share = (served(green, DEFAULT) - of_green) / (sent.answered - before)
        print(output, f"share of the new server meanwhile {share:.2f}")
        assert "the new server has all the traffic; the old one may be stopped\n" in output
        assert _has_all(gateway) == [upstream(green).grpc]
        of_blue = served(blue, DEFAULT)
        sent.wait_for(100)
        assert served(blue, DEFAULT) == of_blue  # the old one may be stopped
        assert detserve("rollout", "--gateway", gateway.folder, "--roll-back").returncode == 0
        assert _has_all(gateway) == [upstream(blue).grpc]
        assert Gateway(gateway.folder).wait_until_drained()
        sent.wait_for(50)
        assert served(blue, DEFAULT) > of_blue
    assert sent.errors == []
    assert all(record["outcome"] == "ok" for record in gateway.inferences())


def test_a_broken_detector_gets_no_traffic(
    gateway: NginxGateway, blue: RunningServer, broken: RunningServer, boxes: int
) -> None:
    before = served(broken, DEFAULT)
    with load(gateway, DEFAULT, PICTURE, boxes) as sent:
        sent.wait_for(20)
        process = _rollout(gateway, broken)
        _, errors = process.communicate(timeout=120)
        sent.wait_for(20)
    assert process.returncode == 1
    assert "held back before it had any traffic: the new detector is held back" in errors
    assert errors.count("\n") == 1
    assert served(broken, DEFAULT) - before == len(list(SAMPLES.glob("*.jpg")))  # the comparison alone
    assert _has_all(gateway) == [upstream(blue).grpc]
    assert sent.errors == []


@pytest.mark.slow
def test_one_that_dies_with_its_share_is_rolled_back(
    gateway: NginxGateway, blue: RunningServer, boxes: int
) -> None:
    with ExitStack() as stack:
        repository = CHECKOUT / "model_repository"
        dying = stack.enter_context(embedded_server(repository, models=[DEFAULT], gateway_secret=SECRET))
        with load(gateway, DEFAULT, PICTURE, boxes) as sent:
            sent.wait_for(20)
            process = _rollout(gateway, dying, watch_s=4)
            _until_shared(gateway)
            sent.wait_for(50)
            os.killpg(dying.pid, signal.SIGKILL)
            _, errors = process.communicate(timeout=120)
            sent.wait_for(50)
    assert process.returncode == 1
    assert errors.startswith("detserve: rolled back: ")
    assert errors.count("\n") == 1
    assert _has_all(gateway) == [upstream(blue).grpc]
    assert sent.errors == []
    print(
        errors, f"{sent.answered} answered", [one["outcome"] for one in gateway.inferences()].count("failed")
    )


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGINT],
        *(pytest.param([number], marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP)),
        pytest.param([signal.SIGINT, signal.SIGTERM] * 20, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_gives_the_traffic_back(
    gateway: NginxGateway,
    blue: RunningServer,
    green: RunningServer,
    boxes: int,
    numbers: list[signal.Signals],
) -> None:
    with load(gateway, DEFAULT, PICTURE, boxes) as sent:
        hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # where the tests run under nohup
        try:
            process = _rollout(gateway, green, watch_s=60)
        finally:
            signal.signal(signal.SIGHUP, hang_up)
        _until_shared(gateway)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.02)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert errors.endswith("detserve: rolled back: stopped by a signal\n")
        assert _has_all(gateway) == [upstream(blue).grpc]
        sent.wait_for(20)
    assert sent.errors == []


def test_one_that_was_killed_is_noticed(
    gateway: NginxGateway, blue: RunningServer, green: RunningServer
) -> None:
    process = _rollout(gateway, green, watch_s=60)
    _until_shared(gateway)
    process.kill()
    process.communicate()
    again = _rollout(gateway, green)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 1
    assert "go back first with --roll-back" in errors
    assert detserve("rollout", "--gateway", gateway.folder, "--roll-back").returncode == 0
    assert _has_all(gateway) == [upstream(blue).grpc]


def _until_shared(gateway: NginxGateway) -> None:
    deadline_s = time.monotonic() + 60
    while len(_has_all(gateway)) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)

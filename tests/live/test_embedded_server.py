"""The embedded server itself, on tiny models: start, answer, stop, and what it says when it cannot."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from detserve_core.errors import PortTaken, ServerStartError
from detserve_core.machine.ports import LOOPBACK, choose_ports
from detserve_server.errors import ServerStopped
from detserve_server.triton.embedded import embedded_server
from detserve_server.triton.shared_memory import regions
from tests.live.conftest import COMMITTED, DEFAULT
from tests.server.triton.models import write_repository

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


def _group_is_alive(group: int) -> bool:
    """Whether any process of the group runs (a dead one that nobody has waited for does not)."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, of_group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            return True
    return False


def _eventually(condition: Callable[[], bool], within_s: float = 20) -> bool:
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True


def _length_over(library: Any, url: str, picture: bytes) -> int:
    client = library.InferenceServerClient(url.split("//")[1])
    image = library.InferInput("IMAGE", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[picture]], dtype=object))
    answer = client.infer("tiny", [image]).as_numpy("num_detections")
    client.close()
    return int(answer[0, 0])


def test_it_answers_over_grpc_and_http_and_leaves_nothing(tiny: Path) -> None:
    with embedded_server(tiny) as server:
        assert server.models == ("tiny", "tiny_postprocess", "tiny_preprocess")
        assert _length_over(tritonclient.grpc, server.grpc_url, b"12345") == 5
        assert _length_over(tritonclient.http, server.http_url, b"123") == 3
        with urllib.request.urlopen(server.metrics_url) as response:  # noqa: S310
            assert 'nv_inference_request_success{model="tiny",version="1"} 2' in response.read().decode()
        assert _group_is_alive(server.pid)
        assert len(regions(server.region_prefix)) == 2
    assert not _group_is_alive(server.pid)
    assert regions(server.region_prefix) == []
    assert not server.log_file.exists()


def test_the_closed_protocols_are_refused_and_the_tools_are_not(tiny: Path) -> None:
    with embedded_server(tiny) as server:
        client = tritonclient.grpc.InferenceServerClient(server.grpc_url.split("//")[1])
        for call in (
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_log_settings,
            client.get_trace_settings,
        ):
            with pytest.raises(tritonclient.utils.InferenceServerException, match="protocol is restricted"):
                call()
        assert client.is_server_ready()
        assert client.get_model_config("tiny").config.name == "tiny"
        assert client.get_model_metadata("tiny").name == "tiny"
        assert client.get_inference_statistics("tiny").model_stats
        client.close()


def test_named_models_bring_their_steps_and_nothing_else(tmp_path: Path) -> None:
    write_repository(tmp_path)
    (tmp_path / "broken").mkdir()
    config = (tmp_path / "tiny_postprocess/config.pbtxt").read_text()
    (tmp_path / "broken/config.pbtxt").write_text(config.replace("tiny_postprocess", "broken"))
    with embedded_server(tmp_path, models=["tiny"]) as server:
        assert set(server.models) == {"tiny", "tiny_preprocess", "tiny_postprocess"}
        assert _length_over(tritonclient.grpc, server.grpc_url, b"1") == 1


def test_a_model_that_raises_gives_its_sentence_and_keeps_the_log(tmp_path: Path) -> None:
    write_repository(tmp_path / "models", initialize='raise RuntimeError("no such weights")')
    log = tmp_path / "logs/triton.log"
    with pytest.raises(ServerStartError) as caught, embedded_server(tmp_path / "models", log_file=log):
        pass
    assert str(caught.value) == (
        f"model 'tiny_preprocess' did not load: RuntimeError: no such weights; the whole log is at {log}"
    )
    assert "1/model.py(8): initialize" in log.read_text()


def test_a_model_without_its_file_does_not_hang(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models")
    (models / "tiny_preprocess/1/model.py").unlink()
    started = embedded_server(models, log_file=tmp_path / "triton.log")
    with pytest.raises(ServerStartError, match="Python model file not found"), started:
        pass


@pytest.mark.parametrize(
    ("option", "purpose"), [("grpc_port", "gRPC"), ("http_port", "HTTP"), ("metrics_port", "metrics")]
)
def test_a_taken_port_is_named(tiny: Path, taken_port: int, option: str, purpose: str) -> None:
    given: dict[str, Any] = {option: taken_port}
    expected = f"port {taken_port} for {purpose} is already in use on 127.0.0.1"
    with pytest.raises(PortTaken, match=expected), embedded_server(tiny, **given):
        pass


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerStartError, match="nowhere does not exist"),
        embedded_server(tmp_path / "nowhere"),
    ):
        pass


def test_a_server_that_is_killed_while_serving_is_noticed(tiny: Path, tmp_path: Path) -> None:
    started = embedded_server(tiny, log_file=tmp_path / "triton.log")
    with pytest.raises(ServerStopped, match="was ended by SIGKILL"), started as server:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    assert not _group_is_alive(server.pid)
    assert regions(server.region_prefix) == []


def test_an_exception_in_the_block_stops_the_server(tiny: Path) -> None:
    with pytest.raises(ZeroDivisionError), embedded_server(tiny) as server:
        _ = 1 / 0
    assert not _group_is_alive(server.pid)


def test_nothing_survives_a_parent_that_is_killed(tiny: Path, tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import pathlib, time
        from detserve_server.triton.embedded import embedded_server
        log = pathlib.Path({str(tmp_path / "triton.log")!r})
        with embedded_server(pathlib.Path({str(tiny)!r}), log_file=log) as server:
            print(server.pid, server.region_prefix, flush=True)
            time.sleep(600)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, prefix = parent.stdout.readline().split()
    assert _group_is_alive(int(pid))
    parent.kill()
    parent.communicate()
    assert _eventually(lambda: not _group_is_alive(int(pid)))
    assert _eventually(lambda: regions(prefix) == [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal(tiny: Path, tmp_path: Path, number: signal.Signals) -> None:
    ports = choose_ports({"grpc": None, "http": None, "metrics": None})
    log = tmp_path / "triton.log"
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    command = [sys.executable, "-m", "detserve.command", "serve", f"--repository={tiny}", *options]
    serving = subprocess.Popen([*command, f"--log-file={log}"], stdout=subprocess.PIPE, text=True)
    assert serving.stdout is not None
    for line in serving.stdout:
        if "Serving until Ctrl-C" in line:
            break
    url = f"grpc://{LOOPBACK}:{ports['grpc']}"
    assert _length_over(tritonclient.grpc, url, b"12") == 2
    serving.send_signal(number)
    serving.send_signal(number)
    output, _ = serving.communicate(timeout=60)
    assert "Stopped." in output
    assert serving.returncode == 0
    assert "successfully unloaded 'tiny'" in log.read_text()


def test_the_command_exits_1_with_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "detserve.command", "serve", f"--repository={tmp_path}"]
    command += [
        f"--{name}-port={port}"
        for name, port in choose_ports({"grpc": None, "http": None, "metrics": None}).items()
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"detserve: {tmp_path} has no model; expected folders with a config.pbtxt, "
        f"as made by: detserve build\n"
    )


def test_a_cached_detector_is_not_served(tmp_path: Path) -> None:
    repository = shutil.copytree(COMMITTED, tmp_path / "repository")
    with (repository / f"{DEFAULT}/config.pbtxt").open("a") as config:
        config.write("response_cache { enable: true }\n")
    with pytest.raises(ServerStartError, match=f"model '{DEFAULT}' has response_cache on; take"):
        embedded_server(repository).__enter__()

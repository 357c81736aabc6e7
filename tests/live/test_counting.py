"""What the pipeline counts is what its callers got, whichever process it runs in."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import urllib3
from tritonclient.utils import InferenceServerException

from detserve_builder.build import build
from detserve_builder.triton_config import Placement
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.conftest import COMMITTED, DEFAULT, SAMPLES
from tests.live.sleeping_detector import NAME as SLEEPING
from tests.live.sleeping_detector import build_sleeping

REPORTED_S = 1.5  # the pipeline reports once a second
ROOM = 4
BUG = b"\xff\xd8\xff a picture that shows a bug"
#: Behind the last byte of a picture.
SLOW, SLOW_S = b"slow", 0.5
#: Behind the last line of detserve_preprocess.py: a bug for one picture, and pictures that take long.
_BUGGY = f"""

_right = preprocess


def preprocess(encoded, **settings):
    import time

    if encoded == {BUG!r}:
        raise LookupError("no such thing")
    if encoded.endswith({SLOW!r}):
        time.sleep({SLOW_S})
    return _right(encoded.removesuffix({SLOW!r}), **settings)
"""


#: At the beginning of a detector's execute; the first turn is Triton's warm-up.
_ONCE = """\
        self.turn = getattr(self, "turn", 0) + 1
        if self.turn > 2:
            raise LookupError("gone")
"""


def counted(server: RunningServer, family: str, label: str = "", model: str = DEFAULT) -> dict[str, float]:
    """The values of a metric of a detector, by one label beside the model's; by "" without one."""
    text = urllib3.request("GET", server.metrics_url).data.decode()
    found = {}
    for labels, value in re.findall(rf"^{family}{{(.*)}} (\S+)$", text, re.MULTILINE):
        said = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if said["model"] == model:
            found[said.get(label, "")] = float(value)
    return found


def outcomes(server: RunningServer, model: str = DEFAULT) -> dict[str, float]:
    time.sleep(REPORTED_S)
    return counted(server, "detserve_requests_total", "outcome", model)


@pytest.fixture(scope="module", params=["server", "own"])
def counting(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:  # type: ignore[no-untyped-def]
    """A detector with little room in its queue and with a bug, in the server's process and in its own."""
    folder = tmp_path_factory.mktemp("counting")
    for name in (DEFAULT, f"{DEFAULT}_pipeline"):
        shutil.copytree(COMMITTED / name, folder / name)
    _first_step(folder / f"{DEFAULT}_pipeline", process=request.param)
    with embedded_server(folder) as running:
        assert running.steps_run.startswith("within") == (request.param == "server")
        yield running


@pytest.fixture(scope="module")
def in_steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The same detector as three models."""
    folder = tmp_path_factory.mktemp("steps")
    build(DEFAULT, name=DEFAULT, repository=folder, placement=Placement.STEPS)
    _first_step(folder / f"{DEFAULT}_preprocess")
    with embedded_server(folder) as running:
        yield running


def _first_step(model: Path, **parameters: str) -> None:
    with (model / "1/detserve_preprocess.py").open("a") as file:
        file.write(_BUGGY)
    _say(model / "config.pbtxt", max_waiting=str(ROOM), **parameters)


def _say(config: Path, **parameters: str) -> None:
    text = config.read_text()
    for key, value in parameters.items():
        text, changed = re.subn(rf'(key: "{key}"\s+value \{{\s+string_value: )"[^"]*"', rf'\1"{value}"', text)
        assert changed == 1, key
    config.write_text(text)


@pytest.fixture
def connection(counting: RunningServer) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(counting.grpc_url.removeprefix("grpc://")) as client:
        yield client


@pytest.fixture(scope="module")
def picture() -> bytes:
    return sorted(SAMPLES.glob("*.jpg"))[0].read_bytes()


def _inputs(*pictures: bytes) -> list[grpcclient.InferInput]:
    tensor = grpcclient.InferInput("IMAGE", [len(pictures), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, dtype=object).reshape(-1, 1))
    return [tensor]


def test_the_warm_up_is_nobodys_request(counting) -> None:  # type: ignore[no-untyped-def]
    assert outcomes(counting) == dict.fromkeys(
        ("answered", "refused", "overloaded", "expired", "cancelled", "failed"), 0.0
    )


def test_each_outcome_counts_once(counting, connection, picture) -> None:  # type: ignore[no-untyped-def]
    _provoke_each(counting, connection, picture)


def test_the_first_and_the_last_of_three_models_count_together(in_steps, picture) -> None:  # type: ignore[no-untyped-def]
    with grpcclient.InferenceServerClient(in_steps.grpc_url.removeprefix("grpc://")) as client:
        _provoke_each(in_steps, client, picture)
    assert counted(in_steps, "detserve_request_seconds_count") == {}, "nobody sees the whole way"
    assert counted(in_steps, "detserve_stage_seconds_count", "stage") == {
        "queue": 11.0,
        "decode": 7.0,
        "postprocess": 4.0,
    }


def _provoke_each(server: RunningServer, connection, picture: bytes) -> None:  # type: ignore[no-untyped-def]
    before = outcomes(server)
    ask = partial(connection.infer, DEFAULT)
    for pictures in ([picture], [picture] * 3):
        ask(_inputs(*pictures))
    wrong = {
        "not a JPEG": ask_wrong(ask, b"no picture"),
        "picture 1": ask_wrong(ask, picture, b"no picture", picture),
        "score_threshold": ask_wrong(ask, picture, parameters={"score_threshold": 7}),
        "this key is not for": ask_wrong(ask, picture, parameters={"detserve-models": ",other,"}),
        "LookupError": ask_wrong(ask, BUG),
        "timeout expired": ask_wrong(ask, picture, timeout=1),
    }
    for sentence, message in wrong.items():
        assert sentence in message
    changed = {name: total - before[name] for name, total in outcomes(server).items()}
    assert changed == {
        "answered": 2,
        "refused": 4,
        "failed": 1,
        "expired": 1,
        "overloaded": 0,
        "cancelled": 0,
    }


def ask_wrong(ask, *pictures: bytes, **options) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(InferenceServerException) as refused:
        ask(_inputs(*pictures), **options)
    return refused.value.message()


def test_an_overload_counts_as_its_callers_do(counting, connection, picture) -> None:  # type: ignore[no-untyped-def]
    before = outcomes(counting)
    told: list[str] = []

    def done(result, error) -> None:  # type: ignore[no-untyped-def]
        told.append("answered" if error is None else error.message())

    sent = 60
    for _ in range(sent):
        connection.async_infer(DEFAULT, _inputs(picture + SLOW), done)
    _wait(told, sent)
    seen = Counter("overloaded" if "exceeds maximum queue size" in one else one for one in told)
    assert set(seen) == {"answered", "overloaded"}, seen
    changed = {name: total - before[name] for name, total in outcomes(counting).items()}
    assert {name: number for name, number in changed.items() if number} == seen


def test_who_has_gone_is_counted_and_not_served(counting, connection, picture) -> None:  # type: ignore[no-untyped-def]
    """Asked without the ensemble, which hides from its steps that a caller has gone."""
    before = outcomes(counting)
    decoded = counted(counting, "detserve_stage_seconds_count", "stage")["decode"]
    told: list[str] = []

    def done(result, error) -> None:  # type: ignore[no-untyped-def]
        told.append("answered" if error is None else error.message())

    model = f"{DEFAULT}_pipeline"
    for _ in range(3):  # a thread more than cores at most
        connection.async_infer(model, _inputs(picture + SLOW), done)
    time.sleep(SLOW_S / 5)
    gone = [connection.async_infer(model, _inputs(picture), done) for _ in range(2)]
    time.sleep(SLOW_S / 5)
    for call in gone:
        call.cancel()
    _wait(told, 5)
    assert told.count("answered") == 3, told
    changed = {name: total - before[name] for name, total in outcomes(counting).items()}
    assert {name: number for name, number in changed.items() if number} == {"answered": 3, "cancelled": 2}
    assert counted(counting, "detserve_stage_seconds_count", "stage")["decode"] - decoded == 3


def _wait(told: list[str], number: int) -> None:
    end_s = time.monotonic() + 60
    while len(told) < number and time.monotonic() < end_s:
        time.sleep(0.05)
    assert len(told) == number


def test_seconds_are_of_what_was_answered(counting, connection, picture) -> None:  # type: ignore[no-untyped-def]
    time.sleep(REPORTED_S)
    before = _seconds(counting)
    began_s = time.monotonic()
    for _ in range(20):
        connection.infer(DEFAULT, _inputs(picture, picture))
    took_s = time.monotonic() - began_s
    time.sleep(REPORTED_S)
    after = _seconds(counting)
    assert after["count"] - before["count"] == after["+Inf"] - before["+Inf"] == 20
    assert took_s / 2 < after["sum"] - before["sum"] < took_s
    assert after["pictures"] - before["pictures"] == 40
    assert 0 < after["stages"] - before["stages"] <= 2 * (after["sum"] - before["sum"])


def _seconds(server: RunningServer) -> dict[str, float]:
    stages = counted(server, "detserve_stage_seconds_count", "stage")
    return {
        "count": counted(server, "detserve_request_seconds_count")[""],
        "sum": counted(server, "detserve_request_seconds_sum")[""],
        "+Inf": counted(server, "detserve_request_seconds_bucket", "le")["+Inf"],
        "pictures": stages["postprocess"],
        "stages": sum(counted(server, "detserve_stage_seconds_sum", "stage").values()),
    }


def test_two_processes_of_a_pipeline_add_up(tmp_path: Path, picture: bytes) -> None:
    for name in (DEFAULT, f"{DEFAULT}_pipeline"):
        shutil.copytree(COMMITTED / name, tmp_path / name)
    config = tmp_path / f"{DEFAULT}_pipeline/config.pbtxt"
    text, changed = re.subn(r"(instance_group \{\s+count: )1", r"\g<1>2", config.read_text())
    assert changed == 1
    config.write_text(text)
    with embedded_server(tmp_path) as running:
        with grpcclient.InferenceServerClient(running.grpc_url.removeprefix("grpc://")) as client:
            told: list[str] = []
            for _ in range(30):
                client.async_infer(DEFAULT, _inputs(picture), lambda result, error: told.append(str(error)))
            _wait(told, 30)
        assert set(told) == {"None"}
        assert outcomes(running)["answered"] == 30
        assert counted(running, "detserve_request_seconds_bucket", "le")["+Inf"] == 30
        assert counted(running, "detserve_queue_taken_total")[""] == 30 + 2, "the queue takes the warm-up too"
        assert counted(running, "detserve_queue_pictures", "process") == {
            f"{DEFAULT}_pipeline_0_0": 0.0,
            f"{DEFAULT}_pipeline_0_1": 0.0,
        }


@pytest.mark.parametrize("within_server", [False, True])
def test_a_called_detector_that_fails_is_counted(tmp_path: Path, picture: bytes, within_server: bool) -> None:
    """The detector answers once and fails then."""
    build_sleeping(tmp_path, sleep_s=0, placement=Placement.PIPELINE, within_server=within_server)
    model = tmp_path / f"{SLEEPING}_detector/1/model.py"
    text, changed = re.subn(r"(def execute.*\n)", rf"\1{_ONCE}", model.read_text())
    assert changed == 1
    model.write_text(text)
    with embedded_server(tmp_path) as running:
        with grpcclient.InferenceServerClient(running.grpc_url.removeprefix("grpc://")) as client:
            client.infer(SLEEPING, _inputs(picture))
            for _ in range(2):
                assert "LookupError" in ask_wrong(partial(client.infer, SLEEPING), picture)
        found = outcomes(running, SLEEPING)
        assert {name: number for name, number in found.items() if number} == {"answered": 1, "failed": 2}

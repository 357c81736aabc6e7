"""Models that call models (BLS): within the server's process, and on Triton's python backend alike."""

from __future__ import annotations

import os
import queue
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from detserve_server.errors import ServerStopped
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.calling_repository import (
    DROP,
    KEEP,
    RAISE,
    REFUSAL,
    REFUSE,
    ask,
    asked,
    question,
    write_caller,
    write_detector,
    write_ensemble,
)
from tests.needs import needs_compiler

pytestmark = needs_compiler

_BOUNDED = """default_queue_policy {
  max_queue_size: 4 timeout_action: REJECT allow_timeout_override: true default_timeout_microseconds: 10000000
}"""


def _repository(folder: Path, process: str) -> Path:
    for name in ("caller", "another_caller"):
        write_caller(folder, name, process=process)
    for name in ("detector", "another_detector"):
        write_detector(folder, name, process=process)
    write_detector(folder, "bounded", process=process, batching=_BOUNDED)
    write_ensemble(folder)
    return folder


@pytest.fixture(scope="module")
def within(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """All models within the server's process."""
    with embedded_server(_repository(tmp_path_factory.mktemp("within"), "server")) as running:
        assert running.steps_run == "within the server's process"
        yield running


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Each in a process of its own, on Triton's python backend."""
    with embedded_server(_repository(tmp_path_factory.mktemp("own"), "own")) as running:
        yield running


@pytest.fixture(params=["within", "own"])
def either(request: pytest.FixtureRequest) -> Iterator[grpcclient.InferenceServerClient]:
    """Both, as model.py is to do the same in them."""
    with _connected(request.getfixturevalue(request.param)) as client:
        yield client


@pytest.fixture
def connection(within: RunningServer) -> Iterator[grpcclient.InferenceServerClient]:
    with _connected(within) as client:
        yield client


def _connected(server: RunningServer) -> grpcclient.InferenceServerClient:
    return grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))


def _refused(connection: grpcclient.InferenceServerClient, what: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as refused:
        ask(connection, what)
    status: str = refused.value.status()
    return status.removeprefix("StatusCode."), refused.value.message()


def _check(boxes: NDArray[np.float32], *numbers: int) -> None:
    expected = [[number, number % 251, number % 251] for number in numbers]
    np.testing.assert_array_equal(boxes[:, :3], np.array(expected, np.float32))


def test_the_answer_is_that_of_the_pictures(either: grpcclient.InferenceServerClient) -> None:
    _check(ask(either, asked(17)), 17)
    _check(ask(either, asked(1000, 2, 300)), 1000, 2, 300)


def test_sixty_four_calls_at_a_time_are_batched_and_not_mixed_up(
    either: grpcclient.InferenceServerClient,
) -> None:
    def call(number: int) -> float:
        boxes = ask(either, asked(number, sleep_ms=number % 5))
        _check(boxes, number)
        return float(boxes[0, 3])

    with ThreadPoolExecutor(64) as pool:
        batches = list(pool.map(call, range(600)))
    assert max(batches) > 1


def test_pictures_of_two_sizes_at_the_same_time(connection: grpcclient.InferenceServerClient) -> None:
    def call(number: int) -> None:
        _check(ask(connection, asked(number, number + 1, height=8 + 100 * (number % 3))), number, number + 1)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(200)))


def test_several_callers_and_detectors(connection: grpcclient.InferenceServerClient) -> None:
    def call(number: int) -> None:
        caller = ("caller", "another_caller")[number % 2]
        detector = ("detector", "another_detector", "ensemble")[number % 3]
        _check(ask(connection, asked(number, model=detector), caller), number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(300)))


def test_a_tensor_of_bytes_between_models(either: grpcclient.InferenceServerClient) -> None:
    _check(ask(either, {"relay": asked(11, 12)}), 11, 12)


def test_a_call_from_execute_itself(either: grpcclient.InferenceServerClient) -> None:
    _check(ask(either, asked(5, within_execute=True)), 5)


@pytest.mark.parametrize("outputs", [[], ["classes", "boxes"]])
def test_outputs_that_are_not_asked_for_one_by_one(
    either: grpcclient.InferenceServerClient, outputs: list[str]
) -> None:
    _check(ask(either, asked(9, outputs=outputs)), 9)


def test_only_what_is_asked_for_comes(either: grpcclient.InferenceServerClient) -> None:
    assert ask(either, asked(9, outputs=["classes"])).tolist() == [[-1] * 4]


def test_an_array_that_is_not_in_one_piece(connection: grpcclient.InferenceServerClient) -> None:
    _check(ask(connection, asked(3, 4, mirrored=True)), 3, 4)


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"order": REFUSE}, "UNAVAILABLE", REFUSAL),
        ({"order": RAISE}, "INTERNAL", "LookupError: nothing of the kind"),
        ({"order": DROP}, "INTERNAL", "model.py let go of a request without an answer"),
        ({"model": "nothing"}, "NOT_FOUND", "Request for unknown model: 'nothing' is not found"),
        ({"outputs": ["nothing"]}, "INVALID_ARGUMENT", "unexpected inference output 'nothing'"),
        ({"input": "nothing"}, "INVALID_ARGUMENT", "nothing"),
        (
            {"dtype": "float32"},
            "INVALID_ARGUMENT",
            "data-type is 'FP32', but model 'detector' expects 'UINT8'",
        ),
        ({"dtype": ">f4"}, "INTERNAL", "images is >f4, expected numbers in this machine's byte order"),
        ({"dtype": "object"}, "INTERNAL", "images has an element that is not bytes"),
        ({"numbers": []}, "INVALID_ARGUMENT", "Expected 192, got 0"),
        ({"numbers": list(range(9))}, "INVALID_ARGUMENT", "batch-size"),
    ],
)
def test_an_error_keeps_its_code_and_its_text(
    connection: grpcclient.InferenceServerClient, changed: dict[str, Any], status: str, said: str
) -> None:
    got, text = _refused(connection, asked(1) | changed)
    assert got == status
    assert said in text
    _check(ask(connection, asked(1)), 1)


def test_a_refusal_on_tritons_python_backend_has_the_same_text(own: RunningServer) -> None:
    """Its code is lost there before Triton 2.58."""
    with _connected(own) as client:
        assert _refused(client, asked(1, order=REFUSE))[1] == REFUSAL


def test_a_full_queue_and_a_timeout_are_unavailable(connection: grpcclient.InferenceServerClient) -> None:
    def call(number: int) -> str:
        what = asked(number, model="bounded", sleep_ms=300, timeout_us=100_000)
        try:
            _check(ask(connection, what), number)
        except InferenceServerException as error:
            return f"{error.status()} " + re.sub(r"^\[.*?\] ", "", str(error.message()))
        return "answered"

    said: set[str] = set()
    deadline_s = time.monotonic() + 30
    expected = {
        "answered",
        "StatusCode.UNAVAILABLE Exceeds maximum queue size",
        "StatusCode.UNAVAILABLE Request timeout expired",
    }
    while said != expected:
        assert said < expected
        assert time.monotonic() < deadline_s, said
        with ThreadPoolExecutor(8) as pool:
            said |= set(pool.map(call, range(8)))


def test_a_model_that_can_be_called_is_ready(either: grpcclient.InferenceServerClient) -> None:
    assert _refused(either, {"ready": "detector"})[1].endswith("; True")
    assert _refused(either, {"ready": "nothing"})[1].endswith("; False")


def test_none_is_ready_before_all_are(connection: grpcclient.InferenceServerClient) -> None:
    assert _refused(connection, {"ready": "detector"})[1] == "Server not ready; True"


def test_a_caller_that_has_gone_is_noticed(either: grpcclient.InferenceServerClient) -> None:
    before = ask(either, {"cancelled": 1})[0, 0]
    answers: queue.Queue[Any] = queue.Queue()
    for gone in (True, False):
        call = either.async_infer(
            "caller",
            question({"until_cancelled_s": 20 if gone else 0.5}),
            callback=lambda result, error: answers.put(error),
        )
        if gone:
            time.sleep(0.3)
            call.cancel()
            assert answers.get(timeout=10).status() == "StatusCode.CANCELLED"
        else:
            assert answers.get(timeout=10).message() == "nobody cancelled"
    deadline_s = time.monotonic() + 10
    while ask(either, {"cancelled": 1})[0, 0] == before:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert ask(either, {"cancelled": 1})[0, 0] == before + 1


def _pixels(number: int, order: int, height: int) -> NDArray[np.uint8]:
    image = np.full((1, height, 8, 3), number % 251, np.uint8)
    image.reshape(-1)[:12].view(np.int32)[:] = number, 0, order
    return image


@pytest.mark.parametrize("height", [8, 50_000])
def test_a_tensor_of_bytes_from_a_client(within: RunningServer, height: int) -> None:
    """Over HTTP a large body comes in several pieces."""
    image = _pixels(77, 0, height)
    for module, url in ((grpcclient, within.grpc_url), (httpclient, within.http_url)):
        with module.InferenceServerClient(url.partition("://")[2]) as client:
            tensor = module.InferInput("images", image.shape, "UINT8")
            tensor.set_data_from_numpy(image)
            _check(client.infer("detector", [tensor]).as_numpy("boxes"), 77)


def test_what_a_model_still_reads_stays_there(connection: grpcclient.InferenceServerClient) -> None:
    """The detector looks at its input after it has answered; a call returns when it has let go."""
    for number in range(3):
        _check(ask(connection, asked(number, order=KEEP)), number)
    _check(ask(connection, asked(9)), 9)


def test_calls_at_shutdown_are_answered_or_refused(tmp_path: Path) -> None:
    """What the detector has, it answers; Triton refuses what comes later. Nothing is lost."""
    write_caller(tmp_path, threads=8)
    write_detector(tmp_path)
    answers: queue.Queue[Any] = queue.Queue()
    with embedded_server(tmp_path, log_file=tmp_path / "log") as running:
        with _connected(running) as client:
            for number in range(24):
                client.async_infer(
                    "caller",
                    question(asked(number, sleep_ms=500)),
                    callback=lambda result, error: answers.put((result, error)),
                )
            found = [answers.get(timeout=30)]  # the detector is at work on the next
            os.kill(running.pid, signal.SIGTERM)
            found += [answers.get(timeout=30) for _ in range(23)]
        with pytest.raises(ServerStopped, match="ended with status 0"):
            running.check_running(30)
    answered = [int(result.as_numpy("boxes")[0, 0]) for result, error in found if error is None]
    refused = [error for _, error in found if error is not None]
    assert len(answered) >= 2
    assert len(set(answered)) == len(answered)
    assert refused
    assert {error.status() for error in refused} == {"StatusCode.UNAVAILABLE"}
    assert (
        tmp_path / "finalized"
    ).read_text() == "Request for unknown model: 'detector' has no available versions"

"""The backend within the server's process: what it answers, and what it does when a model.py errs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from detserve_core.contract import NUM_DETECTIONS, OUTPUTS
from detserve_core.errors import ServerStartError
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.conftest import CHECKOUT, DEFAULT
from tests.live.test_contract import infer, mixed_pictures
from tests.needs import needs_compiler

pytestmark = needs_compiler

_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input {{ name: "IMAGE" data_type: TYPE_STRING dims: 1 }}
output {{ name: "number" data_type: TYPE_INT32 dims: 1 }}
output {{ name: "half" data_type: TYPE_FP32 dims: 1 }}
instance_group {{ kind: KIND_CPU count: 1 }}
parameters {{ key: "process" value {{ string_value: "server" }} }}
"""

#: Answers with the number that its picture is, from the module beside it; some pictures make it err.
_MODEL = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        import beside

        {initialize}
        self.add = beside.NUMBER
        self.kept = []

    def execute(self, requests):
        for request in requests:
            pictures = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)
            if pictures[0] == b"raise":
                raise LookupError("nothing of the kind")
            if pictures[0] == b"drop":
                continue
            if pictures[0] == b"float64":
                self.answer(request, np.zeros((1, 1)))
                continue
            if pictures[0] == b"refuse":
                error = pb_utils.TritonError("too much", pb_utils.TritonError.UNAVAILABLE)
                request.get_response_sender().send(pb_utils.InferenceResponse([], error), flags=1)
                continue
            numbers = np.array([[int(picture) + self.add] for picture in pictures], np.int32)
            threading.Thread(target=self.answer, args=(request, numbers)).start()

    def answer(self, request, numbers):
        sender = request.get_response_sender()
        half = (numbers / 2).astype(np.float32)
        outputs = [pb_utils.Tensor("number", numbers), pb_utils.Tensor("half", half)]
        sender.send(pb_utils.InferenceResponse(outputs), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        sender.send(pb_utils.InferenceResponse(outputs), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def _write(folder: Path, name: str, number: int, initialize: str = "pass") -> None:
    version = folder / name / "1"
    version.mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(_CONFIG.format(name=name))
    (version / "model.py").write_text(_MODEL.format(initialize=initialize))
    (version / "beside.py").write_text(f"NUMBER = {number}\n")


@pytest.fixture(scope="module")
def erring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two models whose module ``beside`` has the same name and another content."""
    folder = tmp_path_factory.mktemp("erring")
    _write(folder, "ten", 10)
    _write(folder, "hundred", 100)
    with embedded_server(folder) as running:
        yield running


@pytest.fixture
def connection(erring: RunningServer) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(erring.grpc_url.removeprefix("grpc://")) as client:
        yield client


def _ask(connection, model: str, *pictures: bytes, outputs=None):  # type: ignore[no-untyped-def]
    tensor = grpcclient.InferInput("IMAGE", [len(pictures), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, dtype=object).reshape(-1, 1))
    return connection.infer(model, [tensor], outputs=outputs, client_timeout=20)


def test_both_processes_answer_alike(tmp_path: Path) -> None:
    """Bit for bit: the pipeline within the server's process, and in one of its own on Triton's backend."""
    for name in (DEFAULT, f"{DEFAULT}_pipeline"):
        shutil.copytree(CHECKOUT / "model_repository" / name, tmp_path / "own" / name)
    config = tmp_path / "own" / f"{DEFAULT}_pipeline/config.pbtxt"
    text, changed = re.subn(
        r'(key: "process"\s+value \{\s+string_value: )"server"', r'\1"own"', config.read_text()
    )
    assert changed == 1
    config.write_text(text)
    pictures = mixed_pictures()
    with (
        embedded_server(CHECKOUT / "model_repository", models=[DEFAULT]) as within,
        embedded_server(tmp_path / "own") as own,
    ):
        assert within.steps_run == "within the server's process"
        assert own.steps_run.startswith("in their own processes: ")
        assert (len(_processes(within)), len(_processes(own))) == (1, 2)
        for settings in ({}, {"score_threshold": 0.05}, {"max_detections": 1}):
            answers = [infer(server, pictures, **settings) for server in (within, own)]
            assert answers[0][NUM_DETECTIONS].sum() > 0
            for name in OUTPUTS:
                assert answers[0][name].dtype == answers[1][name].dtype
                np.testing.assert_array_equal(answers[0][name], answers[1][name])
        said = []
        for server in (within, own):
            with pytest.raises(InferenceServerException) as refused:
                infer(server, [pictures[0], b"\xff\xd8\xff and no more"])
            said.append((refused.value.status(), refused.value.message()))
        assert said[0] == said[1]


def test_models_keep_the_modules_beside_them_apart(connection) -> None:  # type: ignore[no-untyped-def]
    assert _ask(connection, "ten", b"1", b"2").as_numpy("number").tolist() == [[11], [12]]
    assert _ask(connection, "hundred", b"1").as_numpy("number").tolist() == [[101]]


def test_only_what_is_asked_for_is_sent(connection) -> None:  # type: ignore[no-untyped-def]
    answer = _ask(connection, "ten", b"1", outputs=[grpcclient.InferRequestedOutput("half")])
    assert answer.as_numpy("half").tolist() == [[5.5]]
    assert answer.as_numpy("number") is None


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (b"raise", "LookupError: nothing of the kind"),
        (b"drop", "model.py let go of a request without an answer"),
        (b"float64", "TypeError: an output is float64, expected int32 or float32"),
        (b"refuse", "too much"),
    ],
)
def test_a_model_that_errs_answers_with_the_error_and_serves_on(connection, picture, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InferenceServerException) as refused:
        _ask(connection, "ten", picture)
    assert refused.value.message() == said
    assert _ask(connection, "ten", b"1").as_numpy("number").tolist() == [[11]]


def test_many_at_a_time(connection) -> None:  # type: ignore[no-untyped-def]
    def ask(picture: int) -> int:
        return int(_ask(connection, "ten", str(picture).encode()).as_numpy("number")[0, 0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(400))) == list(range(10, 410))


def test_a_model_that_does_not_load_says_why(tmp_path: Path) -> None:
    _write(tmp_path, "ten", 10, initialize='raise FileNotFoundError("no model.onnx")')
    with pytest.raises(
        ServerStartError, match="model 'ten' did not load: FileNotFoundError: no model.onnx; "
    ):
        with embedded_server(tmp_path):
            pass


def _processes(server: RunningServer) -> list[str]:
    """The programs in the server's process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = stat.read_text().rpartition(")")
        except OSError:
            continue
        if int(fields.split()[2]) == server.pid:
            found.append(name)
    return found

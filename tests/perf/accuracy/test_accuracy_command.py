"""What ``detserve perf accuracy`` says before it asks a server."""

import pytest
from typer.testing import CliRunner

from detserve_core.errors import ServerUnavailable
from detserve_perf.commands import app

SERVER = ["accuracy", "--url", "grpc://127.0.0.1:1", "--model", "codes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (SERVER, "--dataset"),
        ([*SERVER, "--dataset", "x", "--against-url", "grpc://h:1"], "it needs --against"),
        ([*SERVER, "--dataset", "x", "--concurrency", "0"], "--concurrency"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], words: str) -> None:
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 2
    assert words in answer.output


def test_no_server_is_one_sentence() -> None:
    answer = CliRunner().invoke(app, [*SERVER, "--dataset", "x"])
    assert isinstance(answer.exception, ServerUnavailable)

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from detserve_server.commands.doctor import app
from detserve_server.doctor import batcher
from detserve_server.errors import ProbeError


@pytest.mark.parametrize(
    ("with_policy", "without_policy", "stalls"),
    [(25, 183, True), (91, 183, True), (92, 183, False), (150, 100, False)],
)
def test_half_of_the_answers_is_a_stall(with_policy: float, without_policy: float, stalls: bool) -> None:
    row = batcher.verdict({"with_policy": with_policy, "without_policy": without_policy}, "x:1")
    assert row.passed is not stalls
    assert not (row.fix and row.stops)
    rates = f"{with_policy}/s answered with a queue policy, {without_policy}/s without"
    assert row.found == f"x:1 {'stalls' if stalls else 'does not stall'}: {rates}"


def test_a_busy_machine_gives_no_answer() -> None:
    with pytest.raises(
        ProbeError, match="no answer: 3/s .* 200/s are possible; ask again on a quiet machine"
    ):
        batcher.verdict({"with_policy": 3, "without_policy": 99}, "x:1")


def test_without_docker_the_command_is_said(monkeypatch) -> None:
    monkeypatch.setattr(batcher.shutil, "which", lambda program: None)
    with pytest.raises(
        ProbeError, match=r"docker is not installed; run where it is: docker run .* x:1 python3 - <"
    ):
        batcher.check_batcher("x:1")


def test_the_row_of_an_image_says_how_to_ask() -> None:
    row = batcher.how_to_ask("x:1")
    assert row.passed
    assert "detserve doctor --probe-batcher --image x:1 asks in 10 s" in row.found


@pytest.mark.parametrize("other", ["--repository=x", "--compose=x"])
def test_the_probe_is_of_a_server(other: str) -> None:
    done = CliRunner().invoke(app, ["--probe-batcher", other])
    assert done.exit_code == 2
    assert "--probe-batcher" in done.output

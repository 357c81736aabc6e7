"""Does a Triton's batcher stall? :mod:`detserve_server.doctor.batcher_probe`, run on the one that serves."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from detserve_server.doctor import batcher_probe
from detserve_server.doctor.check import Check
from detserve_server.errors import ProbeError
from detserve_server.triton.command_line import server_environment
from detserve_server.triton.distribution import assembled_backends, find_distribution

#: What the detector of the probe can answer.
CAPACITY_PER_S = batcher_probe.BATCH / batcher_probe.BATCH_S
_SCRIPT = Path(batcher_probe.__file__)
_NO_POLICY = "leave queue policies out of every config.pbtxt, as detserve build does"


def check_batcher(image: str = "") -> Check:
    """Send load to a model with a queue policy and to one without, for some 10 s.

    ``image`` is the container whose tritonserver is asked; "" is the embedded one. Raises a
    :class:`~detserve_server.errors.ProbeError` when it does not start, or the machine was too busy to say.
    """
    if image:
        return verdict(_in_image(image), image)
    return verdict(_embedded(), "the embedded server")


def verdict(goodput_per_s: Mapping[str, float], server: str) -> Check:
    """The row for what was answered a second ``with_policy`` and ``without_policy``."""
    with_policy, without = goodput_per_s["with_policy"], goodput_per_s["without_policy"]
    rates = f"{with_policy:.0f}/s answered with a queue policy, {without:.0f}/s without"
    if without < CAPACITY_PER_S / 2:
        raise ProbeError(
            f"no answer: {rates}, where {CAPACITY_PER_S:.0f}/s are possible; ask again on a quiet machine"
        )
    if with_policy < without / 2:
        return Check("batcher", f"{server} stalls: {rates}", _NO_POLICY, stops=False)
    return Check("batcher", f"{server} does not stall: {rates}")


def _command(image: str) -> list[str]:
    """The command that asks the tritonserver of ``image``; the probe is its standard input."""
    return ["docker", "run", "--rm", "--interactive", "--network=none", image, "python3", "-"]


def how_to_ask(image: str) -> Check:
    """The row that says how to ask ``image`` where nobody has."""
    command = f"detserve doctor --probe-batcher --image {shlex.quote(image)}"
    return Check("batcher", f"not asked whether it stalls; {command} asks in 10 s")


def _embedded() -> dict[str, float]:
    found = find_distribution()
    with assembled_backends(found) as backends:
        command = [str(found.binary), f"--backend-directory={backends}"]
        try:
            return batcher_probe.measure(command, server_environment(found, os.environ))
        except (RuntimeError, OSError) as error:
            raise ProbeError(f"the embedded server does not answer: {error}") from None


def _in_image(image: str) -> dict[str, float]:
    command = _command(image)
    shown = f"{shlex.join(command)} < {shlex.quote(str(_SCRIPT))}"
    if shutil.which("docker") is None:
        raise ProbeError(f"docker is not installed; run where it is: {shown}")
    script = _SCRIPT.read_text()
    done = subprocess.run(command, input=script, capture_output=True, text=True, errors="replace")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])  # above it is the banner of NVIDIA's images
        return {model: float(answer[model]) for model in batcher_probe.MODELS}
    except (ValueError, LookupError, TypeError):
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        words = [line for line in lines if not line.startswith("Run 'docker")] or ["it says nothing"]
        raise ProbeError(f"{image} gives no answer: {words[-1]}; to see more: {shown}") from None

"""The order of a roll-out, and the way back from each of its steps."""

from __future__ import annotations

import http.client
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from detserve_core.errors import DetserveError
from detserve_server.errors import RolloutError
from detserve_server.gateway.settings import Upstream
from detserve_server.rollout.stop import Stop
from detserve_server.rollout.traffic import Gateway, with_share
from detserve_server.rollout.watch import watch

_READY_POLL_S = 0.5
_GATE_POLL_S = 0.1
_GATE_STOP_S = 5.0


def roll_out(
    gateway: Gateway,
    new: Sequence[Upstream],
    *,
    gate: Callable[[], str],
    share: float,
    watch_s: float,
    max_failed: float,
    access_log: Path,
    on_step: Callable[[str], None],
    stop: Stop,
) -> None:
    """Let ``new`` servers take over from those the gateway has; both run before and after.

    ``gate`` compares them and returns what is wrong, "" for nothing. ``share`` of the requests go to the new
    ones for ``watch_s``; more than ``max_failed`` failures of all requests are a breach. ``stop`` is looked
    at between the steps; a change of the gateway is never broken off.

    Raises :class:`RolloutError` when the new servers are held back; the old ones have all traffic then, or
    the text names the command that gives it back.
    """
    gateway.settings()
    with gateway.alone():
        old = gateway.settings().upstreams
        _refuse_unfinished(gateway, old, new)
        on_step("comparing before the new server has any traffic")
        breach = gate()
        stop.check()
        if breach:
            raise RolloutError(f"held back before it had any traffic: {breach}")
        gateway.remember()
        try:
            on_step(f"{share:.0%} of the requests go to the new server for {watch_s:g} s")
            gateway.direct(with_share(old, new, share))
            seen = watch(access_log, watch_s, max_failed, stop)
            stop.check()
            on_step(f"{seen.requests} requests seen, {seen.failed} failed; comparing again under this load")
            breach = seen.breach(max_failed) or gate()
            stop.check()
            if breach:
                raise RolloutError(breach)
            gateway.direct(new)
        except BaseException as error:
            with suppress(OSError):  # a terminal that was closed
                on_step("all traffic goes back to the old server")
            _give_back(gateway, old, f"{str(error) or repr(error)}; and ")
            if isinstance(error, DetserveError):
                raise RolloutError(f"rolled back: {error}") from None
            raise
    if gateway.wait_until_drained(lambda: stop.wanted):
        on_step("the new server has all the traffic; the old one may be stopped")
    elif gateway.reload_command:
        on_step(
            "the gateway was told to give the new server all the traffic; the old one may be stopped "
            f"{gateway.drain_s():g} s after the gateway's log says that it did"
        )
    else:
        on_step(f"the new server has all the traffic; the old one may be stopped in {gateway.drain_s():g} s")


def roll_back(gateway: Gateway) -> Sequence[Upstream]:
    """Give all traffic to the servers that had it before the last roll-out, and name them.

    This is right wherever a roll-out was broken off, and may be repeated.

    Raises :class:`RolloutError`: there was no roll-out, one is running, nginx does not take the change.
    """
    gateway.settings()
    with gateway.alone():
        old = gateway.before()
        if old is None:
            raise RolloutError(f"{gateway.folder} has seen no roll-out; there is nothing to go back to")
        _give_back(gateway, old)
        return old


def _give_back(gateway: Gateway, old: Sequence[Upstream], before: str = "") -> None:
    try:
        gateway.give_back(old)
    except Exception as stuck:
        kind = RolloutError if isinstance(stuck, (DetserveError, OSError)) else RuntimeError  # a bug
        command = ["detserve", "rollout", "--gateway", str(gateway.folder), "--roll-back"]
        command += ["--reload", gateway.reload_command] if gateway.reload_command else []
        raise kind(
            f"{before}the old server did not get its traffic back: {stuck}; fix that, then run: "
            f"{shlex.join(command)}"
        ) from stuck


def canary_gate(arguments: Sequence[str], secret: str | None, stop: Stop) -> str:
    """Run ``detserve canary``; returns the sentence with which it holds the new server back, or "".

    ``secret`` is what a Triton wants from its gateway, if it wants anything.
    """
    command = [sys.executable, "-m", "detserve.command", "canary", *arguments]
    environment = {**os.environ, **({"DETSERVE_GATEWAY_SECRET": secret} if secret else {})}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = _said(process, stop)
        except BaseException:
            process.kill()
            raise
    stop.check()
    if process.returncode == 0:
        return ""
    lines = said.strip().splitlines()
    if process.returncode == 1 and lines and lines[-1].startswith("detserve: "):
        return lines[-1].removeprefix("detserve: ")
    raise RolloutError(
        f"detserve canary ended with {process.returncode}: {lines[-1] if lines else 'no word'}"
    )


def _said(process: subprocess.Popen[str], stop: Stop) -> str:
    """The errors of a process, which is ended when a stop is wanted."""
    while not stop.wanted:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_GATE_POLL_S)[1]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=_GATE_STOP_S)[1]
    process.kill()
    return process.communicate()[1]


def wait_until_ready(upstream: Upstream, timeout_s: float, stop: Stop) -> None:
    """Wait for a server that loads and warms up its models; raises :class:`RolloutError`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # its gateway asks no proxy either
    url, deadline_s = f"http://{upstream.http}/v2/health/ready", time.monotonic() + timeout_s
    while True:
        stop.check()
        try:
            with opener.open(url, timeout=5):
                return
        except (OSError, http.client.HTTPException, OverflowError) as error:
            if time.monotonic() > deadline_s:
                raise RolloutError(f"{url} does not say that the new server is ready ({error})") from None
        time.sleep(_READY_POLL_S)


def _refuse_unfinished(gateway: Gateway, old: Sequence[Upstream], new: Sequence[Upstream]) -> None:
    if gateway.unfinished():
        raise RolloutError("an earlier roll-out was broken off; go back first with --roll-back")
    addresses = {one.grpc for one in old}
    if not addresses.isdisjoint(one.grpc for one in new):
        raise RolloutError(
            "the new server has traffic already; an earlier roll-out was broken off if not all of it: "
            "go back first with --roll-back"
        )
    before = gateway.before()
    if before is not None and addresses > {one.grpc for one in before}:
        raise RolloutError("an earlier roll-out was broken off; go back first with --roll-back")

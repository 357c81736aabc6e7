"""The order of a roll-out, and the way back from each of its steps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from detserve_server.errors import RolloutError
from detserve_server.gateway.settings import Upstream
from detserve_server.rollout.traffic import Gateway, with_share
from detserve_server.rollout.watch import watch

_READY_POLL_S = 0.5


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
) -> None:
    """Let ``new`` servers take over from those the gateway has; both run before and after.

    ``gate`` compares them and returns what is wrong, "" for nothing. ``share`` of the requests go to the new
    ones for ``watch_s``; more than ``max_failed`` failures of all requests are a breach.

    Raises :class:`RolloutError` when the new servers are held back; the old ones have all traffic then.
    """
    old = gateway.settings().upstreams
    _refuse_unfinished(gateway, old, new)
    on_step("comparing before the new server has any traffic")
    if breach := gate():
        raise RolloutError(f"held back before it had any traffic: {breach}")
    gateway.remember()
    try:
        on_step(f"{share:.0%} of the requests go to the new server for {watch_s:g} s")
        gateway.direct(with_share(old, new, share))
        seen = watch(access_log, watch_s, max_failed)
        on_step(f"{seen.requests} requests seen, {seen.failed} failed; comparing again under this load")
        if breach := seen.breach(max_failed) or gate():
            raise RolloutError(f"rolled back: {breach}")
        gateway.direct(new)
    except BaseException as error:  # Ctrl-C too
        try:
            gateway.direct(old)
        except RolloutError as stuck:
            raise RolloutError(
                f"{error!r}; and the old server did not get its traffic back: {stuck}"
            ) from None
        raise
    if gateway.wait_until_drained():
        on_step("the new server has all the traffic; the old one may be stopped")
    else:
        on_step(f"the new server has all the traffic; the old one may be stopped in {gateway.drain_s():g} s")


def roll_back(gateway: Gateway) -> Sequence[Upstream]:
    """Give all traffic to the servers that had it before the last roll-out, and name them.

    Raises :class:`RolloutError` when there was no roll-out.
    """
    old = gateway.before()
    if old is None:
        raise RolloutError(f"{gateway.folder} has seen no roll-out; there is nothing to go back to")
    gateway.direct(old)
    return old


def canary_gate(arguments: Sequence[str], secret: str | None) -> str:
    """Run ``detserve canary``; returns the sentence with which it holds the new server back, or "".

    ``secret`` is what a Triton wants from its gateway, if it wants anything.
    """
    command = [sys.executable, "-m", "detserve_client.command", "canary", *arguments]
    environment = {**os.environ, **({"DETSERVE_GATEWAY_SECRET": secret} if secret else {})}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    if done.returncode == 1 and lines and lines[-1].startswith("detserve: "):
        return lines[-1].removeprefix("detserve: ")
    raise RolloutError(f"detserve canary ended with {done.returncode}: {lines[-1] if lines else 'no word'}")


def wait_until_ready(upstream: Upstream, timeout_s: float) -> None:
    """Wait for a server that loads and warms up its models; raises :class:`RolloutError`."""
    url, deadline_s = f"http://{upstream.http}/v2/health/ready", time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline_s:
                raise RolloutError(f"{url} does not say that the new server is ready ({error})") from None
        time.sleep(_READY_POLL_S)


def _refuse_unfinished(gateway: Gateway, old: Sequence[Upstream], new: Sequence[Upstream]) -> None:
    addresses = {one.grpc for one in old}
    if not addresses.isdisjoint(one.grpc for one in new):
        raise RolloutError(
            "the new server has traffic already; an earlier roll-out was broken off if not all of it: "
            "go back first with --roll-back"
        )
    before = gateway.before()
    if before is not None and addresses > {one.grpc for one in before}:
        raise RolloutError("an earlier roll-out was broken off; go back first with --roll-back")

"""A roll-out in its own process, for tests that end it: ``FOLDER NEW HOLD KILL_BEFORE``.

``HOLD`` says what the second comparison finds, "" for nothing; "watch" watches for a minute instead. The
process kills itself before the ``KILL_BEFORE``-th thing that it does to others: a file that takes or loses
its name, a program that is run, a signal. 0 kills it nowhere.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from detserve_core.errors import DetserveError
from detserve_server.gateway.settings import Upstream
from detserve_server.rollout.rollout import roll_out
from detserve_server.rollout.stop import stop_wishes
from detserve_server.rollout.traffic import Gateway


def _end_before(number: int) -> None:
    deeds = count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        told = event == "os.kill" and arguments[1] == signal.SIGHUP
        if (told or event in ("os.rename", "os.remove", "subprocess.Popen")) and next(deeds) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(folder: str, new: str, hold: str, kill_before: str) -> None:
    """Run it; what it says goes to the standard output."""
    answers = iter(["", hold])
    with stop_wishes() as stop:
        _end_before(int(kill_before))
        roll_out(
            Gateway(Path(folder)),
            [Upstream(grpc=new, http=new)],
            gate=lambda: next(answers),
            share=0.5,
            watch_s=60 if hold == "watch" else 0,
            max_failed=1,
            access_log=Path(folder) / "access.jsonl",
            on_step=lambda text: print(text, flush=True),
            stop=stop,
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except DetserveError as error:
        sys.exit(f"detserve: {error}")

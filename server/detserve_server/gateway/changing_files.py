"""Changed keys and certificates reach a running nginx, each by itself; what it refuses is said."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from detserve_core.errors import DetserveError, OutputError
from detserve_core.machine.whole_files import write_whole
from detserve_server.errors import GatewayError
from detserve_server.gateway.certificates.expiry import ends_in
from detserve_server.gateway.prom_file import write_state
from detserve_server.gateway.upkeep import ALERTS, killed_workers

_WATCH_S = 0.1
_AGAIN_S = 0.5  # a certificate and its key are not exchanged at once: what is refused once may be half of it
_RETRY_S = 5.0

#: What can change, such as "keys": its files as they are now, by their names in nginx's folder.
Sources = Mapping[str, Callable[[], dict[str, bytes]]]
Stamps = list[tuple[int, int, int] | None]


@dataclass
class ChangingFiles:
    """Files in nginx's ``folder`` that follow the ``sources``; ``check`` raises when nginx refuses them."""

    folder: Path
    sources: Sources
    check: Callable[[], None]
    changes: int = 0
    _good: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take_up(self) -> dict[str, DetserveError]:
        """Put what has changed into the folder, less what is refused; the reasons of that, by source."""
        with self._lock:
            refused: dict[str, DetserveError] = {}
            offered: dict[str, dict[str, bytes]] = {}
            for name, read in self.sources.items():
                try:
                    files = read()
                except (DetserveError, OSError) as error:
                    refused[name] = _sentence(error)
                else:
                    if files != self._good.get(name):
                        offered[name] = files
            refused |= self._offer(offered)
            return refused

    def _offer(self, offered: dict[str, dict[str, bytes]]) -> dict[str, DetserveError]:
        """Offer all together, since they may need each other; where that is refused, one by one."""
        if not offered:
            return {}
        reason = self._refusal(offered)
        if reason is None:
            self.changes += bool(self._good)
            self._good |= offered
            return {}
        if len(offered) == 1:
            return dict.fromkeys(offered, reason)
        refused: dict[str, DetserveError] = {}
        for name, files in offered.items():
            refused |= self._offer({name: files})
        return refused

    def _refusal(self, offered: dict[str, dict[str, bytes]]) -> DetserveError | None:
        """Why nginx refuses what is offered; what was there, by a roll-out perhaps, is then put back."""
        names = {name for files in offered.values() for name in files}
        before = {name: (self.folder / name).read_bytes() for name in names if (self.folder / name).exists()}
        try:
            self._write(offered)
            self.check()
        except (DetserveError, OSError) as error:
            with suppress(OutputError):
                self._write({"before": before})
            return _sentence(error)
        return None

    def _write(self, sources: dict[str, dict[str, bytes]]) -> None:
        for files in sources.values():
            for name, content in files.items():
                write_whole(self.folder / name, content, mode=0o600)


@contextmanager
def watching(
    paths: Sequence[Path],
    seen: Stamps,
    files: ChangingFiles,
    reload: Callable[[], None],
    look: Callable[[], None],
    access_log: Path,
) -> Iterator[None]:
    """Take up files of ``paths`` when they change, and ``reload``; ``seen`` are the stamps of those in force.

    What is refused is tried again until it is taken. It is said once on the standard error stream, again when
    it is in force, and shown in the gateway's state file.
    """
    stopped = threading.Event()
    told: dict[str, str] = {}
    _write_state(access_log, told, files)

    def watch() -> None:
        known, refused, retry_s = seen, dict[str, str](), 0.0
        while not stopped.wait(_WATCH_S):
            look()
            now = stamps(paths)
            if now == known and (not refused or time.monotonic() < retry_s):
                continue
            again, changes = now == known, files.changes
            known = now
            refused = _taken_up(files)
            if files.changes != changes:
                reload()
            retry_s = time.monotonic() + (_RETRY_S if again else _AGAIN_S)
            if again or not refused:
                _tell(told, refused)
            _write_state(access_log, told, files)

    thread = threading.Thread(target=watch, name="detserve-gateway-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def stamps(paths: Sequence[Path]) -> Stamps:
    """What tells a changed file, or a link that points elsewhere; None where there is none."""
    found: Stamps = []
    for path in paths:
        try:
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            found.append(None)
    return found


def _taken_up(files: ChangingFiles) -> dict[str, str]:
    """A bug must not end the watching: later revocations would not happen. It shows its traceback."""
    try:
        return {name: str(refusal) for name, refusal in files.take_up().items()}
    except Exception as error:
        traceback.print_exc()
        return {"files": f"{type(error).__name__}: {error}"}


def _tell(told: dict[str, str], refused: dict[str, str]) -> None:
    for name, reason in refused.items():
        if told.get(name) != reason:
            say(f"the change of {name} is not in force: {reason}; the old stays in force")
    for name in told.keys() - refused.keys():
        say(f"the change of {name} is in force now")
    told.clear()
    told.update(refused)


def _sentence(error: DetserveError | OSError) -> DetserveError:
    return error if isinstance(error, DetserveError) else GatewayError(str(error))


def say(text: str) -> None:
    """One line of the gateway's on the standard error stream."""
    print(f"gateway: {text}", file=sys.stderr, flush=True)


def _write_state(access_log: Path, told: dict[str, str], files: ChangingFiles) -> None:
    with suppress(OutputError):
        write_state(
            access_log,
            {
                "detserve_gateway_change_refused": int(bool(told)),
                "detserve_gateway_changes_total": files.changes,
                **ends_in(files.folder),
                "detserve_gateway_workers_lost_total": killed_workers(files.folder / ALERTS),
            },
        )

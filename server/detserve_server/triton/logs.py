"""From a dead server's log to one sentence."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Triton prints each message as a C string: quotes and line breaks inside it are escaped.
_LINKER = re.compile(r"error while loading shared libraries: ([^:]+): cannot open shared object file")
_SOCKET = re.compile(r"failed to start (\w+) service: .*Socket '[^']*?:(\d+)' already in use")
_LOAD = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: [^:]+: (?P<reason>.*)\"$", re.MULTILINE)
_NO_STUB = re.compile(r"Failed to (?:pre)?initialize Python stub: (?P<reason>.*)$", re.MULTILINE)
_EXECUTE = re.compile(
    r"Failed to process the request\(s\) for model '(?P<model>.+?)_\d+_\d+', message: (?P<reason>.*)\"$",
    re.MULTILINE,
)
_REPOSITORY = re.compile(
    r"model_repository_manager\.cc:\d+\] \"(?:failed to load model '(?P<model>[^']+)': )?"
    r"(?:Invalid argument: )?(?P<reason>.*)\"$",
    re.MULTILINE,
)
_ERROR_LINE = re.compile(r"^(?:\S+ E \d+ |E\d{4} .*?)\S+\] \"?(?P<reason>.*?)\"?$", re.MULTILINE)
_CLEARER = (
    (
        r"unable to find backend library for backend '([^']+)'",
        r"the embedded server has no backend '\1'; "
        r"build the model with --target embedded, or serve it with docker-compose.yml",
    ),
    (
        r"Unable to initialize shared memory .*No space left on device",
        r"shared memory is full; enlarge /dev/shm (docker run --shm-size)",
    ),
    (r"Stub process '[^']+' is not healthy", r"its Python process ended while loading it"),
)
_ALL_ANSWERED = b"Found 0 model versions that have in-flight inferences"
_LAST_BYTES = 4096
_HARMLESS = ("CudaDriverHelper", "CUDA driver version")


@dataclass(frozen=True)
class ServerLog:
    """A log file from the place where this run's text begins (an earlier run may have written to it)."""

    path: Path
    start_bytes: int
    renamed: tuple[str, str] = ("\0", "")

    def text(self) -> str:
        """What this run has written so far, with the second of ``renamed`` in place of the first."""
        with self.path.open("rb") as file:
            file.seek(self.start_bytes)
            return file.read().decode("utf-8", errors="replace").replace(*self.renamed)


def cause_of_death(log: str, ending: str) -> str:
    """Say in one clause why a server did not start, from the text of its log and how its process ended."""
    return known_cause(log) or f"the server {ending} and said last: {_last_words(log)}"


def known_cause(log: str) -> str | None:
    """The clause for a log that names what went wrong, ``None`` for any other log."""
    if found := _LINKER.search(log):
        return f"the shared library {found[1]} is missing on this machine"
    if found := _SOCKET.search(log):
        return f"port {found[2]} for {_purpose(found[1])} is already in use"
    if found := _LOAD.search(log):
        return f"model {found['model']!r} did not load: {_reason(found['reason'])}"
    if found := _NO_STUB.search(log):
        return f"a Python model did not load: {_reason(found['reason'])}"
    if found := _EXECUTE.search(log):
        return f"model {found['model']!r} failed at its warm-up request: {_reason(found['reason'])}"
    if found := _REPOSITORY.search(log):
        model = f"model {found['model']!r} did not load: " if found["model"] else ""
        return f"{model}{_reason(found['reason'])}"
    return None


def nothing_in_flight(log: Path) -> bool:
    """Whether a server that stops has said, in the last it wrote, that it has answered all it had.

    False where the log has been removed.
    """
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        return _ALL_ANSWERED in file.read()
    return False


def _purpose(service: str) -> str:
    return {"GRPC": "gRPC", "Metrics": "metrics"}.get(service, service)


def _reason(text: str) -> str:
    """The message before the Python call stack, on one line, in clearer words where there are some."""
    plain = text.replace('\\"', '"').split("\\n\\nAt:")[0].replace("\\n", " ").strip().rstrip(".;")
    for pattern, clearer in _CLEARER:
        if found := re.search(pattern, plain):
            return found.expand(clearer)
    return plain


def _last_words(log: str) -> str:
    errors = [found["reason"] for found in _ERROR_LINE.finditer(log)]
    telling = [reason for reason in errors if not any(word in reason for word in _HARMLESS)]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if telling:
        return _reason(telling[-1])
    return lines[-1][:300] if lines else "nothing"

"""JSON Lines: one line for each frame of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from detserve_client import Outcome
from detserve_client.video.frames import Frame
from detserve_core.machine.whole_files import blamed_on, whole_file
from detserve_core.text import json_text


def frame_line(frame: Frame, outcome: Outcome) -> str:
    """``frame``, ``time_s`` and either ``detections`` (with ``track_id`` where tracked) or ``error``."""
    entry: dict[str, object] = {"frame": frame.index, "time_s": round(frame.time_s, 6)}
    if outcome.ok:
        entry["detections"] = outcome.detections.to_dicts()
    else:
        entry["error"] = str(outcome.error)
    return json_text(entry) + "\n"


@contextmanager
def lines_file(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that appends text; the file appears whole when the block ends well.

    A pipe or device, such as /dev/stdout, gets each line at once.

    Raises:
        OutputError: it cannot be written.
    """
    into_pipe = path.exists() and not path.is_file() and not path.is_dir()
    with nullcontext(path) if into_pipe else whole_file(path) as target:
        with blamed_on(path):
            lines = target.open("w", buffering=1, encoding="utf-8")

        def append(text: str) -> None:
            with blamed_on(path):
                lines.write(text)

        try:
            yield append
        finally:
            with blamed_on(path):
                lines.close()

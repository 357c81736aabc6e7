"""What a long measurement is doing, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


@contextmanager
def phases() -> Iterator[Callable[[str], None]]:
    """A function to tell each phase to: a spinner on a terminal, a line on stderr elsewhere."""
    terminal = Console(stderr=True, emoji=False)
    if not terminal.is_terminal:
        yield lambda phase: terminal.print(phase, highlight=False, markup=False)
        return
    with terminal.status("starting") as status:
        yield lambda phase: status.update(Text(phase))

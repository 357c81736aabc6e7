"""How a stream that is no longer wanted ends the requests it has in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager


class Cancellation:
    """Said once, by any thread; from then on nothing that was given it goes on."""

    def __init__(self) -> None:
        self._said = threading.Event()
        self._lock = threading.Lock()
        self._hooks: dict[int, Callable[[], object]] = {}
        self._next_key = 0

    def cancel(self) -> None:
        """Call every hook that is set; a hook that is set later is called at once."""
        with self._lock:
            self._said.set()
            hooks = list(self._hooks.values())
        for hook in hooks:
            hook()

    def check(self) -> None:
        """Raise ``CancelledError`` once :meth:`cancel` was called."""
        if self._said.is_set():
            raise CancelledError

    def pause(self, seconds: float) -> None:
        """Sleep; raises ``CancelledError`` as soon as :meth:`cancel` is called."""
        if self._said.wait(seconds):
            raise CancelledError

    @contextmanager
    def on_cancel(self, hook: Callable[[], object]) -> Iterator[None]:
        """Have ``hook`` called, from the cancelling thread, when the block is cancelled."""
        with self._lock:
            key = self._next_key
            self._next_key += 1
            self._hooks[key] = hook
            said = self._said.is_set()
        try:
            if said:
                hook()
            yield
        finally:
            with self._lock:
                del self._hooks[key]

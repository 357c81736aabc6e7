"""When a client may try again. Nothing here waits, so that sync and async clients share it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from detserve_core.errors import ModelNotFound, ServerUnavailable

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_FIRST_PATIENCE_S = 0.75
_MODEL_PATIENCE_S = 8.0  # a server that exchanges a model's version does not know it meanwhile
_MOST_TOKENS = 100.0
_TOKENS_PER_SUCCESS = 0.1


class Retries:
    """What one client knows of its server's outages; shared by all its requests and threads.

    - **One at a time.** From the first failure to the next success, one request at a time tries and the
      others wait, with pauses of 0.1, 0.2, 0.4 ... 2 s between tries, each 50 to 100 % of that by chance.
    - **Budget.** A second try of a request costs a token. There are 100, and ten successes earn one back: a
      server that fails every request sees at most 100 more than it would without retries.
    - **Patience.** A server that has answered before is waited for as long as ``patience_s``, one that never
      did for 0.75 s, and a model that a server no longer knows for 8 s at most: it may have been unloaded on
      purpose. After that, requests fail at once and one of them tries now and then.

    Args:
        patience_s: how long an outage may last before requests fail without waiting.
        now_s: the clock.
    """

    def __init__(self, patience_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._now_s = now_s
        self._lock = threading.Lock()
        self._tokens = _MOST_TOKENS
        self._answered = False
        self._error: ServerUnavailable | ModelNotFound | None = None  # of an outage that lasts
        self._failures = 0
        self._began_s = 0.0
        self._counted_s = 0.0
        self._next_try_s = 0.0

    def wait_s(self) -> float:
        """How long to wait before asking again; 0 means that this request may be sent now.

        Raises:
            ServerUnavailable, ModelNotFound: the outage has lasted longer than the patience.
        """
        if self._error is None:
            return 0.0
        with self._lock:
            if self._error is None:
                return 0.0
            now_s = self._now_s()
            if now_s >= self._next_try_s:
                self._next_try_s = now_s + self._pause_s()
                return 0.0
            if self._next_try_s - self._began_s > self._patience():
                raise self.outage()
            return self._next_try_s - now_s

    def outage(self) -> ServerUnavailable | ModelNotFound:
        """The error for a request that waits and cannot go on waiting."""
        error = self._error or ServerUnavailable("the server cannot be reached")
        return type(error)(str(error))

    def answered(self) -> None:
        """The server gave an answer, be it an error: there is no outage."""
        with self._lock:
            self._answered = True
            self._error = None
            self._failures = 0
            self._tokens = min(_MOST_TOKENS, self._tokens + _TOKENS_PER_SUCCESS)

    def failed(self, started_s: float, error: ServerUnavailable | ModelNotFound) -> bool:
        """Whether the request that was sent at ``started_s`` and failed with ``error`` may be tried again."""
        with self._lock:
            now_s = self._now_s()
            # A server that has gone is another outage than its model.
            if type(error) is not type(self._error):
                self._began_s = now_s
            # Requests that were in flight together fail together, and count as one failure.
            if self._error is None or started_s >= self._counted_s:
                self._failures += 1
                self._counted_s = now_s
                self._next_try_s = now_s + self._pause_s()
            self._error = error
            if self._next_try_s - self._began_s > self._patience() or self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def _patience(self) -> float:
        if not self._answered:
            return min(_FIRST_PATIENCE_S, self._patience_s)
        longest_s = _MODEL_PATIENCE_S if isinstance(self._error, ModelNotFound) else self._patience_s
        return min(longest_s, self._patience_s)

    def _pause_s(self) -> float:
        longest_s = min(_FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10), _LONGEST_PAUSE_S)
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311

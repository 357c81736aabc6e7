"""A step in a process that was forked from the one under test."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

from detserve_client import InferenceError


def in_a_child(do: Callable[[], object]) -> str:
    """What ``do`` raises in a fork of this process, or "" where it ends well."""
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def work() -> None:
        try:
            do()
            answers.put("")
        except InferenceError as error:
            answers.put(str(error))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    if child.exitcode is None:
        child.kill()
        return "it hangs"
    return str(answers.get())

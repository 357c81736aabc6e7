"""Where the python models of a repository run: within the server's process, or each in one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detserve_server.errors import BackendNotCompiled
from detserve_server.in_process.compiling import backend_files
from detserve_server.triton.repository import ModelOutline


class Choice(NamedTuple):
    """``backend`` are the files of the backend for the server's process; where none, ``why_not`` says why."""

    backend: list[Path]
    why_not: str = ""

    def __str__(self) -> str:
        """Where, in words."""
        if self.backend:
            return "within the server's process"
        return f"in their own processes: {self.why_not}"


def choose(models: Sequence[ModelOutline]) -> Choice:
    """The server's process where all python models may run there; compiles its backend the first time."""
    if reason := why_in_processes_of_their_own(models):
        return Choice([], reason)
    try:
        return Choice(backend_files())
    except BackendNotCompiled as error:
        return Choice([], str(error))


def why_in_processes_of_their_own(models: Sequence[ModelOutline]) -> str | None:
    """What keeps python models out of the server's process, or None where all of them may run there.

    All of them or none: both backends go by the name python. A model may where its build said so, with the
    parameter ``process: server``; several instances are to have an interpreter lock (GIL) each; and OpenCV is
    told the most pixels of a picture once for a process.
    """
    python = [model for model in models if model.backend == "python"]
    if not python:
        return "there is no python model"
    for model in python:
        if model.process != "server":
            return f"{model.name} was not built to run within the server's"
        if model.instances != 1:
            return f"{model.name} has {model.instances} instances"
    if len({model.max_picture_pixels for model in python}) > 1:
        return "the models' cards differ in max_picture_pixels"
    return None

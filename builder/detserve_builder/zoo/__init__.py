"""Detectors by name: those that come with detserve, and those of the catalogue, which are downloaded."""

from __future__ import annotations

from pathlib import Path

from detserve_builder.zoo.catalogue import CATALOGUE
from detserve_builder.zoo.committed import committed_checkpoint
from detserve_builder.zoo.get import get

__all__ = ["CATALOGUE", "committed_checkpoint", "find_in_zoo", "get"]


def find_in_zoo(name: str) -> Path | None:
    """The checkpoint of zoo detector ``name``, downloaded where it is not here; None: no such name.

    Raises:
        BuildError: it cannot be downloaded.
    """
    if name in CATALOGUE:
        return get(name)
    return committed_checkpoint(name)

"""A detector of the catalogue, into the cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from detserve_builder.coco_labels import COCO_LABELS
from detserve_builder.errors import BuildError
from detserve_builder.zoo.catalogue import CATALOGUE, ZooDetector, ZooFile
from detserve_builder.zoo.committed import COMMITTED
from detserve_builder.zoo.download import Download, download
from detserve_core.machine.cache import cache_folder, made_in_cache
from detserve_core.machine.whole_files import write_whole

MIRROR = "DETSERVE_ZOO_URL"


def get(name: str, on_bytes: Callable[[int], None] = lambda count: None) -> Path:
    """The checkpoint of catalogue detector ``name`` in the cache folder, its card.json beside it.

    What is there already, with the right sha256, is not downloaded again. ``on_bytes`` is told how many bytes
    of all the detector's files are here.

    Raises:
        BuildError: there is no such detector, or it cannot be downloaded.
        OutputError: the cache folder cannot be written.
    """
    detector = entry(name)
    folder = made_in_cache(cache_folder() / "zoo" / name)
    before = 0
    for file in detector.files:
        wanted = Download(_address(name, file), folder / file.name, file.sha256, file.size_bytes)
        download(wanted, lambda count, before=before: on_bytes(before + count))  # type: ignore[misc]
        before += file.size_bytes
    write_whole(folder / "card.json", (json.dumps(_card(name, detector), indent=2) + "\n").encode())
    return folder / detector.files[0].name


def entry(name: str) -> ZooDetector:
    """What the catalogue says of ``name``; raises :class:`BuildError` naming what there is."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    if name in COMMITTED:
        raise BuildError(f"{name} comes with detserve: build it with detserve build {name}")
    near = get_close_matches(name, CATALOGUE, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise BuildError(f"{name}: no such detector in the zoo; {meant}there are {', '.join(CATALOGUE)}")


def size_bytes(name: str) -> int:
    """Of all files of ``name``."""
    return sum(file.size_bytes for file in entry(name).files)


def is_here(name: str) -> bool:
    """Whether all files of ``name`` are in the cache folder, by their size."""
    folder = cache_folder() / "zoo" / name
    files = [(folder / file.name, file.size_bytes) for file in entry(name).files]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


def _address(name: str, file: ZooFile) -> str:
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return str(file.url)
    if not mirror.startswith(("http://", "https://", "file://")):
        raise BuildError(f"{MIRROR}: got {mirror!r}, expected an address such as https://mirror.example/zoo")
    return f"{mirror.rstrip('/')}/{name}/{file.name}"


def _card(name: str, detector: ZooDetector) -> dict[str, object]:
    weights = detector.files[-1]
    return {
        "name": name,
        **detector.card,
        "labels": COCO_LABELS if detector.labels == "coco" else detector.labels,
        "origin": {"source": str(weights.url), "license": detector.licence, "sha256": weights.sha256},
    }

"""The versions of the images of a deployment below which a known hole is open."""

from __future__ import annotations

import re
from collections.abc import Sequence

from detserve_server.doctor.check import Check

Version = tuple[int, ...]

#: Image -> the first fixed version of each branch that got one, and what it fixes.
FLOORS: dict[str, tuple[tuple[Version, ...], str]] = {
    "nginx": (((1, 30, 7),), "a hole in HTTP/2; 1.28 has had its end"),
    "grafana/grafana": (((11, 6, 14), (12, 2, 8), (12, 3, 6)), "CVE-2026-28380"),
    "prom/prometheus": (((3, 5, 3),), "CVE-2026-42154, memory of remote read"),
    "nvcr.io/nvidia/tritonserver": (((26, 7),), "NVIDIA's bulletins of 2026"),
}


def check_floors(images: Sequence[str]) -> Check:
    """Whether an image is of a version with a known hole; the first such one is named."""
    judged = {image: found for image in images if (found := _judged(image)) is not None}
    for image, (fixed, why) in judged.items():
        if not fixed:
            return Check("known holes", image, why, stops=False)
    if not judged:
        return Check("known holes", "no image whose versions are known here")
    return Check("known holes", f"none in {', '.join(judged)}")


def _judged(image: str) -> tuple[bool, str] | None:
    """Whether the version is fixed, and what to do; None for an image or version that nothing is known of."""
    name, version = _named(image)
    if name not in FLOORS or version is None:
        return None
    floors, what = FLOORS[name]
    advice = f"take {' or '.join(_dotted(floor) for floor in floors)}, which fix {what}"
    if len(floors[0]) == 2:  # a year and a month: each has all fixes before it
        return version >= floors[0], advice
    of_branch = [floor for floor in floors if floor[: len(floor) - 1] == version[: len(floor) - 1]]
    if of_branch:
        return version >= of_branch[0], advice
    if version < floors[-1]:
        return False, advice
    return False, f"{advice}; whether this newer branch has the fix is not known here: see its release notes"


def _named(image: str) -> tuple[str, Version | None]:
    """Name without the hub's prefix, and the numbers that its tag begins with."""
    name, _, tag = image.partition("@")[0].rpartition(":")
    if not name or "/" in tag:  # no tag; the colon is a port's
        return image, None
    digits = re.match(r"v?(\d+(?:\.\d+)+)", tag)
    version = tuple(map(int, digits[1].split("."))) if digits else None
    return name.removeprefix("docker.io/").removeprefix("library/"), version


def _dotted(version: Version) -> str:
    return ".".join(f"{part:02}" if version[0] > 20 and at else str(part) for at, part in enumerate(version))

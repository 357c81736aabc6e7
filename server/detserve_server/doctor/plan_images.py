"""TensorRT plans beside the images that can load them.

A plan loads in the TensorRT that built it, and in no other: each of NVIDIA's images carries one. A
version-compatible plan also loads in later versions of its major and in the next major.
"""

from __future__ import annotations

import re

from detserve_core.repository.plan_record import PlanRecord

TRITON_IMAGE = "nvcr.io/nvidia/tritonserver"
#: What docker-compose.yml serves with where TRITON_IMAGE does not say otherwise.
SERVING_IMAGE = f"{TRITON_IMAGE}:26.11-py3"
#: Triton loads version-compatible plans, which carry their own code, only where it is started with this.
VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"

#: The first and last release (year, month) of NVIDIA's image with each major version of TensorRT.
_RELEASES = {8: ((21, 8), (24, 4)), 10: ((24, 5), (26, 5)), 11: ((26, 6), (26, 11))}


def tensorrt_major(image: str) -> int | None:
    """The major version of TensorRT in ``nvcr.io/nvidia/tritonserver:26.11-py3`` and the like, or None."""
    release = _release(image)
    if release is None:
        return None
    return max((major for major, (first, _) in _RELEASES.items() if release >= first), default=None)


def obstacle(record: PlanRecord, image: str) -> tuple[str, str] | None:
    """Why ``image`` cannot load the plan, and what can: found and fix. None where it can."""
    serving = _release(image)
    if serving is not None and record.image == _text(serving):
        return None
    major = tensorrt_major(image)
    if major is None:
        return (
            f"nothing is known of the TensorRT in {image}",
            f"serve with an image of {TRITON_IMAGE}, or {rebuild(image)}",
        )
    older_image = serving is not None and _text(serving) < record.image
    if record.version_compatible and not older_image and _reaches(record.major, major):
        return None
    if record.major == major and not record.image:
        return (
            f"built with TensorRT {record.tensorrt}, in no image of NVIDIA's",
            f"serve where TensorRT is {record.tensorrt}, or {rebuild(image)}",
        )
    built_in = f" in {record.image}" if record.image else ""
    carries = "perhaps another" if record.major == major else f"TensorRT {major}"
    return (
        f"built with TensorRT {record.tensorrt}{built_in}, {image} has {carries}",
        f"{rebuild(image)}, or serve with TRITON_IMAGE={_image_for(record)}",
    )


def rebuild(image: str = "") -> str:
    """The command that builds plans, in ``image`` where it is given."""
    setting = f"TRITON_IMAGE={image} " if image and image != SERVING_IMAGE else ""
    return f"build it again: {setting}docker compose run --rm build-engines"


def _reaches(built: int, serving: int) -> bool:
    majors = list(_RELEASES)
    return built in majors and 0 <= majors.index(serving) - majors.index(built) <= 1


def _image_for(record: PlanRecord) -> str:
    if record.image:
        return f"{TRITON_IMAGE}:{record.image}-py3"
    _, last = _RELEASES.get(record.major, _RELEASES[max(_RELEASES)])
    return f"{TRITON_IMAGE}:{_text(last)}-py3"


def _release(image: str) -> tuple[int, int] | None:
    found = re.search(r":(\d{2})\.(\d{2})(?:-|$)", image)
    return (int(found[1]), int(found[2])) if found else None


def _text(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]:02d}"

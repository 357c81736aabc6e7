"""The probe of Triton's batcher on a real one, here and in a container."""

from __future__ import annotations

import subprocess

import pytest

from detserve_server.doctor.batcher import check_batcher
from detserve_server.errors import ProbeError
from tests.deploy.base_images import base_images, why_no_engine

_IMAGE = "detserve-test/probe"
_DOCKERFILE = """
FROM {triton}
RUN python3 -m pip install --quiet --no-cache-dir --break-system-packages --root-user-action=ignore "numpy<2"
"""


def test_the_embedded_triton_stalls_where_a_queue_policy_is() -> None:
    row = check_batcher()
    assert row.found.startswith("the embedded server stalls: ")
    assert row.fix == "leave queue policies out of every config.pbtxt, as detserve build does"


@pytest.mark.slow
@pytest.mark.compose
def test_the_triton_of_an_image_is_asked_and_says_what_it_lacks() -> None:
    if reason := why_no_engine():
        pytest.skip(reason)
    triton = base_images()["TRITON_IMAGE"]
    with pytest.raises(ProbeError, match="gives no answer: .* No module named 'numpy'"):
        check_batcher(triton)
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", _IMAGE, "-"],
        input=_DOCKERFILE.format(triton=triton),
        check=True,
        text=True,
    )
    assert check_batcher(_IMAGE).found.startswith(f"{_IMAGE} stalls: ")

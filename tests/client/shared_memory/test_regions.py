"""Frames in shared memory, without a server: the BMP, the pool, whose regions are abandoned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_client.pictures.bitmaps import bmp_bytes, write_bmp
from detserve_client.shared_memory.regions import Region, RegionPool, abandoned, remove_abandoned_names

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")
SHM = Path("/dev/shm")


def noise(width_px: int, height_px: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), np.uint8)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 9))
def test_a_bmp_is_read_back_pixel_by_pixel(width_px: int, height_px: int, seed: int) -> None:
    pixels = noise(width_px, height_px, seed)
    bmp = np.full(bmp_bytes(width_px, height_px), 255, np.uint8)
    write_bmp(bmp, pixels)
    assert np.array_equal(cv2.imdecode(bmp, cv2.IMREAD_COLOR), pixels)


@pytest.mark.parametrize(
    "view",
    [
        lambda pixels: pixels[::2, ::-1],
        lambda pixels: pixels[:, :, ::-1],
        lambda pixels: np.asfortranarray(pixels),
        lambda pixels: pixels.transpose(1, 0, 2),
    ],
)
def test_pixels_need_not_be_contiguous(view) -> None:
    pixels = view(noise(31, 17))
    bmp = np.empty(bmp_bytes(pixels.shape[1], pixels.shape[0]), np.uint8)
    write_bmp(bmp, pixels)
    assert np.array_equal(cv2.imdecode(bmp, cv2.IMREAD_COLOR), pixels)


def test_a_region_holds_a_bytes_tensor() -> None:
    pool, pixels = RegionPool(), noise(21, 9)
    region, new = pool.take(pixels) or pytest.fail("no region")
    assert new
    size = region.write(pixels)
    content = (SHM / region.name).read_bytes()[:size]
    region.remove_name()
    assert int.from_bytes(content[:4], "little") == size - 4
    assert np.array_equal(cv2.imdecode(np.frombuffer(content[4:], np.uint8), cv2.IMREAD_COLOR), pixels)
    assert pool.close() == [region.name]


def test_regions_are_used_again_and_the_pool_has_a_bound() -> None:
    pool = RegionPool(most_bytes=4 << 20)
    small, large = noise(64, 64), noise(900, 700)
    first, _ = pool.take(small) or pytest.fail("no region")
    first.remove_name()
    pool.give_back(first)
    assert pool.take(small) == (first, False)
    second, new = pool.take(large) or pytest.fail("no region")
    second.remove_name()
    assert new
    assert second.size_bytes == 2 << 20
    third, _ = pool.take(small) or pytest.fail("no region")
    third.remove_name()
    assert pool.take(small) is None
    pool.give_back(third)
    assert pool.take(small) == (third, False)
    assert sorted(pool.close()) == sorted([first.name, second.name, third.name])


def test_regions_of_a_server_that_has_gone_are_not_used_again() -> None:
    pool, pixels = RegionPool(), noise(8, 8)
    taken = [pool.take(pixels) or pytest.fail("no region") for _ in range(3)]
    regions = [region for region, _ in taken]
    for region in regions:
        region.remove_name()
    pool.give_back(regions[0])
    pool.lost(regions[1])
    pool.lost(regions[2])  # found lost by another thread, in the same restart
    for region in regions[1:]:
        pool.give_back(region)
    again, new = pool.take(pixels) or pytest.fail("no region")
    again.remove_name()
    assert new
    assert sorted(pool.close()) == sorted(region.name for region in [*regions, again])


def test_no_room_is_an_error_and_no_signal() -> None:
    whole_bytes = os.statvfs(SHM).f_blocks * os.statvfs(SHM).f_frsize
    before = sorted(SHM.glob("detserve-client-*"))
    with pytest.raises(OSError):
        Region(whole_bytes + (1 << 30), 0)
    assert sorted(SHM.glob("detserve-client-*")) == before


KILLED = """
import sys, time, numpy
from detserve_client.shared_memory.regions import RegionPool
region, _ = RegionPool().take(numpy.zeros((4, 4, 3), numpy.uint8))
print(region.name, flush=True)
time.sleep(60)
"""


def test_what_a_killed_client_leaves_is_known_and_removed() -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    pool = RegionPool()
    own, _ = pool.take(noise(4, 4)) or pytest.fail("no region")
    try:
        names = [name, own.name, "somebody-elses", "detserve-client-1-2-3-zz"]
        assert abandoned(names) == []
        remove_abandoned_names()
        assert (SHM / name).exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert abandoned(names) == [name]
        remove_abandoned_names()
        assert not (SHM / name).exists()
        assert (SHM / own.name).exists()
    finally:
        process.kill()
        own.remove_name()
    assert pool.close() == [own.name]
    assert abandoned([own.name]) == [own.name]


def test_a_region_of_another_process_namespace_is_left_alone() -> None:
    pool = RegionPool()
    own, _ = pool.take(noise(4, 4)) or pytest.fail("no region")
    own.remove_name()
    prefix, _, *rest = own.name.rsplit("-", 4)
    assert abandoned(["-".join([prefix, "1", *rest])]) == []
    pool.close()

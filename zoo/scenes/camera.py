"""What light and camera do to a scene: shading, glare, focus, motion, noise, tone, compression."""

from __future__ import annotations

import cv2
import numpy as np

from zoo.scenes.textures import Field, Picture, fractal_noise, smooth_noise


def light(picture: Picture, rng: np.random.Generator) -> Picture:
    """Uneven light, a shadow's edge, glare."""
    height, width = picture.shape[:2]
    gain = np.ones((height, width), np.float32)
    if rng.random() < 0.6:
        gain *= 1 + (smooth_noise(rng, (width, height), (width * 0.7, height * 0.7)) - 0.5) * rng.uniform(
            0.2, 1.3
        )
    if rng.random() < 0.2:  # the edge of a hand's or a phone's shadow
        corners = (rng.random((4, 2)) * (width, height) * 1.4 - (0.2 * width, 0.2 * height)).astype(np.int32)
        shadow = cv2.fillConvexPoly(np.zeros((height, width), np.float32), cv2.convexHull(corners), (1.0,))
        gain *= 1 - cv2.GaussianBlur(shadow, (0, 0), float(rng.uniform(2, 30))) * rng.uniform(0.2, 0.65)
    lit = picture * gain[..., None]
    if rng.random() < 0.18:
        centre = rng.random(2) * (width, height)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        radius_px = max(width, height) * rng.uniform(0.03, 0.25)
        spot = np.exp(
            -(((x - centre[0]) / radius_px) ** 2 + ((y - centre[1]) / radius_px / rng.uniform(0.3, 2)) ** 2)
        )
        lit = lit + spot[..., None] * rng.uniform(60, 220)
    return np.clip(lit, 0, 255).astype(np.uint8)


def _motion_kernel(rng: np.random.Generator, length_px: float) -> Field:
    size = max(3, int(length_px) | 1)
    kernel = np.zeros((size, size), np.float32)
    angle, centre = rng.uniform(0, np.pi), (size - 1) / 2
    ends = [
        (round(centre + sign * np.cos(angle) * centre), round(centre + sign * np.sin(angle) * centre))
        for sign in (-1, 1)
    ]
    cv2.line(kernel, ends[0], ends[1], (1.0,), 1, cv2.LINE_AA)
    return np.asarray(kernel / kernel.sum(), np.float32)


def blur(picture: Picture, rng: np.random.Generator, unit_px: float) -> Picture:
    """Defocus and shake; `unit_px` is the length that one unit of blur has at this picture's size."""
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), max(0.3, unit_px * float(rng.exponential(0.9))))  # type: ignore[assignment]
    if rng.random() < 0.18:
        kernel = _motion_kernel(rng, unit_px * float(rng.uniform(2, 9)))
        picture = cv2.filter2D(picture, -1, kernel)  # type: ignore[assignment]
    return picture


def _tone(picture: Picture, rng: np.random.Generator) -> Picture:
    """Contrast loss, exposure, gamma, colour cast or no colour at all."""
    values = np.arange(256, dtype=np.float32) / 255
    low, high = rng.uniform(0, 0.3) * (rng.random() < 0.5), 1 - rng.uniform(0, 0.4) * (rng.random() < 0.5)
    curve = low + (high - low) * values ** float(np.exp(rng.normal(0, 0.3)))
    cast = np.exp(rng.normal(0, 0.07, 3))
    table = np.clip(curve[:, None] * cast * 255, 0, 255).astype(np.uint8)
    picture = cv2.LUT(picture, table[None])  # type: ignore[assignment]
    if rng.random() < 0.25:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[assignment]
    return picture


def _noise(picture: Picture, rng: np.random.Generator) -> Picture:
    sigma = float(rng.exponential(5))
    height, width = picture.shape[:2]
    grain = rng.standard_normal((height, width, 1 if rng.random() < 0.5 else 3), dtype=np.float32) * sigma
    if rng.random() < 0.3:  # what a phone's denoiser leaves: blotches
        grain = grain[..., :1] * 0.3 + (fractal_noise(rng, (width, height))[..., None] - 0.5) * sigma * 3
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def photograph(picture: Picture, rng: np.random.Generator) -> Picture:
    """Take the picture: light, blur, tone, noise, JPEG; at times through a low resolution."""
    unit_px = max(picture.shape[:2]) / 416
    picture = light(picture, rng)
    height, width = picture.shape[:2]
    picture = blur(picture, rng, unit_px)
    is_small = rng.random() < 0.35
    if is_small:  # thumbnails, crops of video frames: few pixels, enlarged later
        factor = rng.uniform(160, 340) / max(width, height)
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    picture = _tone(picture, rng)
    if rng.random() < 0.7:
        picture = _noise(picture, rng)
    if rng.random() < 0.15:  # sharpening inside the camera
        soft = cv2.GaussianBlur(picture, (0, 0), 1.2)
        picture = cv2.addWeighted(picture, 1.9, soft, -0.9, 0)  # type: ignore[assignment]
    if rng.random() < 0.6:
        quality = int(rng.integers(25, 95))
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    if is_small:
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return picture

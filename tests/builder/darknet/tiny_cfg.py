"""Detectors of a few layers, as .cfg text."""

from __future__ import annotations

WIDTH, HEIGHT, NUM_CLASSES = 40, 16, 1
_DEFAULTS = {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "linear"}


def conv(**options: object) -> str:
    """A [convolutional] section."""
    return section("convolutional", **{**_DEFAULTS, **options})


def section(name: str, **options: object) -> str:
    """Any section."""
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


def detector(middle: str) -> str:
    """A network on 40x16 pictures: layer 0 halves them to 8 channels, ``middle``, then one [yolo] map."""
    return (
        section("net", width=WIDTH, height=HEIGHT, channels=3)
        + conv(stride=2, batch_normalize=1, activation="leaky")
        + middle
        + conv(filters=3 * (5 + NUM_CLASSES), size=1)
        + section("yolo", mask="0,1,2", anchors="5,7, 9,4, 14,20", classes=NUM_CLASSES, num=3)
    )

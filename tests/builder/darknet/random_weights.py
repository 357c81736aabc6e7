"""Random .weights for any .cfg: sizes counted here a second time, in Darknet's order."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np


def save_network(folder: Path, cfg: str, *, version: tuple[int, int] = (0, 2), seed: int = 0) -> Path:
    """Write net.cfg and net.weights into ``folder``; returns the .cfg."""
    (folder / "net.cfg").write_text(cfg)
    major, minor = version
    header = struct.pack("<3i", major, minor, 0) + struct.pack("<q" if version >= (0, 2) else "<i", 1000)
    (folder / "net.weights").write_bytes(header + random_values(cfg, seed).astype("<f4").tobytes())
    return folder / "net.cfg"


def random_values(cfg: str, seed: int = 0) -> np.ndarray:
    """The float32 values behind the header; activations keep about the same size from layer to layer."""
    rng = np.random.default_rng(seed)
    values: list[np.ndarray] = []
    channels: list[int] = []
    net, *layers = sections(cfg)
    for name, options in layers:
        given = channels[-1] if channels else int(net[1]["channels"])
        if name == "convolutional":
            filters = int(options["filters"])
            size, groups = int(options.get("size", 1)), int(options.get("groups", 1))
            fan_in = given // groups * size * size
            values.append(rng.normal(0, 0.1, filters))
            if int(options.get("batch_normalize", 0)):
                values += [rng.uniform(1, 4, filters), rng.normal(0, 0.1, filters)]
                values.append(rng.uniform(5, 15, filters))
            values.append(rng.normal(0, fan_in**-0.5, filters * fan_in))
            given = filters
        elif name == "route":
            sources = [int(index) for index in options["layers"].split(",")]
            given = sum(channels[index] for index in sources) // int(options.get("groups", 1))
        elif name in ("reorg", "reorg3d"):
            given *= int(options["stride"]) ** 2
        elif name == "scale_channels":
            given = channels[int(options["from"])]
        channels.append(given)
    return np.concatenate(values).astype(np.float32)


def sections(cfg: str) -> list[tuple[str, dict[str, str]]]:
    """Name and options of every section."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in cfg.splitlines():
        text = re.sub(r"\s|#.*", "", line)
        if text.startswith("["):
            found.append((text.strip("[]"), {}))
        elif "=" in text:
            key, value = text.split("=", 1)
            found[-1][1][key] = value
    return found


def narrowed(cfg: str, divisor: int) -> str:
    """The same network with a fraction of the filters, but for those that a [yolo] section reads."""
    blocks = re.split(r"(?m)^(?=\[)", cfg)
    for index, (block, following) in enumerate(zip(blocks, [*blocks[1:], ""], strict=True)):
        if not following.startswith("[yolo]"):
            blocks[index] = re.sub(
                r"(?m)^(filters\s*=\s*)(\d+)", lambda found: f"{found[1]}{int(found[2]) // divisor}", block
            )
    return "".join(blocks)


def resized(cfg: str, width: int, height: int) -> str:
    """The same network for another input size."""
    cfg = re.sub(r"(?m)^width\s*=.*$", f"width={width}", cfg, count=1)
    return re.sub(r"(?m)^height\s*=.*$", f"height={height}", cfg, count=1)

"""What an exporter wrote about the size of the network's input, where the graph leaves it open."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from detserve_core.card import Wh


def size_in_metadata(metadata: Mapping[str, str], configs: Mapping[str, Mapping[str, Any]]) -> Wh | None:
    """Width and height: Ultralytics' ``imgsz`` ([height, width]), or Hugging Face's ``size``."""
    size = configs.get("preprocessor_config.json", {}).get("size")
    if isinstance(size, Mapping) and "height" in size and "width" in size:
        return _wh([size["height"], size["width"]])
    try:
        return _wh(ast.literal_eval(metadata.get("imgsz", "")))
    except (ValueError, SyntaxError):
        return None


def _wh(height_width: Any) -> Wh | None:
    if isinstance(height_width, int):
        height_width = [height_width, height_width]
    if not isinstance(height_width, list | tuple) or len(height_width) != 2:
        return None
    height, width = height_width
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return width, height
    return None

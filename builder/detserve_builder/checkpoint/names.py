"""The class names that an exporter wrote into the file or beside it."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any


def names_in_metadata(metadata: Mapping[str, str], configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names by class index: ``names`` of the metadata, or Hugging Face's ``id2label``; empty where there are
    none.

    Ultralytics writes ``names`` as a Python dict or list, others as JSON, with numbers or text as keys. Names
    that are the class numbers themselves say nothing: untrained networks have them.
    """
    written = metadata.get("names", "")
    names: Any = None
    for read in (ast.literal_eval, json.loads):
        try:
            names = read(written)
            break
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    if names is None:
        names = configs.get("config.json", {}).get("id2label")
    if isinstance(names, Mapping):
        names = _in_order(names)
    if not isinstance(names, list | tuple) or not names:
        return []
    texts = [str(name) for name in names]
    untold = [str(index) for index in range(len(texts))], [f"LABEL_{index}" for index in range(len(texts))]
    return [] if texts in untold else texts


def _in_order(names: Mapping[Any, Any]) -> list[Any] | None:
    """The values in the order of keys 0, 1, 2 …, or 1, 2, 3 …; None where a number is left out."""
    try:
        by_number = {int(key): value for key, value in names.items()}
    except (TypeError, ValueError):
        return None
    first = min(by_number, default=0)
    if first not in (0, 1) or sorted(by_number) != list(range(first, first + len(by_number))):
        return None
    return [by_number[number] for number in sorted(by_number)]

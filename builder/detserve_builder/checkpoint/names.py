"""The class names that an exporter wrote into the file or beside it."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any


def written_names(metadata: Mapping[str, str], configs: Mapping[str, Mapping[str, Any]]) -> dict[int, str]:
    """Names by class number: ``names`` of the metadata, or Hugging Face's ``id2label``; empty where none are.

    Ultralytics writes ``names`` as a Python dict or list, others as JSON, with numbers or text as keys.
    RapidAI writes them as ``character``, one a line.
    """
    names = _parsed(metadata.get("names", ""))
    if names is None:
        names = metadata.get("character", "").splitlines()
    if not names:
        names = configs.get("config.json", {}).get("id2label")
    if isinstance(names, list | tuple):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping):
        return {}
    try:
        return {int(key): str(names[key]) for key in sorted(names, key=int)}
    except (TypeError, ValueError):
        return {}


def labels_of(names: Mapping[int, str], num_classes: int | None) -> tuple[list[str], str]:
    """``names`` as one label a class, or none and the reason; ``num_classes`` is the graph's, if known.

    Numbers may begin at 1 where there are as many names as classes; a number that is left out in between is
    class_N. Names that are the class numbers themselves say nothing: untrained networks have them.
    """
    if not names:
        return [], ""
    first, last, texts = min(names), max(names), list(names.values())
    if texts in ([str(number) for number in names], [f"LABEL_{number}" for number in names]):
        return [], "the file's names are only the class numbers"
    if first in (0, 1) and last - first + 1 == len(names) and num_classes in (None, len(names)):
        return texts, ""
    if first >= 0 and last + 1 == (num_classes or last + 1):
        return [names.get(number, f"class_{number}") for number in range(last + 1)], ""
    numbered = f"{len(names)} names, numbers {first} to {last}"
    return [], f"the file's {numbered}, do not fit the {num_classes} classes of its graph"


def _parsed(written: str) -> Any:
    for read in (ast.literal_eval, json.loads):
        try:
            return read(written)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None

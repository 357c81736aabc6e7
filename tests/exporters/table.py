"""What is proven how: a line per exported file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = (
    *("exporter", "versions", "model", "options", "task", "opset"),
    *("compared with", "rows", "boxes px", "scores", "result"),
)


@dataclass
class Row:
    """One file; ``said`` are the card fields it needs, ``box_px`` and ``score`` the largest differences."""

    exporter: str
    expected: dict[str, Any]
    said: str = ""
    rows: int = 0
    box_px: float = 0.0
    score: float = 0.0
    passed: bool = False
    sentence: str = ""


def write_table(path: Path, rows: list[Row]) -> None:
    """Markdown, a line per row."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(_cells(row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def _cells(row: Row) -> list[str]:
    said = row.expected
    measured = [str(row.rows), f"{row.box_px:.3f}", f"{row.score:.5f}"] if row.rows else ["", "", ""]
    verdict = "equal" if row.rows else f"refused: {row.sentence}"
    return [
        row.exporter,
        ", ".join(f"{package} {version}" for package, version in said["versions"].items()),
        said["model"],
        said["options"] + (f" with a card that says {row.said}" if row.said else ""),
        said["task"],
        str(said["opset"]),
        said["reference"],
        *measured,
        verdict if row.passed else f"**not proven** {row.sentence}",
    ]


def _line(cells: Any) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

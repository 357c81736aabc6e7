"""One table, four ways to see it: Markdown, CSV, JSON and the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from detserve_core.errors import OutputError
from detserve_core.machine.whole_files import write_whole
from detserve_core.text import json_text, readable
from detserve_perf.errors import MeasurementError

Cell = str | int | float | None
_WHOLE_CHARACTERS = 24  # longer names may break over lines, or they push figures off the terminal
_UNBOUNDED_CHARACTERS = 10_000  # what is measured in less is cut to it


@dataclass(frozen=True)
class Column:
    """A column: its heading, the key in CSV, and the decimals that people see."""

    heading: str
    key: str
    decimals: int = 2


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns. A None is printed as a dash and left empty in CSV."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def to_markdown(self) -> str:
        """A heading and a pipe table, numbers to the right."""
        numeric = [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]
        lines = [
            f"## {self.title}",
            "",
            _piped(column.heading for column in self.columns),
            _piped("---:" if right else "---" for right in numeric),
            *(_piped(self._shown(row)) for row in self.rows),
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """A heading line of keys, then full precision."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return stream.getvalue()

    def print(self, console: Console) -> None:
        """Draw it on the terminal; rows become columns where it would be too wide."""
        drawn = self._drawn()
        unbounded = console.options.update(width=_UNBOUNDED_CHARACTERS)
        narrow = Measurement.get(console, unbounded, drawn).minimum <= console.width
        console.print(drawn if narrow else self._drawn_on_its_side())
        console.print()

    def _drawn(self) -> RichTable:
        drawn = self._empty()
        for i, column in enumerate(self.columns):
            text = any(isinstance(row[i], str) for row in self.rows)
            longest = max((len(self._shown(row)[i]) for row in self.rows), default=0)
            drawn.add_column(
                column.heading,
                justify="left" if text else "right",
                no_wrap=text and longest <= _WHOLE_CHARACTERS,
                overflow="fold",
                min_width=max(*map(len, column.heading.split()), 0 if text else longest),
            )
        for row in self.rows:
            drawn.add_row(*map(Text, self._shown(row)))
        return drawn

    def _drawn_on_its_side(self) -> RichTable:
        drawn = self._empty(show_header=False)
        for _ in range(1 + len(self.rows)):
            drawn.add_column(overflow="fold")
        for heading, *cells in zip(
            (column.heading for column in self.columns), *map(self._shown, self.rows), strict=True
        ):
            drawn.add_row(*map(Text, (heading, *cells)))
        return drawn

    def _empty(self, *, show_header: bool = True) -> RichTable:
        return RichTable(
            title=self.title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            show_header=show_header,
            collapse_padding=True,
        )

    def _shown(self, row: Sequence[Cell]) -> list[str]:
        return [_shown(cell, column.decimals) for cell, column in zip(row, self.columns, strict=True)]


@dataclass(frozen=True)
class Figure:
    """A picture of a report: its title, its path in the report's folder, and what encodes it."""

    title: str
    file: str
    encode: Callable[[], bytes]


@dataclass(frozen=True)
class Report:
    """What one command measured: tables for people, ``data`` (JSON-ready, with every figure) for programs."""

    name: str
    title: str
    tables: Sequence[Table]
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    data: dict[str, Any]
    figures: Sequence[Figure] = ()

    def write(self, folder: Path) -> list[Path]:
        """Write the figures, NAME.md, NAME.json, NAME.csv and NAME_2.csv for a second table.

        Each appears whole or not at all. Raises :class:`MeasurementError` where one cannot be written.
        """
        files = {
            f"{self.name}.md": self.to_markdown(),
            f"{self.name}.json": json_text(self.data, indent=2) + "\n",
        }
        for number, table in enumerate(self.tables, 1):
            files[f"{self.name}.csv" if number == 1 else f"{self.name}_{number}.csv"] = table.to_csv()
        try:
            for figure in self.figures:
                write_whole(folder / figure.file, figure.encode())
            for name, text in files.items():
                write_whole(folder / name, readable(text).encode())
        except OutputError as error:
            raise MeasurementError(f"{error}; choose another --output") from None
        return [folder / name for name in (*files, *(figure.file for figure in self.figures))]

    def to_markdown(self) -> str:
        """The whole report as one page."""
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts if value)
        notes = "\n".join(f"- {note}" for note in self.notes)
        parts = [f"# {self.title}\n", facts + "\n", *(table.to_markdown() for table in self.tables)]
        parts += [f"![{figure.title}]({figure.file})\n" for figure in self.figures]
        if notes:
            parts.append(f"## Notes\n\n{notes}\n")
        return "\n".join(parts)

    def print(self, console: Console) -> None:
        """Tables, then notes."""
        for table in self.tables:
            table.print(console)
        for note in self.notes:
            console.print(f"note: {note}", highlight=False, markup=False)


def _piped(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _shown(cell: Cell, decimals: int) -> str:
    if cell is None:
        return "-"
    return f"{cell:.{decimals}f}" if isinstance(cell, float) else str(cell)

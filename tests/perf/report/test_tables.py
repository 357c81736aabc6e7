"""The same table as Markdown, CSV, JSON and on the terminal."""

import csv
import dataclasses
import io
import json

import pytest
from rich.console import Console

from detserve_perf.errors import MeasurementError
from detserve_perf.report.tables import Column, Figure, Report, Table

TABLE = Table(
    title="Speed",
    columns=(Column("step", "step"), Column("pictures/s", "pictures_per_s", 1), Column("n", "n")),
    rows=(("a|b\nc", 12.345, 7), ("[red]d", None, 8)),
)
REPORT = Report(
    "speed",
    "Speed of codes",
    [TABLE, TABLE],
    [("date", "today"), ("absent", "")],
    ["noisy"],
    {"figure": 12.345},
)


def test_markdown_escapes_rounds_and_aligns() -> None:
    assert TABLE.to_markdown().splitlines() == [
        "## Speed",
        "",
        "| step | pictures/s | n |",
        "| --- | ---: | ---: |",
        "| a\\|b c | 12.3 | 7 |",
        "| [red]d | - | 8 |",
    ]


def test_csv_keeps_every_digit() -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.to_csv())))
    assert rows[0] == {"step": "a|b\nc", "pictures_per_s": "12.345", "n": "7"}
    assert rows[1]["pictures_per_s"] == ""


def test_the_terminal_shows_labels_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=60)
    REPORT.print(console)
    shown = console.file.getvalue()
    assert "[red]d" in shown
    assert "12.3" in shown
    assert "note: noisy" in shown


@pytest.mark.parametrize("columns", [3, 14])
def test_no_figure_is_cut_at_80_columns(columns: int) -> None:
    named = [Column("model", "model"), *(Column(f"accepted p{i} ms", f"p{i}") for i in range(columns))]
    rows = [("codes_yolo", *(1234.5 + i + 100 * row for i in range(columns))) for row in range(3)]
    console = Console(file=io.StringIO(), width=80)
    Table("Under overload", named, rows).print(console)
    lines = console.file.getvalue().splitlines()
    shown = " ".join(lines).split()
    assert max(map(len, lines)) <= 80
    assert all(f"{cell:.2f}" in shown for row in rows for cell in row[1:])
    assert shown.count("codes_yolo") == 3


def test_a_report_is_written_whole(tmp_path) -> None:
    folder = tmp_path / "new" / "folder"
    written = REPORT.write(folder)
    assert {path.name for path in written} == {"speed.md", "speed.json", "speed.csv", "speed_2.csv"}
    assert sorted(written) == sorted(folder.iterdir())
    assert json.loads((folder / "speed.json").read_text()) == {"figure": 12.345}
    page = (folder / "speed.md").read_text()
    assert page.startswith("# Speed of codes\n\n- date: today\n\n## Speed\n")
    assert page.endswith("## Notes\n\n- noisy\n")


def test_figures_lie_beside_the_page_that_shows_them(tmp_path) -> None:
    figure = Figure("A curve", "deep/curve.png", lambda: b"png")
    report = dataclasses.replace(REPORT, figures=[figure])
    assert tmp_path / "deep/curve.png" in report.write(tmp_path)
    assert (tmp_path / "deep/curve.png").read_bytes() == b"png"
    assert "![A curve](deep/curve.png)\n" in (tmp_path / "speed.md").read_text()


def test_a_place_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MeasurementError, match="choose another --output"):
        REPORT.write(tmp_path / "file")

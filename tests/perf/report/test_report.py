"""The HTML page and what it says of an earlier run."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_perf.errors import MeasurementError
from detserve_perf.report.machine import this_machine
from detserve_perf.report.measurements import Metric, metrics, read_measurements
from detserve_perf.report.page import html_report
from detserve_perf.report.regressions import RULE, changes
from detserve_perf.speed.compare import Contest, ContestRun, ContestSettings
from detserve_perf.speed.compare_report import compare_report, contest_table
from detserve_perf.speed.reference import ReferenceRun
from detserve_perf.speed.sweep import Sweep, SweepSettings, with_ratios
from detserve_perf.speed.sweep_report import sweep_report
from tests.perf.speed.test_sweep import FOUR, ONE, REFERENCES, RUNS

MACHINE = this_machine(triton="2.51.0")


def _contest_run(name: str, protocol: str, number: int, ratio: float) -> ContestRun:
    return ContestRun(name, protocol, number, 100 * ratio, 10, 20 * number + 30, 2**28, 14, 0.5, ratio)


CONTEST = Contest(
    "codes",
    64,
    (
        _contest_run("detserve", "gRPC", 0, 0.9),
        _contest_run("fastapi", "HTTP", 0, 0.7),
        _contest_run("detserve", "gRPC", 1, 1.0),
        _contest_run("fastapi", "HTTP", 1, 0.8),
    ),
    tuple(ReferenceRun(speed, 0.95) for speed in (100, 110, 100)),
    MACHINE,
    ("<noisy> & busy",),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep, a comparison and an accuracy, as their commands write them."""
    own = tmp_path / "now"
    runs = tuple(with_ratios(RUNS, REFERENCES))
    swept = Sweep("codes", "grpc://localhost:8001", 20, runs, tuple(REFERENCES), MACHINE, ())
    sweep_report(swept, SweepSettings((ONE, FOUR), 30, 2)).write(own)
    compare_report(CONTEST, ContestSettings(4, 30, 2)).write(own)
    table = {"ap": 0.65, "ap50": 0.9, "ap75": 0.7, "pictures": 8, "boxes": 9, "detections": 194}
    accuracy = {"model": "codes", "table": table, "machine": asdict(MACHINE), "notes": []}
    (own / "accuracy.json").write_text(json.dumps(accuracy))
    return own


class _Page(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_needs_nothing_beside_itself(folder: Path) -> None:
    text = html_report([read_measurements(folder)])
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"url\((?!#)", text)
    page = _Page(text)
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    links = [
        value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "xlink:href")
    ]
    assert all(str(link).startswith("#") for link in links)


def test_the_page_holds_its_figures_and_their_numbers(folder: Path) -> None:
    text = html_report([read_measurements(folder)])
    page = _Page(text)
    assert [tag for tag, _ in page.tags].count("svg") == 4  # speed, accuracy, steps, servers
    for words in ("pictures/s", "detector: queue", "fastapi (HTTP)", "codes: 0.650", MACHINE.cpu, "2.51.0"):
        assert words in text
    assert "&lt;noisy&gt; &amp; busy" in text
    identifiers = [attrs["id"] for _, attrs in page.tags if attrs.get("id", "").startswith(("p", "m"))]  # type: ignore[union-attr]
    clips = [one for one in identifiers if re.fullmatch(r"[pm][0-9a-f]{10}", str(one))]
    assert len(clips) == len(set(clips))  # the figures do not share clip paths
    assert "#010203" not in text
    assert "currentColor" in text


def test_worse_is_marked_and_noise_is_not(folder: Path, tmp_path: Path) -> None:
    then = tmp_path / "then"
    then.mkdir()
    for file in folder.glob("*.json"):
        (then / file.name).write_bytes(file.read_bytes())
    compared = json.loads((then / "compare.json").read_text())
    for run in compared["runs"]:
        run["ratio"] *= 1.5 if run["name"] == "fastapi" else 1.05
    (then / "compare.json").write_text(json.dumps(compared))
    now, earlier = read_measurements(folder), read_measurements(then)
    text = html_report([now], earlier)
    assert "1 of " in text
    assert RULE in text
    verdicts = {change.metric.name: change.verdict for change in changes(metrics(now), metrics(earlier))}
    assert verdicts["codes behind fastapi, HTTP: served / in-process"] == "worse"
    assert verdicts["codes behind detserve, gRPC: served / in-process"] == "same"
    assert "No figure is worse" in html_report([now], now)


def _metric(*values: float, higher: bool = True, least_change: float | None = None) -> Metric:
    return Metric("x", "", higher, values, least_change)


@pytest.mark.parametrize(
    ("now", "earlier", "verdict"),
    [
        (_metric(80, 82), _metric(100, 101), "worse"),
        (_metric(100, 101), _metric(80, 82), "better"),
        (_metric(80, 82, higher=False), _metric(100, 101, higher=False), "better"),
        (_metric(80, 99), _metric(100, 101), "same"),
        (_metric(99, 99), _metric(100, 100), "same"),
        (_metric(50), _metric(100, 101), "not judged"),
        (_metric(0.60, least_change=0.002), _metric(0.61, least_change=0.002), "worse"),
        (_metric(0.609, least_change=0.002), _metric(0.61, least_change=0.002), "same"),
    ],
)
def test_the_rule(now: Metric, earlier: Metric, verdict: str) -> None:
    (change,) = changes([now], [earlier])
    assert change.verdict == verdict


@given(st.lists(st.floats(1, 1e4), min_size=2, max_size=5))
def test_a_run_is_the_same_as_itself(values: list[float]) -> None:
    (change,) = changes([_metric(*values)], [_metric(*values)])
    assert change.verdict == "same"


def test_wrong_folders_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MeasurementError, match=r"has no measurement; expected some of sweep\.json"):
        read_measurements(tmp_path)
    for damaged in ("{", "[]"):
        (tmp_path / "sweep.json").write_text(damaged)
        with pytest.raises(MeasurementError, match=r"sweep\.json"):
            read_measurements(tmp_path)
    (tmp_path / "sweep.json").write_text('{"model": "codes"}')
    with pytest.raises(MeasurementError, match="another version"):
        html_report([read_measurements(folder)], read_measurements(tmp_path))


def test_an_earlier_run_of_something_else_is_refused(tmp_path: Path, folder: Path) -> None:
    accuracy = json.loads((folder / "accuracy.json").read_text())
    (tmp_path / "accuracy.json").write_text(json.dumps({**accuracy, "model": "other"}))
    with pytest.raises(MeasurementError, match="no figure in common"):
        html_report([read_measurements(folder)], read_measurements(tmp_path))


def test_servers_are_ranked_under_in_process() -> None:
    rows = contest_table(CONTEST.runs, CONTEST.references).rows
    assert [row[0] for row in rows] == ["in-process", "detserve", "fastapi"]
    assert rows[1][2:5] == pytest.approx([95, 100 * 10 / 95, 0.95])
    assert rows[1][7] == pytest.approx(256)

"""What the pages name is there, and the built site loads nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_every_test_of_the_attack_table_is_there() -> None:
    rows = re.findall(r"^\|.*\| (`[^|]*`) \|$", (CHECKOUT / "docs/explanation/security.md").read_text(), re.M)
    assert len(rows) > 40
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    missing = [name for name in named if not (CHECKOUT / "tests" / name).is_file()]
    assert not missing, f"docs/explanation/security.md names tests that are not there: {missing}"


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (CHECKOUT / "README.md").read_text()
    assert text.count("\n") <= 150
    links = re.findall(r"\]\(([^)#]+)\)", text)
    gone = [link for link in links if "://" not in link and not (CHECKOUT / link).exists()]
    assert links
    assert not gone, gone

"""What ``detserve build`` says beside what it builds."""

from __future__ import annotations

from pathlib import Path

from tests.command import detserve


def test_the_name_is_the_files_and_another_file_under_it_is_said(tmp_path: Path) -> None:
    first = detserve("build", "codes_ssd", "--repository", tmp_path)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "codes_ssd/detserve.json").is_file()
    again = detserve("build", "codes_ssd", "--repository", tmp_path)
    assert "replaced" not in again.stderr
    other = detserve("build", "codes_yolo", "--name", "codes_ssd", "--repository", tmp_path)
    assert "replaced codes_ssd, which was built from another file" in other.stderr

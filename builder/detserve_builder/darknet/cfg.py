"""A Darknet .cfg -> its sections: ``[name]``, then ``key=value`` lines; # and ; begin comments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from detserve_builder.errors import BuildError

_T = TypeVar("_T", int, float)


@dataclass(frozen=True)
class Section:
    """One section. ``where`` is file, line and name, for messages."""

    name: str
    where: str
    options: dict[str, str] = field(default_factory=dict)

    def text(self, key: str, default: str) -> str:
        """The value as it stands."""
        return self.options.get(key, default)

    def integer(self, key: str, default: int | None = None, *, at_least: int | None = None) -> int:
        """An integer; raises :class:`BuildError` for another value or one too small."""
        if key not in self.options and default is not None:
            return default
        value = self._number(self._required(key), key, int, "an integer")
        if at_least is not None and value < at_least:
            raise BuildError(f"{self.where}: {key}={value}, expected at least {at_least}")
        return value

    def number(self, key: str, default: float) -> float:
        """A number; raises :class:`BuildError` where it is not one."""
        return self._number(self.options[key], key, float, "a number") if key in self.options else default

    def integers(self, key: str) -> list[int]:
        """Integers between commas; raises :class:`BuildError` where they are missing or none."""
        return [self._number(part, key, int, "integers") for part in _parts(self._required(key))]

    def numbers(self, key: str) -> list[float]:
        """Numbers between commas; raises :class:`BuildError` where they are missing or none."""
        return [self._number(part, key, float, "numbers") for part in _parts(self._required(key))]

    def _required(self, key: str) -> str:
        if key not in self.options:
            raise BuildError(f"{self.where}: {key}= is missing")
        return self.options[key]

    def _number(self, text: str, key: str, kind: Callable[[str], _T], expected: str) -> _T:
        try:
            return kind(text)
        except ValueError:
            raise BuildError(f"{self.where}: {key}={self.options[key]}, expected {expected}") from None


def parse_cfg(path: Path) -> list[Section]:
    """Every section in order, the first being [net]. Where a key comes twice the first counts, as in Darknet.

    Raises :class:`BuildError` for a file that cannot be read or is no .cfg.
    """
    try:
        lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise BuildError(f"{path}: cannot be read ({error.strerror})") from None
    sections: list[Section] = []
    for number, raw in enumerate(lines, start=1):
        line = "".join(raw.partition("#")[0].split())
        if not line or line.startswith(";"):
            continue
        if line.startswith("[") and line.endswith("]"):
            sections.append(Section(line[1:-1], f"{path} line {number}: [{line[1:-1]}]"))
            continue
        key, equals, value = line.partition("=")
        if not equals or not sections:
            expected = "key=value" if sections else "[net] first"
            raise BuildError(f"{path} line {number}: {raw.strip()[:60]!r}, expected {expected}")
        sections[-1].options.setdefault(key, value)
    if not sections or sections[0].name not in ("net", "network"):
        found = f"[{sections[0].name}]" if sections else "no section"
        raise BuildError(f"{path}: a Darknet .cfg begins with [net], this file has {found} first")
    return sections


def _parts(text: str) -> list[str]:
    return [part for part in text.split(",") if part]

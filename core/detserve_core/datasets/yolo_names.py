"""What a YOLO dataset says beside its boxes: class names, and in ``data.yaml`` where the pictures are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detserve_core.datasets.dataset import exists, shown
from detserve_core.datasets.errors import DatasetError
from detserve_core.errors import MissingExtra

NAMES_FILE = "classes.txt"
SPLITS = ("val", "valid", "test", "train")
_NOTHING: tuple[object, ...] = (None, "", [], "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Description:
    """Class names, and ``whose`` they are; of a ``data.yaml``, its ``content`` too.

    ``pose_columns`` is how many numbers a line has in a dataset with key points, or None.
    """

    names: tuple[str, ...]
    whose: str
    file: Path | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pose_columns(self) -> int | None:
        """5 of the class and its box, and those of the key points."""
        shape = self.content.get("kpt_shape")
        if not isinstance(shape, list) or len(shape) != 2 or not all(str(n).isdecimal() for n in shape):
            return None
        return 5 + int(shape[0]) * int(shape[1])

    def sources(self) -> list[Path]:
        """The folders, or text files that list pictures, of ``val``, or else of ``test`` or ``train``."""
        split = next((key for key in SPLITS if self.content.get(key) not in _NOTHING), None)
        named = self.content[split] if split else None
        entries = named if isinstance(named, list) else [named]
        if self.file is None or not all(isinstance(entry, str) for entry in entries):
            raise DatasetError(
                f"{self.file} names no pictures; expected a folder, a text file or a list of them as 'val', "
                "or the pictures' folder as --images"
            )
        return [self._found(str(entry), str(split)) for entry in entries]

    def has_sources(self) -> bool:
        """Whether all of :meth:`sources` are there."""
        try:
            return bool(self.sources())
        except DatasetError:
            return False

    def folders(self) -> list[Path]:
        """Of :meth:`sources` those that are folders; none where they are absent."""
        return [source for source in self.sources() if source.is_dir()] if self.has_sources() else []

    def _found(self, entry: str, split: str) -> Path:
        beside = self.file.resolve().parent if self.file else Path()
        root = beside / str(self.content.get("path") or "")
        below = entry.removeprefix("../")  # Roboflow's ../valid/images lies beside data.yaml
        for path in (root / entry, beside / entry, root / below, beside / below):
            if exists(path):
                return path
        raise DatasetError(
            f"{self.file}: {split} is {shown(entry)}, which is not in {beside}; fix it or give the "
            "pictures' folder as --images"
        )


def describe(path: Path, labels: Sequence[str]) -> Description:
    """Of a folder or a ``data.yaml``; without names anywhere, those of the card: ``labels``."""
    if path.is_file():
        return _of_yaml(path)
    for file in (path / "data.yaml", path.resolve().parent / "data.yaml"):
        if file.is_file():
            return _of_yaml(file)
    lists = [*sorted(path.glob("[!.]*.names")), path / NAMES_FILE, path / "labels" / NAMES_FILE]
    for file in lists:
        if file.is_file():
            names = tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
            if not names:
                raise DatasetError(f"{file} is empty; expected one class name a line")
            return Description(names, file.name)
    return Description(tuple(labels), "the card")


def _of_yaml(path: Path) -> Description:
    try:
        import yaml
    except ImportError:
        raise MissingExtra("pyyaml", "perf") from None
    try:
        # every scalar is text, so that a class may be called no, 1 or null
        content = yaml.load(read_text(path), Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise DatasetError(f"{path} is not YAML: {line}{shown(problem or 'it cannot be parsed')}") from None
    content = content if isinstance(content, dict) else {}
    names = content.get("names")
    if isinstance(names, dict) and set(names) == {str(index) for index in range(len(names))}:
        names = [names[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise DatasetError(
            f"{path} has no 'names'; expected a list of names, or a mapping from 0, 1, 2 and so on to them"
        )
    names = [name.strip() for name in names]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DatasetError(
            f"{path}: 'names' has {shown(twice[0])} twice; expected names that tell the classes apart"
        )
    return Description(tuple(names), path.name, path, content)


def read_text(path: Path) -> str:
    """Of a small file, in UTF-8 with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as text: {error}; expected UTF-8") from None

"""The ids that a COCO data set gives its pictures and categories, for results that pycocotools scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detserve_core.datasets.coco import read_coco
from detserve_core.datasets.errors import DatasetError


@dataclass(frozen=True)
class CocoIds:
    """Ids as the file has them, whole numbers or text.

    Attributes:
        images: ``file_name`` -> image id.
        categories: name of the class -> category id.
    """

    images: Mapping[str, int | str]
    categories: Mapping[str, int | str]
    path: Path

    def image_id(self, picture: Path) -> int | str:
        """Id of the image whose ``file_name`` is the picture's path or the end of it.

        Raises:
            DatasetError: there is none, or several.
        """
        named = {name for name in self.images if _ends_with(picture, name)}
        longest = max(named, key=len, default="")
        if not named:
            raise DatasetError(
                f"{self.path} has no image {picture.name!r}; give the pictures of that data set"
            )
        return self.images[longest]

    def check_classes(self, names: Sequence[str]) -> None:
        """Raise :class:`DatasetError` where the data set has none of a detector's classes."""
        if not set(names) & set(self.categories):
            raise DatasetError(
                f"{self.path} has the categories {', '.join(list(self.categories)[:5])}, and none of the "
                f"detector's classes {', '.join(names[:5])}; give the data set of its classes"
            )


def coco_ids(path: Path) -> CocoIds:
    """Read the ids of ``instances.json``.

    Raises:
        DatasetError: the file is not COCO, or gives one name two ids.
    """
    content = read_coco(path)
    images = {str(image["file_name"]): image["id"] for image in content["images"]}
    categories = {str(category["name"]).strip(): category["id"] for category in content["categories"]}
    for what, ids in (("images", images), ("categories", categories)):
        if len(ids) < len(content[what]):
            raise DatasetError(f"{path} has two {what} of one name; expected a name of its own for each")
    return CocoIds(images, categories, path)


def _ends_with(picture: Path, name: str) -> bool:
    parts = PurePosixPath(name).parts
    return picture.parts[-len(parts) :] == parts

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
        images: the parts of ``file_name`` -> image id.
        categories: name of the class -> category id.
    """

    images: Mapping[tuple[str, ...], int | str]
    categories: Mapping[str, int | str]
    path: Path

    def image_id(self, picture: Path) -> int | str:
        """Id of the image whose ``file_name`` is the picture's path or the longest end of it.

        Raises:
            DatasetError: there is none.
        """
        for first in range(len(picture.parts)):
            if (name := picture.parts[first:]) in self.images:
                return self.images[name]
        raise DatasetError(f"{self.path} has no image {picture.name!r}; give the pictures of that data set")

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
    images = {PurePosixPath(image["file_name"]).parts: image["id"] for image in content["images"]}
    categories = {str(category["name"]).strip(): category["id"] for category in content["categories"]}
    for what, ids in (("images", images), ("categories", categories)):
        if len(ids) < len(content[what]):
            raise DatasetError(f"{path} has two {what} of one name; expected a name of its own for each")
    return CocoIds(images, categories, path)

"""The ids that a COCO data set gives its pictures and categories, for results that pycocotools scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detserve_core.datasets.coco import read_coco
from detserve_core.datasets.dataset import parts_below
from detserve_core.datasets.errors import DatasetError
from detserve_core.text import name_key


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
        parts = picture.absolute().parts
        for first in range(len(parts)):
            if (name := parts[first:]) in self.images:
                return self.images[name]
        if moved := next((name for name in self.images if name[-1] == picture.name), None):
            raise DatasetError(
                f"{self.path} has {'/'.join(moved)}, in which {picture} does not end; "
                "name the picture by such a path, or change its file_name"
            )
        raise DatasetError(f"{self.path} has no image {picture.name!r}; give the pictures of that data set")

    def check_classes(self, names: Sequence[str]) -> None:
        """Raise :class:`DatasetError` where the data set has none of a detector's classes."""
        if not set(map(name_key, names)) & set(map(name_key, self.categories)):
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
    images = {parts_below(image["file_name"]): image["id"] for image in content["images"]}
    categories = {category["name"].strip(): category["id"] for category in content["categories"]}
    for what, ids in (("images", images), ("categories", categories)):
        if len(ids) < len(content[what]):
            raise DatasetError(f"{path} has two {what} of one name; expected a name of its own for each")
    return CocoIds(images, categories, path)

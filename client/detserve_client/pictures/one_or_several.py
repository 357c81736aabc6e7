"""Several pictures handed in at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from detserve_client.pictures.encoding import PictureSource, is_one_picture, is_url
from detserve_core.errors import SourceError
from detserve_core.picture_sources import expand_sources


def one_or_several(
    source: PictureSource | Iterable[PictureSource],
) -> PictureSource | list[PictureSource]:
    """A picture itself, or a list of the pictures of an iterable or of a folder, which is searched through.

    Raises:
        SourceError: a folder has no picture, or it is something else.
    """
    if isinstance(source, (str, Path)) and not is_url(source) and Path(source).is_dir():
        return [picture.path for picture in expand_sources([str(source)])]
    if is_one_picture(source):
        return source
    if not isinstance(source, Iterable):
        raise SourceError(
            f"got a picture source of type {type(source).__name__}; expected a path, a URL, bytes, a file "
            "opened for reading bytes, a uint8 array (h, w, 3) in BGR, a PIL image, or a list of these"
        )
    return list(source)

"""The pictures that ranges, overflow and biases are measured on, through the served preprocess."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.errors import BuildError
from detserve_core.card import Card
from detserve_core.errors import SourceError
from detserve_core.picture_sources import expand_sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SKIPPED_SHARE = 0.1
_OF_CARD = {"input_wh", "preprocess", "max_picture_pixels"}
Progress = Callable[[int, int], None]
"""Told how many are done, and of how many."""


class CalibrationError(BuildError):
    """Pictures that cannot be calibrated with."""


@dataclass(frozen=True)
class CalibrationSource:
    """Decodable pictures, and as many that were ``skipped`` with the reason; read again at every pass.

    ``sha256`` is over the pictures' bytes in order, so it does not change with their names or folder.
    """

    pictures: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...]
    sha256: str
    card: Card

    def images(self, progress: Progress = lambda done, total: None) -> Iterator[NDArray[np.uint8]]:
        """Network inputs, uint8 [1,H,W,3] RGB, one at a time and always in the same order.

        Raises :class:`CalibrationError` for a picture that could be read before and no longer can.
        """
        for done, path in enumerate(self.pictures, 1):
            try:
                yield network_input(path.read_bytes(), self.card)[0][None]
            except (OSError, ValueError) as error:
                raise CalibrationError(f"{path} changed during calibration ({error}); build again") from None
            progress(done, len(self.pictures))


def calibration_folder(
    folder: Path, card: Card, *, forced: bool = False, option: str = "--calibrate"
) -> CalibrationSource:
    """The pictures under ``folder``, in alphabetical order.

    Raises :class:`CalibrationError` where there is no such folder, and as :func:`calibration_source` does.
    """
    if not folder.is_dir():
        raise CalibrationError(
            f"{folder} is not a folder; {option} takes a folder of pictures like those to be detected in"
        )
    try:
        pictures = [picture.path for picture in expand_sources([str(folder)])]
    except SourceError:
        raise CalibrationError(
            f"{folder} has no picture; {option} takes a folder of pictures like those to be detected in"
        ) from None
    return calibration_source(pictures, card, forced=forced)


def calibration_source(
    pictures: Iterable[Path],
    card: Card,
    *,
    forced: bool = False,
    progress: Progress = lambda done, total: None,
) -> CalibrationSource:
    """Decode every picture once, so that a bad set is refused before any work is done.

    Raises :class:`CalibrationError` for an iterator that can be read only once, for no picture, for one
    picture unless ``forced``, and where more than a tenth of the pictures cannot be decoded.
    """
    if iter(pictures) is pictures:
        raise CalibrationError(
            f"a {type(pictures).__name__} came, which can be read only once, and calibration reads its "
            "pictures several times; give a folder or a list of paths"
        )
    paths = list(pictures)
    usable, skipped, digest = [], [], hashlib.sha256()
    for done, path in enumerate(paths, 1):
        try:
            encoded = path.read_bytes()
            network_input(encoded, card)
        except OSError as error:
            skipped.append((path, str(error.strerror)))
        except ValueError as error:
            skipped.append((path, str(error)))
        else:
            usable.append(path)
            digest.update(hashlib.sha256(encoded).digest())
        progress(done, len(paths))
    _refuse_bad_set(len(paths), usable, skipped, forced=forced)
    return CalibrationSource(tuple(usable), tuple(skipped), digest.hexdigest(), card)


def network_input(encoded: bytes, card: Card) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """An encoded picture through the served preprocess with the card's settings.

    Returns the image uint8 [H,W,3] and the geometry float32 [6]; raises ValueError for a bad picture.
    """
    from detserve_builder.steps.detserve_preprocess import preprocess, settings

    return preprocess(encoded, **settings(card.model_dump(mode="json", include=_OF_CARD)))


def _refuse_bad_set(count: int, usable: list[Path], skipped: list[tuple[Path, str]], *, forced: bool) -> None:
    if not count:
        raise CalibrationError("calibration got no picture; it needs some tens of those to be detected in")
    if len(skipped) > MAX_SKIPPED_SHARE * count:
        path, reason = skipped[0]
        raise CalibrationError(
            f"{len(skipped)} of {count} calibration pictures cannot be used, more than "
            f"{MAX_SKIPPED_SHARE:.0%}; the first is {path} ({reason})"
        )
    if len(usable) == 1 and not forced:
        raise CalibrationError(
            "calibration got one picture, whose ranges would be taken for those of all; "
            "give some tens, or force it with --force-calibration"
        )

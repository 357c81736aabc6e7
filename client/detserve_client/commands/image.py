"""``detserve image``: small things done to one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from detserve_client.results.detections_file import detections_of
from detserve_core.errors import OutputError, SourceError
from detserve_core.pictures.drawing import annotated, require_drawing, require_opencv
from detserve_core.pictures.files import upright_pixels, write_picture

app = typer.Typer(add_completion=False, no_args_is_help=True)

_MOST_PIXELS = 2**28

Source = Annotated[Path, typer.Argument(metavar="IN", help="A picture; EXIF orientation is honoured.")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="A .bmp, .jpg, .png or .webp file.")]


@app.callback()
def image() -> None:
    """Small things done to one picture: grey, another size, detections drawn in."""


@app.command()
def gray(source: Source, target: Target) -> None:
    """Write a picture in grey, one channel."""
    require_opencv()
    import cv2

    _require_other(source, target)
    write_picture(target, _uint8(cv2.cvtColor(upright_pixels(source), cv2.COLOR_BGR2GRAY)))


@app.command()
def resize(
    source: Source,
    target: Target,
    width: Annotated[int | None, typer.Option(min=1, help="In pixels; alone, the height follows.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="In pixels; alone, the width follows.")] = None,
    scale: Annotated[float | None, typer.Option(min=0.001, max=1000, help="0.5 halves both sides.")] = None,
) -> None:
    """Write a picture in another size; with both --width and --height it is stretched."""
    if (scale is None) == (width is None and height is None):
        raise typer.BadParameter("expected --width, --height or both, or else --scale")
    require_opencv()
    import cv2

    _require_other(source, target)
    pixels = upright_pixels(source)
    wh = _size((pixels.shape[1], pixels.shape[0]), width, height, scale)
    smaller = wh[0] <= pixels.shape[1] and wh[1] <= pixels.shape[0]
    resized = cv2.resize(pixels, wh, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    write_picture(target, _uint8(resized))


@app.command()
def draw(
    source: Source,
    target: Target,
    json: Annotated[
        Path, typer.Option(metavar="FILE", help="What detserve detect --json wrote.", show_default=False)
    ],
) -> None:
    """Draw detections that detserve detect --json wrote into their picture."""
    require_drawing()
    _require_other(source, target)
    detections = detections_of(json, source)
    write_picture(target, annotated(upright_pixels(source), detections))


def _require_other(source: Path, target: Path) -> None:
    if source.exists() and target.exists() and source.samefile(target):
        raise OutputError(f"{target} would overwrite the picture itself; name another file")


def _size(wh: tuple[int, int], width: int | None, height: int | None, scale: float | None) -> tuple[int, int]:
    if scale is not None:
        factors = (scale, scale)
    else:
        by_width = None if width is None else width / wh[0]
        by_height = None if height is None else height / wh[1]
        factors = (by_width or by_height or 1.0, by_height or by_width or 1.0)
    size = (max(1, round(wh[0] * factors[0])), max(1, round(wh[1] * factors[1])))
    if size[0] * size[1] > _MOST_PIXELS:
        raise SourceError(
            f"a picture of {size[0]}x{size[1]} is too large; expected at most {_MOST_PIXELS} pixels"
        )
    return size


def _uint8(pixels: object) -> NDArray[np.uint8]:
    return np.asarray(pixels, np.uint8)

"""What ``catalogue.json`` says of each detector that can be downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ZooFile(_Strict):
    """One file of a checkpoint: its address at a fixed commit, and what must arrive."""

    url: HttpUrl
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(gt=0)]

    @property
    def name(self) -> str:
        """The file's name here and in a mirror."""
        return str(self.url.path).rsplit("/", 1)[-1]


class Measured(_Strict):
    """Average precision (COCO's, and at IoU .50) of the served detector, and where it was measured."""

    ap: Annotated[float, Field(ge=0, le=1)]
    ap50: Annotated[float, Field(ge=0, le=1)]
    pictures: str
    machine: str
    date: str


class ZooDetector(_Strict):
    """A detector: the first of ``files`` is what a build reads, the last holds the weights.

    ``card`` and ``labels`` are what the files do not say.
    """

    finds: str
    licence: str
    licence_url: HttpUrl
    origin: str
    files: Annotated[tuple[ZooFile, ...], Field(min_length=1)]
    card: dict[str, Any]
    labels: list[str] | Literal["coco"]
    measured: Measured | None


CATALOGUE = TypeAdapter(dict[str, ZooDetector]).validate_json(
    Path(__file__).with_name("catalogue.json").read_bytes()
)

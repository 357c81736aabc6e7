"""The whole way from a checkpoint to a model repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.prepare import prepare
from detserve_builder.repository import write_repository
from detserve_builder.triton_config import Target
from detserve_builder.warmup import WarmupPicture
from detserve_client.card import Card

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WARMUP_PICTURE = Path(__file__).parent / "warmup.jpg"


@dataclass(frozen=True)
class Built:
    """What a build made."""

    card: Card
    folders: list[Path]
    batch_obstacle: str | None


def build(
    source: str,
    *,
    name: str,
    repository: Path,
    card_path: Path | None = None,
    target: Target = Target.EMBEDDED,
    on_step: Callable[[str], None] = lambda step: None,
) -> Built:
    """Build ``source`` (an .onnx file or a zoo name) into ``repository`` as detector ``name``.

    ``on_step`` is told each step as it begins. Raises DetserveError for what the user can mend; the
    repository is then as it was.
    """
    on_step("reading the checkpoint")
    checkpoint = load_checkpoint(source)
    card = infer_card(checkpoint, name=name, said=card_path)
    on_step(f"preparing the graph ({card.family})")
    prepared = prepare(checkpoint, card, probe_pictures(card))
    on_step("writing the repository")
    folders = write_repository(
        repository, card, prepared, target=target, warmup=warmup_picture(card), measured={}
    )
    return Built(card, folders, prepared.batch_obstacle)


def warmup_picture(card: Card) -> WarmupPicture:
    """The picture that comes with detserve, through the served preprocess."""
    from detserve_builder.steps.detserve_preprocess import preprocess

    encoded = _WARMUP_PICTURE.read_bytes()
    image, geometry = preprocess(
        encoded,
        input_wh=card.input_wh,
        resize=card.preprocess.resize.value,
        pad_value=card.preprocess.pad_value,
        max_picture_pixels=card.max_picture_pixels,
    )
    return WarmupPicture(encoded, image, geometry)


def probe_pictures(card: Card) -> NDArray[np.uint8]:
    """Two different real inputs of the network's size, uint8 [2,H,W,3]."""
    import numpy as np

    image = warmup_picture(card).image
    return np.stack([image, image[::-1, ::-1]])

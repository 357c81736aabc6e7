"""The whole way from a checkpoint to a model repository."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.card_sources import InferredCard
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError, naming_the_card
from detserve_builder.infer_card import read_card
from detserve_builder.precision import report
from detserve_builder.precision.choice import PrecisionChoice, apply_precision, place_of
from detserve_builder.precision.decoding import Decoding, choose_decoding
from detserve_builder.precision.request import PrecisionRequest
from detserve_builder.preparation.prepare import prepare
from detserve_builder.preparation.proof import doubts, refuse_impossible
from detserve_builder.prune.weights import TWO_IN_FOUR
from detserve_builder.quantise.calibration import CalibrationSource, calibration_folder, network_input
from detserve_builder.repository import takes_one_picture, write_repository
from detserve_builder.tensorrt import lint
from detserve_builder.tensorrt.compile_gate import compile_ahead_of_time
from detserve_builder.tensorrt.libraries import import_rtx
from detserve_builder.triton_config import Placement, Preprocess, Target
from detserve_builder.warmup import WarmupPicture
from detserve_core.card import Card, Decode, Wh

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detserve_builder.tensorrt.compile_gate import Gate

_FP32 = PrecisionRequest()
_LONGEST_NAME = 64
_WARMUP_PICTURE = Path(__file__).parent / "warmup.jpg"


@dataclass(frozen=True)
class Built:
    """What a build made.

    ``inferred`` is the card with the source of each field, before ``decoding``; ``card_note`` says whether a
    card.json beside the checkpoint is used;
    ``batch_obstacle`` says why requests take one picture, or is None; ``decoding`` is the card's with the AP
    of both, where that was measured; ``gate`` is what TensorRT's compiler said, where it was asked.
    """

    card: Card
    inferred: InferredCard
    folders: list[Path]
    batch_obstacle: str | None
    calibration: CalibrationSource | None
    outcome: PrecisionChoice
    decoding: Decoding
    gate: Gate | None = None
    card_note: str = ""


def name_of(checkpoint: str | Path) -> str:
    """The file's name without what a model's may not have: ``best (1).onnx`` is ``best_1``."""
    kept = re.sub(r"[^A-Za-z0-9-]+", "_", Path(checkpoint).stem).strip("_-")
    return kept[:_LONGEST_NAME] or "detector"


def build(
    source: str,
    *,
    name: str,
    repository: Path,
    card_path: Path | None = None,
    input_wh: Wh | None = None,
    target: Target = Target.EMBEDDED,
    request: PrecisionRequest = _FP32,
    preprocess: Preprocess = Preprocess.PYTHON,
    placement: Placement = Placement.PIPELINE,
    check_tensorrt: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Built:
    """Build ``source`` (an .onnx file or a zoo name) into ``repository`` as detector ``name``.

    ``input_wh`` is the network's input where the file leaves it open;
    ``request`` says which precision, and what it is measured on; ``check_tensorrt`` compiles the graph ahead
    of time; ``on_step`` is told each step as it begins. Raises DetserveError for what the user can fix; the
    repository is then as it was.
    """
    place = place_of(target, request)
    if check_tensorrt:
        import_rtx()  # absent, it is said before the work
    if preprocess is Preprocess.DALI and target is not Target.TENSORRT:
        raise BuildError(f"DALI is for the target tensorrt, got {target.value}; leave --preprocess at python")
    on_step("reading the checkpoint")
    checkpoint = load_checkpoint(source)
    inferred = read_card(checkpoint, name=name, said=card_path, input_wh=input_wh)
    card = inferred.card
    if preprocess is Preprocess.DALI and card.preprocess.decode is Decode.REDUCED:
        raise BuildError(
            "the card's preprocess.decode is reduced, but DALI decodes whole pictures; say whole, or leave "
            "--preprocess at python"
        )
    calibration = None
    if request.calibrate is not None:
        on_step("reading the calibration pictures")
        calibration = calibration_folder(request.calibrate, card, forced=request.force_calibration)
    on_step(f"preparing the graph ({card.family})")
    probe = probe_pictures(card)
    with naming_the_card(card_path or checkpoint.card_path, checkpoint.path):
        prepared = prepare(checkpoint, card, probe)
    refuse_impossible(checkpoint, card, prepared.model, probe)
    decoding = Decoding(card)
    if preprocess is Preprocess.PYTHON:
        decoding = choose_decoding(prepared.model, card, request, on_step)
        card = decoding.card
    if calibration:
        calibration = replace(calibration, card=card)
    outcome = apply_precision(
        prepared.model, card, place, request, calibration, on_step, probe, float_ap=decoding.float_ap
    )
    if doubt := doubts(prepared.model, probe):
        outcome = replace(outcome, notes=(doubt, *outcome.notes))
    # Q/DQ in the form that ONNX Runtime runs fast is not for TensorRT
    for_tensorrt = outcome.built.model if place.tensorrt else prepared.model
    gate = None
    if check_tensorrt:
        on_step("compiling with TensorRT-RTX")
        sparse = request.prune == TWO_IN_FOUR
        gate = compile_ahead_of_time(for_tensorrt, where=str(checkpoint.path), sparse_weights=sparse)
    elif target is Target.TENSORRT:
        lint.check(for_tensorrt, where=str(checkpoint.path))
    on_step("writing the repository")
    reports = {}
    if outcome.tried:
        reports = {"precision.png": report.png(outcome), "precision.html": report.page(outcome)}
    folders = write_repository(
        repository,
        card,
        replace(prepared, model=outcome.built.model),
        target=target,
        preprocess=preprocess,
        placement=placement,
        warmup=warmup_picture(card),
        measured={
            name: record
            for name, record in (("precision", outcome.record), ("decode", decoding.record))
            if record
        },
        precision=outcome.built.precision,
        runtime=outcome.built.runtime,
        floats=outcome.built.floats,
        reports=reports,
        card_sources=inferred.sources,
    )
    obstacle = prepared.batch_obstacle if takes_one_picture(prepared, placement) else None
    return Built(
        card, inferred, folders, obstacle, calibration, outcome, decoding, gate, checkpoint.card_note
    )


def warmup_picture(card: Card) -> WarmupPicture:
    """The picture that comes with detserve, through the served preprocess."""
    encoded = _within(_WARMUP_PICTURE.read_bytes(), card.max_picture_pixels)
    return WarmupPicture(encoded, *network_input(encoded, card))


def _within(encoded: bytes, max_picture_pixels: int) -> bytes:
    """The picture, made smaller where the card accepts only smaller ones."""
    import cv2
    import numpy as np

    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    ratio = (max_picture_pixels / (picture.shape[0] * picture.shape[1])) ** 0.5
    if ratio >= 1:
        return encoded
    size = (max(1, int(picture.shape[1] * ratio)), max(1, int(picture.shape[0] * ratio)))
    return cv2.imencode(".jpg", cv2.resize(picture, size, interpolation=cv2.INTER_AREA))[1].tobytes()


def probe_pictures(card: Card) -> NDArray[np.uint8]:
    """Two different real inputs of the network's size, uint8 [2,H,W,3]."""
    import numpy as np

    image = warmup_picture(card).image
    return np.stack([image, image[::-1, ::-1]])

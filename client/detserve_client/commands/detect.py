"""``detserve detect``: pictures in, detections out."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detserve_client.client import Client
from detserve_client.commands.detect_report import print_report, progress_of
from detserve_client.commands.detect_video import VideoOptions, detect_video
from detserve_client.commands.security_options import ApiKeyFile, Ca, Certificate
from detserve_client.results.outcomes import Failed, Outcome
from detserve_client.results.run_files import write_coco, write_json
from detserve_client.video.sources import VideoSource, video_source
from detserve_core.endpoint import Endpoint
from detserve_core.errors import OutputError, SourceError
from detserve_core.picture_sources import PictureFile, expand_sources
from detserve_core.pictures.drawing import drawn_path, require_drawing, save_drawn
from detserve_core.security import UNSECURED, Security

if TYPE_CHECKING:
    from detserve_core.datasets.coco_ids import CocoIds

app = typer.Typer(add_completion=False)

DEFAULT_URL = "grpc://localhost:8001"


@app.command()
def detect(
    ctx: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Pictures, folders (searched through) or glob patterns; or a video file, a camera's "
            "number or rtsp://...",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Name of the detector. Without it: the only one there is.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Where the server listens: grpc://HOST:PORT or http://HOST:PORT, TLS: grpcs, https. Without "
            f"it: {DEFAULT_URL}, and where no server runs, one is started for this call."
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the pictures, or the video, with boxes drawn in to this folder."
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the detections of all pictures as JSON; of a video as JSON Lines, a line a frame.",
        ),
    ] = None,
    coco: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a COCO results file. image_id is the picture's name where that is a number, else a "
            "running number; category_id is the class index.",
        ),
    ] = None,
    coco_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An instances.json, whose ids of pictures and categories --coco writes, as pycocotools "
            "wants them.",
        ),
    ] = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score. Without it: the detector card's.")
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Most overlap of two boxes of a class. Without it: the card's."),
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Most detections in a picture. Without it: the card's.")
    ] = None,
    window: Annotated[
        int, typer.Option(min=1, help="How many requests are in flight at a time; 1 for a camera or stream.")
    ] = 8,
    show: Annotated[bool, typer.Option("--show", help="Show the video in a window; q or Esc ends.")] = False,
    track: Annotated[
        bool, typer.Option("--track", help="Give each object of a video an id that it keeps (ByteTrack).")
    ] = False,
    api_key_file: ApiKeyFile = None,
    ca: Ca = None,
    certificate: Certificate = None,
) -> None:
    """Detect objects in pictures or in a video."""
    thresholds: dict[str, Any] = {
        "score_threshold": score,
        "iou_threshold": iou,
        "max_detections": max_detections,
    }
    security = Security.from_environment(api_key_file=api_key_file, ca=ca, certificate=certificate)
    shown = (api_key_file, ca, certificate) != (None, None, None)
    if not Endpoint.parse(url or DEFAULT_URL).tls and not shown:
        security = UNSECURED  # the environment's key is for the gateway, not for a server without TLS
    video = video_source(sources)
    _require_sense(video, show, track, coco)
    pictures = [] if video is not None else expand_sources(sources)
    ids = _ids(coco_ids, coco, pictures)
    with ExitStack() as stack:
        if url is None and not shown and ctx.obj is not None and not _listens(DEFAULT_URL):
            url, model = stack.enter_context(ctx.obj(model))
        client = stack.enter_context(Client(url or DEFAULT_URL, model, security=security))
        if video is not None:
            options = VideoOptions(save, json, show, track, window, thresholds)
            raise typer.Exit(detect_video(client, video, options))
        outcomes, elapsed_s = _detect_pictures(client, pictures, save, window, thresholds)
    if json is not None:
        write_json(json, outcomes)
    if coco is not None:
        write_coco(coco, outcomes, ids)
    print_report(outcomes, elapsed_s, window)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)


def _ids(file: Path | None, coco: Path | None, pictures: list[PictureFile]) -> CocoIds | None:
    """Those of the data set, which is to know all pictures before any is sent."""
    if file is None:
        return None
    if coco is None:
        raise typer.BadParameter("is for what --coco writes; give it a file", param_hint="--coco-ids")
    from detserve_core.datasets.coco_ids import coco_ids

    ids = coco_ids(file)
    for picture in pictures:
        ids.image_id(picture.path)
    return ids


def _listens(url: str) -> bool:
    endpoint = Endpoint.parse(url)
    try:
        socket.create_connection((endpoint.host, endpoint.port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # the client says what is wrong
    return True


def _require_sense(video: VideoSource | None, show: bool, track: bool, coco: Path | None) -> None:
    if video is not None and coco is not None:
        raise typer.BadParameter("is for pictures; a video's detections go to --json", param_hint="--coco")
    for name, given in (("--show", show), ("--track", track)):
        if given and video is None:
            raise typer.BadParameter("is for a video file, a camera or a stream", param_hint=name)


def _detect_pictures(
    client: Client,
    pictures: list[PictureFile],
    save: Path | None,
    window: int,
    thresholds: dict[str, Any],
) -> tuple[list[Outcome], float]:
    """The outcome of each picture, drawn if that is wanted, and the seconds it took."""
    targets = _drawing_targets(save, pictures)
    outcomes: list[Outcome] = []
    started_s = time.perf_counter()
    stream = client.detect_stream((picture.path for picture in pictures), window=window, **thresholds)
    for outcome in progress_of(stream, total=len(pictures)):
        outcomes.append(_drawn(outcome, pictures[len(outcomes)], targets))
    return outcomes, time.perf_counter() - started_s


def _drawing_targets(save: Path | None, pictures: list[PictureFile]) -> dict[Path, Path]:
    """Where each drawn picture goes, by source path; empty when nothing is drawn."""
    if save is None:
        return {}
    require_drawing()
    targets = {picture.path: drawn_path(save, picture.name) for picture in pictures}
    originals = {picture.path.resolve() for picture in pictures}
    for target in targets.values():
        if target.resolve() in originals:
            raise OutputError(f"--save {save} would overwrite the picture {target}; name another folder")
    return targets


def _drawn(outcome: Outcome, picture: PictureFile, targets: dict[Path, Path]) -> Outcome:
    if not outcome.ok or not targets:
        return outcome
    try:
        save_drawn(picture.path, outcome.detections, targets[picture.path])
    except SourceError as error:
        return Failed(outcome.source, error)
    return outcome

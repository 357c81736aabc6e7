"""Server, client and data sets turn a picture alike, and as Pillow does by its EXIF."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from detserve_builder.steps.detserve_preprocess import decode
from detserve_core.datasets import open_dataset
from detserve_core.datasets.average_precision import AveragePrecision
from detserve_core.datasets.dataset import upright_size_wh
from detserve_core.detections import Detections
from detserve_core.pictures.files import upright_pixels
from detserve_core.pictures.upright import exif_orientation
from detserve_core.repository.manifest import read_manifest
from detserve_core.repository.served_steps import open_steps

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
SAMPLES = Path(__file__).parents[3] / "zoo/samples"
REPOSITORY = Path(__file__).parents[3] / "model_repository"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def stored() -> Image.Image:
    """Not square, and no two corners are alike."""
    rows, columns = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([columns * 4, rows * 6, columns + rows], -1).astype(np.uint8))


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    other = struct.pack(f"{order}HHII", 0x0100, 4, 1, 60)
    own = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\x00\x00" + mark + struct.pack(f"{order}IH", 8, 2) + other + own + bytes(4)


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    stored().save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}), **options)
    return buffer.getvalue()


def jpeg_with(*segments: bytes) -> bytes:
    jpeg = encoded("JPEG")
    markers = b"".join(b"\xff\xe1" + struct.pack(">H", len(one) + 2) + one for one in segments)
    return jpeg[:2] + markers + jpeg[2:]


def png_with(exif_after_the_pixels: bytes) -> bytes:
    png = encoded("PNG")
    body = b"eXIf" + exif_after_the_pixels.removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-12] + chunk + png[-12:]


def assert_turned_everywhere(path: Path, picture: bytes, expected: Image.Image) -> None:
    path.write_bytes(picture)
    rgb = np.asarray(expected.convert("RGB")).astype(int)
    served = decode(picture, max_picture_pixels=10_000)
    here = upright_pixels(path)[:, :, ::-1]
    assert upright_size_wh(path) == expected.size
    for pixels in (served, here):
        assert pixels.shape == rgb.shape
        assert np.abs(pixels - rgb).mean() < 2


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(10))
def test_exif_turns_alike_everywhere(tmp_path: Path, kind: str, order: str, orientation: int) -> None:
    picture = encoded(kind, exif=exif(orientation, order))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(picture)))
    assert_turned_everywhere(tmp_path / f"a{SUFFIXES[kind]}", picture, expected)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_an_orientation_that_only_xmp_says_turns_nothing(tmp_path: Path, kind: str) -> None:
    options = {} if kind == "PNG" else {"xmp": XMP}
    assert_turned_everywhere(tmp_path / f"a{SUFFIXES[kind]}", encoded(kind, **options), stored())


@pytest.mark.parametrize(
    "picture",
    [
        jpeg_with(b"http://ns.adobe.com/xap/1.0/\x00" + XMP, exif(6)),
        jpeg_with(exif(6), exif(3)),
        png_with(exif(6)),
        jpeg_with(exif(6)).replace(b"\xff\xe1", b"\xff\xff\xe1", 1),
    ],
    ids=["XMP comes first", "two EXIF", "PNG's behind the pixels", "filled marker"],
)
def test_where_exif_may_be(tmp_path: Path, picture: bytes) -> None:
    turned = stored().transpose(Image.Transpose.ROTATE_270)
    assert_turned_everywhere(tmp_path / "a.jpg", picture, turned)


@given(
    st.sampled_from([jpeg_with(exif(6)), png_with(exif(6)), encoded("WEBP", exif=exif(6))]),
    st.integers(0, 200),
    st.binary(max_size=40),
)
def test_damaged_exif_is_an_orientation_too(picture: bytes, at: int, noise: bytes) -> None:
    assert exif_orientation(picture[:at] + noise + picture[at + len(noise) :]) in range(1, 9)
    assert exif_orientation(picture[:at]) in range(1, 9)


def test_boxes_of_a_yolo_folder_do_not_depend_on_the_format(tmp_path: Path) -> None:
    """Pictures on their side, whose labels are fractions of the upright ones."""
    instances = json.loads((SAMPLES / "instances.json").read_text())
    boxes = {}
    for kind, suffix in SUFFIXES.items():
        folder = tmp_path / kind
        (folder / "images").mkdir(parents=True)
        (folder / "labels").mkdir()
        for entry in instances["images"][:2]:
            stem = Path(entry["file_name"]).stem
            wide = cv2.resize(cv2.imread(str(SAMPLES / entry["file_name"])), (400, 300))
            side = Image.fromarray(np.ascontiguousarray(np.rot90(wide)[:, :, ::-1]))
            side.save(folder / f"images/{stem}{suffix}", exif=exif(6))
            (folder / f"labels/{stem}.txt").write_text("0 0.5 0.25 0.5 0.25\n")
        boxes[kind] = [picture.boxes_xywh.tolist() for picture in open_dataset(folder, None, ["code"]).read()]
    assert boxes["JPEG"] == boxes["PNG"] == boxes["WEBP"] == [[[100, 37.5, 200, 75]]] * 2


def test_ap_of_the_served_steps_does_not_depend_on_the_format(tmp_path: Path) -> None:
    instances = json.loads((SAMPLES / "instances.json").read_text())
    (detect,) = open_steps(REPOSITORY, "codes_yolo", 1)
    labels = read_manifest(REPOSITORY, "codes_yolo").card.labels
    ap = {}
    for kind, suffix in SUFFIXES.items():
        folder = tmp_path / kind
        folder.mkdir()
        entries = [dict(one, file_name=f"{one['id']}{suffix}") for one in instances["images"]]
        for one, entry in zip(instances["images"], entries, strict=True):
            side = Image.open(SAMPLES / one["file_name"]).convert("RGB").transpose(Image.Transpose.ROTATE_90)
            quality = {"quality": 98} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
            side.save(folder / entry["file_name"], exif=exif(6), **quality)
        (folder / "instances.json").write_text(json.dumps(instances | {"images": entries}))
        dataset = open_dataset(folder / "instances.json", None, [])
        scored = AveragePrecision(labels, dataset.labels)
        for annotated in dataset.read():
            count, boxes, scores, classes = map(np.asarray, detect(annotated.path.read_bytes()))
            kept = int(count.item())
            scored.update(annotated, Detections(boxes[:kept], scores[:kept], classes[:kept], labels))
        ap[kind] = scored.result()[0].ap
    assert ap["PNG"] == ap["WEBP"]
    assert ap["JPEG"] == pytest.approx(ap["PNG"], abs=0.05)
    assert ap["PNG"] > 0.5

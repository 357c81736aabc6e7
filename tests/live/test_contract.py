"""The contract, through the real server: batches, every kind of picture, request parameters."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from PIL import Image

from detserve_client import Client
from detserve_core.contract import BOXES, CLASSES, IMAGE, NUM_DETECTIONS, OUTPUTS, SCORES
from tests.live.conftest import DEFAULT, SAMPLES
from tests.shared_data import SINGLE, needs_shared


def infer(server, pictures: list[bytes], model: str = DEFAULT, **parameters) -> dict[str, np.ndarray]:
    """One request with a batch of pictures, straight over gRPC."""
    tensor = grpcclient.InferInput(IMAGE, [len(pictures), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, dtype=object).reshape(-1, 1))
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as connection:
        answer = connection.infer(model, [tensor], parameters=parameters or None)
    return {name: answer.as_numpy(name) for name in OUTPUTS}


def mixed_pictures() -> list[bytes]:
    """Eight pictures of different sizes and kinds."""
    originals = [Image.open(path).convert("RGB") for path in sorted(SAMPLES.glob("*.jpg"))]
    kinds = ["JPEG", "PNG", "BMP", "WEBP"]
    pictures = []
    for index in range(8):
        buffer = io.BytesIO()
        original = originals[index % len(originals)]
        size = (original.width * (index + 2) // 8, original.height * (9 - index) // 9)
        original.resize(size).save(buffer, kinds[index % 4])
        pictures.append(buffer.getvalue())
    return pictures


MODELS = [DEFAULT, pytest.param("yolox", marks=needs_shared)]


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_gives_exactly_what_its_pictures_give_one_by_one(server, model) -> None:
    pictures = mixed_pictures()
    if model == "yolox":
        pictures[:4] = [path.read_bytes() for path in sorted(SINGLE.glob("*.jpg"))[:4]]
    alone = [infer(server, [picture], model, score_threshold=0.05) for picture in pictures]
    assert sum(int(answer[NUM_DETECTIONS][0, 0]) for answer in alone) > 5
    for size in range(1, 9):
        together = infer(server, pictures[:size], model, score_threshold=0.05)
        for name in OUTPUTS:
            np.testing.assert_array_equal(
                together[name], np.concatenate([answer[name] for answer in alone[:size]])
            )


def test_shapes_dtypes_and_padding(server, sample) -> None:
    answer = infer(server, [sample.read_bytes()])
    assert {name: (value.dtype, value.shape) for name, value in answer.items()} == {
        NUM_DETECTIONS: (np.int32, (1, 1)),
        BOXES: (np.float32, (1, 100, 4)),
        SCORES: (np.float32, (1, 100)),
        CLASSES: (np.int32, (1, 100)),
    }
    count = int(answer[NUM_DETECTIONS][0, 0])
    assert count > 0
    assert (np.diff(answer[SCORES][0, :count]) <= 0).all()
    assert (answer[CLASSES][0, count:] == -1).all()
    assert (answer[SCORES][0, count:] == 0).all()


def test_parameters_of_one_request(client: Client) -> None:
    def found(**parameters) -> list[int]:
        return [len(client.detect(path, **parameters)) for path in sorted(SAMPLES.glob("*.jpg"))]

    many = found(score_threshold=0.001)
    assert sum(many) > sum(found()) > 0
    assert max(found(score_threshold=0.001, max_detections=1)) == 1
    assert sum(found(score_threshold=0.001, iou_threshold=1.0)) > sum(many)
    assert sum(found(score_threshold=1.0)) == 0


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("variant", ["exif", "grey", "rgba", "16 bit", "cmyk", "webp", "bmp"])
def test_every_kind_of_picture_gives_the_same_detections(client: Client, sample, variant) -> None:
    original = Image.open(sample).convert("RGB")
    expected = client.detect(saved(original, "PNG"))
    assert len(expected) > 0
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown rotated by 90 degrees
    grey = original.convert("L")
    data = {
        "exif": lambda: saved(original.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=97, exif=exif),
        "grey": lambda: saved(grey, "JPEG", quality=97),
        "rgba": lambda: saved(original.convert("RGBA"), "PNG"),
        "16 bit": lambda: saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "cmyk": lambda: saved(original.convert("CMYK"), "JPEG", quality=97),
        "webp": lambda: saved(original, "WEBP", quality=97),
        "bmp": lambda: saved(original, "BMP"),
    }[variant]()
    best = client.detect(data)
    assert len(best) > 0
    assert best.classes[0] in expected.classes
    nearest = expected.boxes[np.abs(expected.boxes - best.boxes[0]).sum(1).argmin()]
    assert np.abs(nearest - best.boxes[0]).max() < 0.03 * max(original.size)


@pytest.mark.parametrize("size", [(1, 1), (8000, 6000)])
def test_tiny_and_huge_pictures(client: Client, sample, size) -> None:
    picture = Image.open(sample).convert("RGB").resize(size)
    found = client.detect(saved(picture, "JPEG", quality=90))
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2::2] <= size[0]).all()
    if size[0] > 1:
        assert len(found) > 0


def test_the_card_travels_with_the_model(client: Client) -> None:
    assert client.card().labels == ["qr", "datamatrix", "aztec", "pdf417", "linear"]

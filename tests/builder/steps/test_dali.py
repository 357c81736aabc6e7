"""The DALI preprocess on the CPU: it gives what the served preprocess gives, refusals included."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from detserve_builder import steps
from detserve_builder.build import build
from detserve_builder.errors import BuildError
from detserve_builder.steps import detserve_preprocess
from detserve_builder.triton_config import Preprocess, Target
from tests.builder.tiny_networks import save_yolox
from tests.shared_data import SINGLE, VAL64, needs_shared

RULES = ["letterbox_center", "letterbox_topleft", "stretch"]
INPUT_WH = (416, 320)
LIMIT_PX = 1_000_000


@pytest.fixture
def dali(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """detserve_dali as Triton imports it: beside detserve_preprocess."""
    pytest.importorskip("nvidia.dali", reason="needs nvidia-dali, pip install 'detserve[dali]'")
    monkeypatch.syspath_prepend(str(Path(steps.__file__).parent))
    import detserve_dali

    return detserve_dali


def settings(rule: str) -> dict[str, object]:
    return {"input_wh": INPUT_WH, "resize": rule, "pad_value": 114, "max_picture_pixels": LIMIT_PX}


def on_cpu(dali: ModuleType, rule: str):
    return dali.DaliPreprocess(**settings(rule), device_id=None, max_batch=8)


def plain(picture: bytes, rule: str):
    try:
        return detserve_preprocess.preprocess(picture, decoding="whole", **settings(rule))
    except detserve_preprocess.PictureError as error:
        return error


def jpeg(width: int, height: int, *, channels: int = 3, seed: int = 0) -> bytes:
    shape = (height, width) if channels == 1 else (height, width, channels)
    noise = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return cv2.imencode(".jpg", cv2.resize(noise, (width, height)))[1].tobytes()


@needs_shared
@pytest.mark.parametrize("rule", RULES)
def test_pixels_of_real_pictures(dali: ModuleType, rule: str) -> None:
    """Within 2 grey levels on 99% of the pixels of every picture, and the very same geometry."""
    pictures = [path.read_bytes() for path in sorted([*(VAL64 / "images").iterdir(), *SINGLE.iterdir()])]
    for picture, (image, geometry) in zip(pictures, on_cpu(dali, rule)(pictures), strict=True):
        expected, expected_geometry = plain(picture, rule)
        difference = np.abs(image.astype(int) - expected)
        assert (difference <= 2).mean() >= 0.99
        assert geometry.tolist() == expected_geometry.tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size_wh", [(1, 1), (1, 300), (300, 1), (416, 320), (7, 900), (997, 640)])
def test_sizes(dali: ModuleType, rule: str, size_wh: tuple[int, int]) -> None:
    picture = jpeg(*size_wh)
    ((image, geometry),) = on_cpu(dali, rule)([picture])
    expected, expected_geometry = plain(picture, rule)
    assert (np.abs(image.astype(int) - expected) <= 2).mean() >= 0.99
    assert geometry.tolist() == expected_geometry.tolist()


WHOLE = jpeg(300, 200)
ODD = {
    "grey": jpeg(300, 200, channels=1),
    "png": cv2.imencode(".png", np.full((20, 30, 3), 90, np.uint8))[1].tobytes(),
    "truncated": WHOLE[: len(WHOLE) // 2],
    "truncated, closed": WHOLE[: len(WHOLE) // 2] + b"\xff\xd9",
    "headless": b"\xff\xd8\xff\xe0 nothing\xff\xd9",
    "no tables": WHOLE[:100] + bytes(500) + WHOLE[600:],
    "too large": jpeg(2000, 1000),
    "text": b"hello, I am text",
    "empty": b"",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_pictures_among_good_ones(dali: ModuleType, kind: str) -> None:
    """The same image or the same refusal as without DALI; the neighbours notice nothing."""
    run = on_cpu(dali, RULES[0])
    before, odd, after = run([WHOLE, ODD[kind], WHOLE])
    expected = plain(ODD[kind], RULES[0])
    if isinstance(expected, ValueError):
        assert str(odd) == str(expected)
    else:
        assert np.abs(odd[0].astype(int) - expected[0]).max() <= 2
    for image, _ in (before, after, *run([WHOLE] * 20)):
        assert np.abs(image.astype(int) - plain(WHOLE, RULES[0])[0]).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(dali: ModuleType, orientation: int) -> None:
    image_module = pytest.importorskip("PIL.Image")
    import io

    exif = image_module.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture = cv2.imdecode(np.frombuffer(jpeg(120, 60), np.uint8), cv2.IMREAD_COLOR)
    image_module.fromarray(picture).save(buffer, "JPEG", exif=exif)
    ((image, geometry),) = on_cpu(dali, RULES[0])([buffer.getvalue()])
    expected, expected_geometry = plain(buffer.getvalue(), RULES[0])
    assert geometry.tolist() == expected_geometry.tolist()
    assert (np.abs(image.astype(int) - expected) <= 2).mean() >= 0.99


def test_the_pipeline_survives_serialisation(dali: ModuleType) -> None:
    from nvidia.dali import Pipeline

    made = dali.letterbox_pipeline(input_wh=INPUT_WH, pad_value=114, device_id=None, max_batch=8)
    restored = Pipeline.deserialize(
        made.serialize(), batch_size=8, num_threads=1, device_id=None, prefetch_queue_depth=1
    )
    restored.build()
    images = []
    for pipeline in (made, restored):
        dali.feed(pipeline, [np.frombuffer(WHOLE, np.uint8)], [((416, 277), (0, 21))])
        images.append(np.asarray(pipeline.run()[0].at(0)))
    assert images[0].shape == (320, 416, 3)
    assert (images[0] == images[1]).all()


def test_a_repository_with_dali(tmp_path: Path) -> None:
    network = str(save_yolox(tmp_path / "net.onnx"))
    repository = tmp_path / "repository"
    build(network, name="tiny", repository=repository, target=Target.TENSORRT, preprocess=Preprocess.DALI)
    folder = repository / "tiny_preprocess"
    files = {path.name for path in (folder / "1").iterdir()}
    expected = ("dali", "metrics", "preprocess", "scope", "upright")
    assert files == {"model.py", *(f"detserve_{file}.py" for file in expected)}
    assert "import detserve_dali" in (folder / "1/model.py").read_text()
    assert "KIND_GPU" in (folder / "config.pbtxt").read_text()


@pytest.mark.parametrize("target", [Target.EMBEDDED, Target.ONNXRUNTIME])
def test_dali_is_for_tensorrt(tmp_path: Path, target: Target) -> None:
    with pytest.raises(BuildError, match=f"target tensorrt, got {target.value}"):
        build("any.onnx", name="tiny", repository=tmp_path, target=target, preprocess=Preprocess.DALI)


def test_dali_decodes_whole_pictures(tmp_path: Path) -> None:
    network = str(save_yolox(tmp_path / "net.onnx"))
    card = tmp_path / "card.json"
    card.write_text('{"preprocess": {"decode": "reduced"}}')
    options = {"target": Target.TENSORRT, "preprocess": Preprocess.DALI}
    with pytest.raises(BuildError, match=r"preprocess\.decode is reduced, but DALI decodes whole"):
        build(network, name="tiny", repository=tmp_path / "repository", card_path=card, **options)

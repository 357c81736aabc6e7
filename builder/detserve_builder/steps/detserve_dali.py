"""Encoded pictures -> network input with NVIDIA DALI, on the GPU or the CPU.

JPEG is decoded and resized by DALI, a batch at a time. Everything else, and every picture that DALI does not
take, goes through detserve_preprocess: the results, the refusals and their words are the same. Pictures are
decoded whole.

On a GPU it has not been run. The images come back to the CPU's memory, from where Triton passes them on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import detserve_preprocess
import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types

Preprocessed = tuple[NDArray[np.uint8], NDArray[np.float32]]


class DaliPreprocess:
    """Preprocesses batches; keeps DALI's pipelines.

    ``device_id`` is the number of the GPU, or None for the CPU; ``max_batch`` the most pictures DALI takes at
    once; the rest is the card's.
    """

    def __init__(
        self,
        *,
        input_wh: tuple[int, int],
        resize: str,
        pad_value: int,
        max_picture_pixels: int,
        device_id: int | None,
        max_batch: int,
    ) -> None:
        self._input_wh, self._resize, self._pad_value = input_wh, resize, pad_value
        self._max_picture_pixels = max_picture_pixels
        self._device_id = device_id
        self._max_batch = max_batch
        self._build()

    def __call__(self, pictures: Sequence[bytes]) -> list[Preprocessed | detserve_preprocess.PictureError]:
        """Image uint8 [H,W,3] RGB and geometry float32 [6] of each picture, or why it cannot be used."""
        done: dict[int, Preprocessed] = {}
        jpegs = [index for index, picture in enumerate(pictures) if _is_whole_jpeg(picture)]
        for start in range(0, len(jpegs), self._max_batch):
            chosen = jpegs[start : start + self._max_batch]
            try:
                done.update(self._together(chosen, [pictures[index] for index in chosen]))
            except RuntimeError:  # DALI names no culprit, and its pipelines are of no use afterwards
                self._build()
        return [
            done[index] if index in done else self._alone(picture) for index, picture in enumerate(pictures)
        ]

    def _build(self) -> None:
        self._peek = peek_pipeline(max_batch=self._max_batch)
        self._letterbox = letterbox_pipeline(
            input_wh=self._input_wh,
            pad_value=self._pad_value,
            device_id=self._device_id,
            max_batch=self._max_batch,
        )

    def _together(self, indices: list[int], pictures: list[bytes]) -> dict[int, Preprocessed]:
        encoded = [np.frombuffer(picture, np.uint8) for picture in pictures]
        self._peek.feed_input("encoded", encoded)
        (shapes,) = self._peek.run()
        taken = []
        for index, content, shape in zip(indices, encoded, shapes, strict=True):
            height, width, channels = np.asarray(shape).tolist()
            if channels in (1, 3) and width * height <= self._max_picture_pixels:
                taken.append((index, content, (width, height)))
        if not taken:
            return {}
        placed = [
            detserve_preprocess.placement(picture_wh, input_wh=self._input_wh, resize=self._resize)
            for _, _, picture_wh in taken
        ]
        feed(self._letterbox, [content for _, content, _ in taken], placed)
        (images,) = self._letterbox.run()
        images = np.asarray(images.as_cpu().as_tensor())
        return {
            index: (image, detserve_preprocess.geometry_of(picture_wh, *where))
            for (index, _, picture_wh), image, where in zip(taken, images, placed, strict=True)
        }

    def _alone(self, picture: bytes) -> Preprocessed | detserve_preprocess.PictureError:
        try:
            return detserve_preprocess.preprocess(
                picture,
                input_wh=self._input_wh,
                decoding="whole",
                resize=self._resize,
                pad_value=self._pad_value,
                max_picture_pixels=self._max_picture_pixels,
            )
        except detserve_preprocess.PictureError as error:
            return error


def peek_pipeline(*, max_batch: int) -> Pipeline:
    """``encoded`` uint8 [n] -> upright shape of the picture, int64 [3]: height, width, channels."""
    pipeline = Pipeline(batch_size=max_batch, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(fn.peek_image_shape(encoded, image_type=types.ANY_DATA))
    pipeline.build()
    return pipeline


def letterbox_pipeline(
    *, input_wh: tuple[int, int], pad_value: int, device_id: int | None, max_batch: int
) -> Pipeline:
    """Decode, resize, put into the padded network input: ``encoded`` -> RGB uint8 [H,W,3]; see :func:`feed`.

    Bilinear without antialiasing, as OpenCV's. ``pipeline.serialize()`` is what Triton's DALI backend loads.
    """
    decoder = "cpu" if device_id is None else "mixed"
    pipeline = Pipeline(
        batch_size=max_batch, num_threads=2, device_id=device_id, prefetch_queue_depth=1, exec_dynamic=True
    )
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        resized_hw = fn.external_source(name="resized_hw", dtype=types.FLOAT, ndim=1)
        corner_yx = fn.external_source(name="corner_yx", dtype=types.INT32, ndim=1)
        picture = fn.decoders.image(
            encoded, device=decoder, output_type=types.RGB, jpeg_fancy_upsampling=True
        )
        resized = fn.resize(picture, size=resized_hw, interp_type=types.INTERP_LINEAR, antialias=False)
        shape = types.Constant(np.array([input_wh[1], input_wh[0]], np.int32))
        image = fn.slice(
            resized, corner_yx, shape, axes=[0, 1], out_of_bounds_policy="pad", fill_values=[pad_value] * 3
        )
        pipeline.set_outputs(image)
    pipeline.build()
    return pipeline


def feed(pipeline: Pipeline, encoded: list[NDArray[np.uint8]], placed: list[Any]) -> None:
    """Give a :func:`letterbox_pipeline` its pictures and, from ``placement``, where each of them goes."""
    pipeline.feed_input("encoded", encoded)
    pipeline.feed_input("resized_hw", [np.array([h, w], np.float32) for (w, h), _ in placed])
    pipeline.feed_input("corner_yx", [np.array([-top, -left], np.int32) for _, (left, top) in placed])


def _is_whole_jpeg(encoded: bytes) -> bool:
    """Begins and ends as a JPEG; nvJPEG would fill up a truncated one in silence."""
    return encoded.startswith(b"\xff\xd8\xff") and encoded.rstrip(b"\x00").endswith(b"\xff\xd9")

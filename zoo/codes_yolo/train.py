"""The whole recipe in one command: `python -m zoo.codes_yolo.train` makes scenes, trains, exports, scores."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.codes_yolo.anchors import cluster_anchors
from zoo.codes_yolo.augmentation import TrainingPictures, collate
from zoo.codes_yolo.evaluate import as_markdown, evaluate
from zoo.codes_yolo.export import INPUT_PX, export
from zoo.codes_yolo.loss import detection_loss
from zoo.codes_yolo.network import ANCHORS_PER_SCALE, STRIDES, CodesNetwork
from zoo.scenes.dataset import HELD_OUT_SEED, SIDE_PX, TRAINING_SEED, SceneCache, scene_cache
from zoo.scenes.symbols import LABELS

_HERE = Path(__file__).parent
# Until this part of the time, pictures of these sides: a step costs what its pixels cost, so most steps see
# small ones, and the last ones the size that is deployed.
_PHASES = ((0.45, (224, 256, 288)), (0.78, (320, 352)), (1.0, (384, 416, 416)))
_WARM_UP_STEPS = 200
_ENOUGH_TO_START = 3000  # scenes; the others are made while the training runs


@dataclass
class Options:
    """What one run is told; see `--help`."""

    minutes: float
    scenes: int
    held_out: int
    first_seed: int
    batch: int
    rate: float
    report_s: float
    cache: Path
    start: Path | None
    sides: list[int] | None
    out: Path


class Average:
    """Exponential moving average of the weights: what is exported."""

    def __init__(self, network: CodesNetwork) -> None:
        self.network = copy.deepcopy(network).eval()
        self.steps = 0

    def update(self, network: CodesNetwork) -> None:
        """Follow the network; faster in the beginning."""
        self.steps += 1
        keep = 0.998 * (1 - math.exp(-self.steps / 400))
        with torch.no_grad():
            for mean, now in zip(
                self.network.state_dict().values(), network.state_dict().values(), strict=True
            ):
                if mean.dtype.is_floating_point:
                    mean.mul_(keep).add_(now, alpha=1 - keep)
                else:
                    mean.copy_(now)


class BatchKeys:
    """Endless batches of keys (scene, side, seed): one side per batch, drawn from `sides_px`."""

    def __init__(self, cache: SceneCache, batch: int, rng: np.random.Generator) -> None:
        self._cache, self._batch, self._rng = cache, batch, rng
        self.sides_px: tuple[int, ...] = _PHASES[0][1]

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        """Batches without end."""
        while True:
            # Scenes may still be made meanwhile: each round takes those that are there.
            order = self._rng.permutation(self._cache.ready())
            for at in range(0, len(order) - self._batch + 1, self._batch):
                side = int(self._rng.choice(self.sides_px))
                seed = int(self._rng.integers(2**31))
                yield [(int(index), side, seed) for index in order[at : at + self._batch]]


def scene_anchors(cache: SceneCache) -> list[list[list[float]]]:
    """Anchors for the deployed size."""
    targets = cache.targets[cache.ready()]
    boxes = targets[targets[..., 0] >= 0]
    sizes = (boxes[:, 3:] - boxes[:, 1:3]).astype(np.float64) * INPUT_PX / SIDE_PX
    return cluster_anchors(np.maximum(sizes, 2), len(STRIDES), ANCHORS_PER_SCALE)


def _rate_at(options: Options, done: float, step: int) -> float:
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return options.rate * cosine * min(1.0, (step + 1) / _WARM_UP_STEPS)


def _step(
    network: CodesNetwork, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], anchors: Tensor
) -> list[float]:
    pictures = batch[0].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).float() / 255
    # bfloat16 doubles the speed on processors that have it; weights and loss stay float32.
    with torch.autocast("cpu", torch.bfloat16):
        heads = network(pictures)
    loss, parts = detection_loss(heads, batch[1], anchors)
    optimiser.zero_grad(set_to_none=True)
    (loss * 10).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 20.0)
    optimiser.step()
    return parts


def _groups(network: CodesNetwork) -> list[dict[str, object]]:
    """Weight decay for kernels only."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]


def _save(
    average: Average, anchors: list[list[list[float]]], held_out: SceneCache, out: Path, count: int
) -> str:
    """Checkpoint, export, score on `count` held-out scenes."""
    torch.save({"network": average.network.state_dict(), "anchors": anchors}, out / "weights.pt")
    export(average.network, anchors, out)
    score = evaluate(out, held_out, count)
    return "AP {AP:.3f} AP50 {AP50:.3f} ".format(**score["all"]) + " ".join(
        f"{label} {score[label]['AP50']:.3f}" for label in LABELS
    )


def train(options: Options, cache: SceneCache, held_out: SceneCache) -> None:
    """Train for the given time, report and export now and then and in the end."""
    torch.manual_seed(0)
    anchors = scene_anchors(cache)
    network = CodesNetwork(len(LABELS))
    if options.start:
        stored = torch.load(options.start, weights_only=True)
        anchors = stored["anchors"]
        network.load_state_dict(stored["network"])
    network = network.to(memory_format=torch.channels_last)
    average = Average(network)
    optimiser = torch.optim.AdamW(_groups(network), lr=options.rate, betas=(0.9, 0.98))
    keys = BatchKeys(cache, options.batch, np.random.default_rng(1 if options.start else 0))
    loader = DataLoader(
        TrainingPictures(cache),
        batch_sampler=keys,
        num_workers=2,
        collate_fn=collate,
        prefetch_factor=3,
    )
    anchors_px = torch.tensor(anchors)
    print(f"{sum(p.numel() for p in network.parameters())} parameters, anchors {anchors}", flush=True)
    started, reported, sums, step_of_report = time.monotonic(), time.monotonic(), np.zeros(3), 0
    for step, batch in enumerate(loader):
        done = (time.monotonic() - started) / 60 / options.minutes
        if done >= 1:
            break
        keys.sides_px = tuple(options.sides or next(sides for until, sides in _PHASES if done < until))
        for group in optimiser.param_groups:
            group["lr"] = _rate_at(options, done, step)
        sums += _step(network, optimiser, batch, anchors_px)
        average.update(network)
        if step % 50 == 49:
            speed = options.batch * (step + 1 - step_of_report) / (time.monotonic() - reported)
            print(f"{done:4.0%} step {step + 1} loss {(sums / 50).round(4)} {speed:.0f}/s", flush=True)
            sums = sums * 0
        if time.monotonic() - reported > options.report_s:
            print(f"  {_save(average, anchors, held_out, options.out, 200)}", flush=True)
            reported, step_of_report = time.monotonic(), step + 1
    print(f"  {_save(average, anchors, held_out, options.out, 200)}", flush=True)


def _parse() -> Options:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=50, help="training time (the schedule follows the clock)"
    )
    parser.add_argument("--scenes", type=int, default=6000)
    parser.add_argument("--held-out", type=int, default=600)
    parser.add_argument("--first-seed", type=int, default=TRAINING_SEED)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2.5e-3, help="highest learning rate")
    parser.add_argument("--report-s", type=float, default=300)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/detserve/scenes")
    parser.add_argument("--start", type=Path, help="weights.pt to go on from")
    parser.add_argument("--sides", type=int, nargs="+", help="sides of the pictures (px), all the time")
    parser.add_argument("--out", type=Path, default=_HERE)
    return Options(**vars(parser.parse_args()))


def main() -> None:
    """Run the recipe."""
    options = _parse()
    held_out = scene_cache(options.cache / "held_out", options.held_out, HELD_OUT_SEED)
    enough = min(options.scenes, _ENOUGH_TO_START)
    cache = scene_cache(options.cache / "training", options.scenes, options.first_seed, enough)
    train(options, cache, held_out)
    score = evaluate(options.out, held_out)
    (options.out / "score.json").write_text(json.dumps(score, indent=1) + "\n")
    print(as_markdown(score))


if __name__ == "__main__":
    main()

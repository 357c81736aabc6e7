"""One training run for torchvision's detectors: cached scenes in, the best weights exported now and then."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.codes_features import CHECKPOINT, CodesFeatures
from zoo.codes_yolo.augmentation import TrainingPictures, collate
from zoo.codes_yolo.train import Average, BatchKeys
from zoo.scenes.dataset import HELD_OUT_SEED, TRAINING_SEED, SceneCache, scene_cache

# Part of the time, and the picture sides until then: small pictures are cheap, the last ones are as deployed.
_PHASES = ((0.35, (256, 288)), (0.7, (320, 352)), (1.0, (384, 416, 416)))
_WARM_UP_STEPS = 100
_REPORT_STEPS = 50


@dataclass
class Options:
    """What one run is told; see `--help`."""

    minutes: float
    scenes: int
    held_out: int
    threads: int
    batch: int
    rate: float
    features_rate: float
    report_s: float
    cache: Path
    features: Path
    start: Path | None
    out: Path


def parse_options(description: str | None, out: Path) -> Options:
    """Read the command line of a recipe."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=25, help="training time (the schedule follows it)")
    parser.add_argument("--scenes", type=int, default=14000)
    parser.add_argument("--held-out", type=int, default=600)
    # One: the other cores turn and recolour scenes meanwhile, and waiting threads would take them.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--features-rate", type=float, default=0.3, help="share of it for codes_yolo's part")
    parser.add_argument("--report-s", type=float, default=240)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/detserve/scenes")
    parser.add_argument("--features", type=Path, default=CHECKPOINT, help="codes_yolo to begin with")
    parser.add_argument("--start", type=Path, help="weights.pt to go on from")
    parser.add_argument("--out", type=Path, default=out)
    return Options(**vars(parser.parse_args()))


def open_scenes(options: Options) -> tuple[SceneCache, SceneCache]:
    """Training and held-out scenes; made where the cache lacks them."""
    held_out = scene_cache(options.cache / "held_out", options.held_out, HELD_OUT_SEED)
    return scene_cache(options.cache / "training", options.scenes, TRAINING_SEED), held_out


def as_torchvision(targets: Tensor, count: int) -> list[dict[str, Tensor]]:
    """Rows (picture, class, cx, cy, w, h) to one dict a picture, with corners and labels from 1."""
    corners = torch.cat([targets[:, 2:4] - targets[:, 4:] / 2, targets[:, 2:4] + targets[:, 4:] / 2], 1)
    large = (targets[:, 4:] > 1).all(1)
    dicts = []
    for index in range(count):
        own = large & (targets[:, 0] == index)
        dicts.append({"boxes": corners[own], "labels": targets[own, 1].long() + 1})
    return dicts


def _groups(network: nn.Module, options: Options) -> list[dict[str, object]]:
    """The part that is trained already moves slower; weight decay is for kernels only."""
    trained = {
        id(p) for part in network.modules() if isinstance(part, CodesFeatures) for p in part.parameters()
    }
    moving = [p for p in network.parameters() if p.requires_grad]
    groups = []
    for factor, inside in ((options.features_rate, True), (1.0, False)):
        for decay, kernels in ((0.02, True), (0.0, False)):
            chosen = [p for p in moving if (id(p) in trained) == inside and (p.ndim > 1) == kernels]
            groups.append({"params": chosen, "weight_decay": decay, "factor": factor})
    return groups


def _rate_at(options: Options, done: float, step: int) -> float:
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return options.rate * cosine * min(1.0, (step + 1) / _WARM_UP_STEPS)


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> dict[str, float]:
    pictures = batch[0].permute(0, 3, 1, 2).float() / 255
    losses = network(list(pictures), as_torchvision(batch[1], len(pictures)))
    optimiser.zero_grad(set_to_none=True)
    sum(losses.values()).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimiser.step()
    return {name: float(loss.detach()) for name, loss in losses.items()}


def train(network: nn.Module, options: Options, scenes: SceneCache, save: Callable[[nn.Module], str]) -> None:
    """Train for the given time. `save` exports the averaged network, now and then and in the end."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if options.start:
        network.load_state_dict(torch.load(options.start, weights_only=True))
    else:
        next(part for part in network.modules() if isinstance(part, CodesFeatures)).load(options.features)
    network = network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(network)
    optimiser = torch.optim.AdamW(_groups(network, options), lr=options.rate, betas=(0.9, 0.98))
    keys = BatchKeys(scenes, options.batch, np.random.default_rng(2 if options.start else 1))
    loader = DataLoader(
        TrainingPictures(scenes),
        batch_sampler=keys,
        num_workers=2,
        collate_fn=collate,
        prefetch_factor=3,  # type: ignore[arg-type]
    )
    print(f"{sum(p.numel() for p in network.parameters())} parameters", flush=True)
    started = reported = counted = time.monotonic()
    sums: dict[str, float] = {}
    for step, batch in enumerate(loader):
        done = (time.monotonic() - started) / 60 / options.minutes
        if done >= 1:
            break
        keys.sides_px = next(sides for until, sides in _PHASES if done < until)
        for group in optimiser.param_groups:
            group["lr"] = _rate_at(options, done, step) * group["factor"]
        for name, loss in _step(network, optimiser, batch).items():
            sums[name] = sums.get(name, 0.0) + loss / _REPORT_STEPS
        average.update(network)
        if step % _REPORT_STEPS == _REPORT_STEPS - 1:
            speed = options.batch * _REPORT_STEPS / (time.monotonic() - counted)
            text = " ".join(f"{name} {loss:.3f}" for name, loss in sums.items())
            print(f"{done:4.0%} step {step + 1} {text} {speed:.0f}/s", flush=True)
            sums, counted = {}, time.monotonic()
        if time.monotonic() - reported > options.report_s:
            print(f"  {_save(average, options, save)}", flush=True)
            reported = counted = time.monotonic()
    print(f"  {_save(average, options, save)}", flush=True)


def _save(average: Average, options: Options, save: Callable[[nn.Module], str]) -> str:
    torch.save(average.network.state_dict(), options.out / "weights.pt")
    return save(average.network)

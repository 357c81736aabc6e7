"""What pictures say about a card: the best setting, by how much it leads, and where they cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detserve_builder.card_search import search
from detserve_builder.card_search.judge import IMPOSSIBLE, Judge, Lead, lead
from detserve_builder.card_search.labelled import labelled
from detserve_builder.card_search.mirrored import mirrored
from detserve_builder.card_search.networks import Networks
from detserve_builder.card_search.search import neighbours
from detserve_builder.card_search.settings import (
    AXES,
    FIELDS,
    Axis,
    Setting,
    choices,
    column_field,
    setting_of,
    with_setting,
)
from detserve_builder.card_sources import InferredCard, Source
from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families import FAMILIES
from detserve_builder.precision.candidate_accuracy import labelled_dataset
from detserve_core.card import Card, PreprocessSpec, Resize

MOST_PICTURES = 200
_CLOSE = 0.95
Progress = Callable[[int, int], None]
"""Told how many times a picture has been through the network so far, and of about how many."""


@dataclass(frozen=True)
class Decision:
    """The card as the pictures have it, and one sentence on how good it is and what it was before."""

    inferred: InferredCard
    sentence: str


def decide_card(
    checkpoint: Checkpoint,
    inferred: InferredCard,
    images: Path,
    labels: Path | None,
    progress: Progress = lambda done, total: None,
) -> Decision:
    """Decide the preprocessing, and with ``labels`` the class columns, on pictures of ``images``.

    By AP with ``labels``, without them by :class:`Mirrored`. What the card has stands unless another
    choice leads beyond the noise. Raises BuildError where pictures or labels cannot be
    used.
    """
    done = 0

    def on_picture() -> None:
        nonlocal done
        done += 1
        progress(done, search.about_runs(tried, len(judge.pictures)))

    networks, tried = Networks(checkpoint, inferred.card), choices(inferred, labelled=labels is not None)
    judge: Judge
    if labels is None:
        judge = mirrored(networks, images, MOST_PICTURES, on_picture)
    else:
        truth = labelled_dataset(labels, images, inferred.card)
        judge = labelled(networks, truth, MOST_PICTURES, on_picture)
    return decision_of(judge, inferred, _usual_geometry(checkpoint, inferred.card), tried)


def decision_of(
    judge: Judge,
    inferred: InferredCard,
    usual: tuple[Resize, int] | None,
    tried: Mapping[Axis, list[Any]],
) -> Decision:
    """What ``judge`` says of the settings ``tried``; ``usual`` is the family's way to resize and pad."""
    best = _what_stands(judge, inferred, usual, search.find(judge, tried))
    best = _as_the_family_does(judge, inferred, usual, best)
    figure = judge.score(best, judge.pictures)
    if figure < judge.worthless:
        return Decision(
            inferred,
            f"cannot tell: with the best of all settings {judge.figure} is {figure:.3f} on "
            f"{len(judge.pictures)} pictures; either nothing of the detector's classes is in them, or the "
            "family, the head or the labels are not right",
        )
    sentence = f"{judge.reported(best)} on {len(judge.pictures)} pictures"
    if best != (start := setting_of(inferred.card)):
        sentence += f"; with the card as it was {judge.reported(start)}"
    return Decision(_with_verdicts(judge, inferred, best, tried), sentence)


def _what_stands(
    judge: Judge, inferred: InferredCard, usual: tuple[Resize, int] | None, best: Setting
) -> Setting:
    """The best setting, with what the card has where the difference is noise.

    A way to resize that somebody said falls where the family's is better, too.
    """
    start = setting_of(inferred.card)
    for axis in AXES:
        if getattr(best, axis) == getattr(start, axis):
            continue
        kept = replace(best, **{axis: getattr(start, axis)})
        by_user = inferred.sources.get("preprocess.resize") is Source.SAID
        if axis == "geometry" and by_user and usual is not None:
            least = judge.score(replace(best, geometry=usual), judge.pictures)
        else:
            least = IMPOSSIBLE
        if not lead(judge, best, kept).certain and judge.score(kept, judge.pictures) >= least:
            best = kept
    return best


def _usual_geometry(checkpoint: Checkpoint, card: Card) -> tuple[Resize, int] | None:
    """How the family's networks are fed, where its recognition says it."""
    family = next(family for family in FAMILIES if family.name == card.family)
    draft = family.recognise(checkpoint)
    fields = dict(draft.card_fields.get("preprocess", {})) if draft else {}
    fields |= checkpoint.card_fields.get("preprocess", {})
    if "resize" not in fields:
        return None
    spec = PreprocessSpec.model_validate(fields)
    return spec.resize, spec.pad_value


def _as_the_family_does(
    judge: Judge, inferred: InferredCard, usual: tuple[Resize, int] | None, best: Setting
) -> Setting:
    """The family's own way to resize and pad, where nobody said another and it is not far behind.

    Ways differ by little, and what the authors trained with holds for more pictures than these.
    """
    if usual is None or (
        _is_said(inferred, "geometry") and best.geometry == setting_of(inferred.card).geometry
    ):
        return best
    kept, every = replace(best, geometry=usual), judge.pictures
    return kept if judge.score(kept, every) >= _CLOSE * judge.score(best, every) else best


def _is_said(inferred: InferredCard, axis: Axis) -> bool:
    return any(inferred.sources.get(name) in (Source.SAID, Source.METADATA) for name in FIELDS[axis])


def _with_verdicts(
    judge: Judge, inferred: InferredCard, best: Setting, tried: Mapping[Axis, list[Any]]
) -> InferredCard:
    """The card of ``best``, with the lead of each field, or what else it could be."""
    start = setting_of(inferred.card)
    sources, guesses, leads = dict(inferred.sources), dict(inferred.guesses), {}
    if best.geometry[0] is Resize.STRETCH:  # pads nothing
        sources.pop("preprocess.pad_value", None)
        guesses.pop("preprocess.pad_value", None)
    for axis in AXES:
        rivals = [ranked.setting for ranked in neighbours(judge, tried, best, axis)]
        for names, of_these in _of_fields(judge, axis, best, rivals, inferred.card):
            told = _verdict(judge, best, of_these, axis)
            for name in names:
                guesses.pop(name, None)
                if told.certain:
                    sources[name], leads[name] = Source.MEASURED, told.text
                elif sources.get(name) in (Source.SAID, Source.METADATA) and getattr(start, axis) == getattr(
                    best, axis
                ):
                    leads[name] = told.text
                else:
                    sources[name], guesses[name] = Source.GUESS, told.text
    return InferredCard(with_setting(inferred.card, best), sources, guesses, leads)


@dataclass(frozen=True)
class _Verdict:
    certain: bool
    text: str


def _of_fields(
    judge: Judge, axis: Axis, best: Setting, rivals: list[Setting], card: Card
) -> list[tuple[list[str], list[Setting]]]:
    """Fields that one comparison decides, and what they are compared with."""
    every = judge.pictures
    if not rivals:
        return []
    if axis == "columns":  # a head that says none has the same as one of them
        rivals = [one for one in rivals if judge.score(one, every) != judge.score(best, every)]
        return [([f"head.{column_field(card)}"], rivals)]
    if axis != "geometry":
        return [(list(FIELDS[axis]), rivals)]
    resize = best.geometry[0]
    others = [rival for rival in rivals if rival.geometry[0] is not resize]
    pads = [rival for rival in rivals if rival.geometry[0] is resize]
    of_resize = (["preprocess.resize"], others)
    return [of_resize] if resize is Resize.STRETCH else [of_resize, (["preprocess.pad_value"], pads)]


def _verdict(judge: Judge, best: Setting, rivals: list[Setting], axis: Axis) -> _Verdict:
    if not rivals:
        return _Verdict(True, "all others are far behind")
    rival, ahead = min(((one, lead(judge, best, one)) for one in rivals), key=_closest)
    ours, theirs = (judge.score(one, judge.pictures) for one in (best, rival))
    name = rival.shown(axis)
    if ahead.certain:
        return _Verdict(True, f"leads by {ahead.difference:.3f} over {name} ({judge.figure} {ours:.3f})")
    if ahead.difference == 0:
        return _Verdict(False, f"{name}: no difference on these pictures")
    return _Verdict(False, f"{name}: {judge.figure} {theirs:.3f} against {ours:.3f}, within the noise")


def _closest(compared: tuple[Setting, Lead]) -> tuple[bool, float]:
    return compared[1].certain, compared[1].difference

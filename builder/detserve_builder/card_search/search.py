"""Coordinate descent over settings: few pictures first, all of them for those that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from detserve_builder.card_search.judge import IMPOSSIBLE, Judge
from detserve_builder.card_search.settings import AXES, Axis, Setting

FEW = 16
_FINALISTS = 3
_USELESS = 0.4  # of the best's score on a quarter of these
_HOPELESS = 0.6  # of the best's score on few pictures: not tried on all
_SEES = 5  # times worthless: the class columns can be right
_MOST_STEPS = 4


@dataclass(frozen=True)
class Ranked:
    """A setting and its score."""

    score: float
    setting: Setting


def find(judge: Judge, choices: Mapping[Axis, list[Any]]) -> Setting:
    """The setting with the best score.

    The value range and the colour order first, as nothing is found with a wrong range; then resizing and
    padding with the best two of them; then, on all pictures, every step along one axis from the best, until
    none is better.
    """
    every = judge.pictures
    few = every[:: max(1, len(every) // FEW)]
    best = [ranked.setting for ranked in _normalisations(judge, choices, few)[:2]]
    best = [
        ranked.setting
        for ranked in _sifted(
            judge,
            [replace(one, geometry=geometry) for one in best for geometry in choices["geometry"]],
            few,
        )
    ]
    now = _rank(judge, best[:_FINALISTS], every)[0]
    for _ in range(_MOST_STEPS):
        better = max(
            (ranked for axis in AXES for ranked in neighbours(judge, choices, now.setting, axis)),
            key=lambda ranked: ranked.score,
            default=now,
        )
        if better.score <= now.score:
            break
        now = better
    return now.setting


def about_runs(choices: Mapping[Axis, list[Any]], pictures: int) -> int:
    """About how many runs of the network :func:`find` and the verdicts take."""
    few, count = min(FEW, pictures), {axis: len(tried) for axis, tried in choices.items()}
    on_few = count["values"] * count["color"] + 2 * count["geometry"] + 3 * count["columns"]
    return few * on_few + pictures * (4 + count["geometry"] + bool(count["color"] > 1))


def neighbours(judge: Judge, choices: Mapping[Axis, list[Any]], setting: Setting, axis: Axis) -> list[Ranked]:
    """The other choices on one axis, best first, on all pictures; without those that few pictures rule out.

    The best of them stays in any case.
    """
    every = judge.pictures
    few = every[:: max(1, len(every) // FEW)]
    others = [
        replace(setting, **{axis: choice}) for choice in choices[axis] if choice != getattr(setting, axis)
    ]
    now = judge.score(setting, few)
    least = _HOPELESS * now if now > 0 else IMPOSSIBLE
    ranked = _rank(judge, others, few)
    kept = [one.setting for place, one in enumerate(ranked) if not place or one.score >= least]
    return [one for one in _rank(judge, kept, every) if one.score > IMPOSSIBLE]


def _normalisations(judge: Judge, choices: Mapping[Axis, list[Any]], few: Sequence[int]) -> list[Ranked]:
    """Value range, colour order and class columns at the geometry that the card has.

    The range is looked for by boxes alone: a class that is off by one would hide it. Where next to nothing is
    found with one set of columns, the background may be among them, and the next is tried.
    """
    several = len(choices["columns"]) > 1
    found: list[Ranked] = []
    for columns in choices["columns"]:
        settings = [
            Setting(values, color, choices["geometry"][0], columns)
            for values, color in product(choices["values"], choices["color"])
        ]
        found = sorted(found + _sifted(judge, settings, few, of_any_class=several), key=_best_first)
        if found[0].score >= _SEES * judge.worthless:
            break
    if not several:
        return found
    settings = [
        replace(one.setting, columns=columns) for one in found[:_FINALISTS] for columns in choices["columns"]
    ]
    return _sifted(judge, settings, few)


def _sifted(
    judge: Judge, settings: Sequence[Setting], few: Sequence[int], *, of_any_class: bool = False
) -> list[Ranked]:
    """The settings that a quarter of ``few`` does not rule out, on all of them; best first."""
    ranked = _rank(judge, settings, few[::4], of_any_class=of_any_class)
    least = _USELESS * ranked[0].score if ranked[0].score > 0 else IMPOSSIBLE
    kept = [one.setting for place, one in enumerate(ranked) if place < _FINALISTS or one.score >= least]
    return _rank(judge, kept, few, of_any_class=of_any_class)


def _rank(
    judge: Judge, settings: Sequence[Setting], pictures: Sequence[int], *, of_any_class: bool = False
) -> list[Ranked]:
    scored = [
        Ranked(judge.score(setting, pictures, of_any_class=of_any_class), setting) for setting in settings
    ]
    return sorted(scored, key=_best_first)


def _best_first(ranked: Ranked) -> float:
    return -ranked.score

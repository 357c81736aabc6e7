"""The tiny network of the precision tests, its pictures and statistics."""

from __future__ import annotations

from tests.builder.precision.conftest import float_probe, model, own_cache, source, statistics, tiny

__all__ = ["float_probe", "model", "own_cache", "source", "statistics", "tiny"]

"""Detectors that suppress by themselves."""

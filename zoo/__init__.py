"""Detectors trained by this project, and the generated scenes they are trained from."""

"""Smaller networks: whole channels out, or weights set to zero."""

"""DETR and its kin."""

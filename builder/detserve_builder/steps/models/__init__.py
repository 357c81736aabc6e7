"""What becomes ``model.py`` of a step: the side of it that Triton calls."""

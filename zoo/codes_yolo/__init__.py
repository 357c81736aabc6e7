"""The default detector: machine-readable codes, a small YOLOv3-style network."""

"""The fastest of the three: machine-readable codes, a small YOLOv3-style network."""

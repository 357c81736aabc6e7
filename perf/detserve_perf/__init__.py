"""From a running server to numbers: speed and accuracy."""

"""Checkpoint and card -> the prepared ONNX, proved against the file it came from."""

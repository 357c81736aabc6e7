"""Darknet's .cfg and .weights -> ONNX."""

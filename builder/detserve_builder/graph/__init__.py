"""An ONNX graph in memory: read, changed, put in order and run once."""

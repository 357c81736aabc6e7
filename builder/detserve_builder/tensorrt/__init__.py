"""The TensorRT target: lint and compile gate for the ONNX, plans for the serving image."""

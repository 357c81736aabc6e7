"""Precision passes on the prepared ONNX, and the measurements that admit them."""

"""Other ways to serve the same ONNX with the same pre and post code, to compare with."""

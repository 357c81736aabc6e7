"""A checkpoint file -> an ONNX model in the one form that families and preparation know."""

from detserve_builder.checkpoint.checkpoint import Checkpoint, TensorInfo
from detserve_builder.checkpoint.load import at_size, load_checkpoint

__all__ = ["Checkpoint", "TensorInfo", "at_size", "load_checkpoint"]

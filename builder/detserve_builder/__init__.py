"""From a detector checkpoint to a Triton model repository."""

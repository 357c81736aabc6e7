"""From a detector checkpoint to a measured, guarded Triton deployment."""

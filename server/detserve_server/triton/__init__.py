"""A real Triton on this machine: where it is, its command line, its ports, its memory, its last words."""

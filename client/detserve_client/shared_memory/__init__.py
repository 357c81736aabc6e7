"""Frames handed over in shared memory, where server and client are on one machine."""

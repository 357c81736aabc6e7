"""The server that is measured: how it is reached, what it says of itself, its processes."""

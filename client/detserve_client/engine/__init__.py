"""What a client does: flows without waiting, which threads and event loops carry out; retries, streams."""

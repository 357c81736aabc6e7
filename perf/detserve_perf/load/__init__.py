"""Requests made and sent: perf_analyzer, and a generator of our own for what it cannot do."""

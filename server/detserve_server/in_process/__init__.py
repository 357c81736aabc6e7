"""Pipelines inside the server's own process: a Triton backend that embeds one Python.

``native/`` is compiled on the serving machine, ``interpreter/`` is what Python runs there, beside the
model.py of each pipeline. Triton's own python backend serves the same files, each in its own process;
:mod:`.choice` says which of the two it is.
"""

"""This machine: files that appear whole, ports, processes, the cache folder."""

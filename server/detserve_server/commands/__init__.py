"""Subcommands of the server."""

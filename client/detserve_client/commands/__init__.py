"""Subcommands of the client."""

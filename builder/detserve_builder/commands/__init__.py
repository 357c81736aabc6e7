"""Subcommands of the builder."""

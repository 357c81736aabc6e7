"""Measurements to look at: tables, a page, what changed since the last ones."""

"""SSD: prior boxes and what lies behind an output."""

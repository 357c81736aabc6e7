"""Pictures: found, read upright, encoded, drawn on, written."""

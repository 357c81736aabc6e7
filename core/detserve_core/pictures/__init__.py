"""Pictures on this side: read upright, drawn into, written whole."""

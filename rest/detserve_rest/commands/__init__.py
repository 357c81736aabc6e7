"""``detserve rest``."""

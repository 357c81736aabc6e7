"""Generated photographs-like scenes with true boxes; nothing here needs a deep-learning framework."""

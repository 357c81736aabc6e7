"""What is in a model repository, as every package reads it."""

"""What every field of a card means, read off the models that check it."""

"""Pictures that decide what a file does not say: how pixels reach its network, and where its classes are."""

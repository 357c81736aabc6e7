"""Pictures that decide what a file does not say: how pixels reach its network, and which columns are classes."""

"""API keys: made, listed, scoped, expired and revoked in a file that holds hashes only."""

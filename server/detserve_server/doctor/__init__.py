"""What would stop a repository, or the compose file, from being served here."""

"""Ed25519 signatures: of a model repository, and (for the audit log) of any other statement."""

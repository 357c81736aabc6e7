"""A certificate authority of one's own: server and client certificates, their expiry, their rotation."""

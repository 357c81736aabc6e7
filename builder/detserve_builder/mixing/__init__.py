"""What of a network is worth 8 bits on this machine, and how its SiLUs are computed."""

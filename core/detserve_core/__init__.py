"""What the client, the builder, the server and perf have in common; it imports none of them."""

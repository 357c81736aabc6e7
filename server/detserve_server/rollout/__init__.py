"""Blue and green on one machine: a new server takes over from an old one behind the gateway, or does not.

The new server is compared with the old one before it has any traffic (``detserve canary``), gets a share of
it while the gateway's own log is watched for failures, is compared again under that load, and then gets
everything. Each step is a whole nginx.conf and a reload, which finishes the requests in flight. Whatever
goes wrong on the way, an interrupt included, gives all traffic back to the old server.
"""

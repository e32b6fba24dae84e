"""The bodies, typed."""

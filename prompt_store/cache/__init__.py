"""A local cache in front of a prompt store, and what goes on while that is away."""

"""A prompt store in a directory."""

"""A prompt store in Redis or Valkey."""

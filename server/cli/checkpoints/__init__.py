"""Checkpoints on the publisher's own disk: found, opened, stripped, rewritten as safetensors. Speaks no HTTP.

The server takes safetensors and JSON only; which family it is and whether it fits is for the server to say.
"""

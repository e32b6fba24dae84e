"""The frozen model: load, gates, probe, forward. The only package that touches transformers' models."""

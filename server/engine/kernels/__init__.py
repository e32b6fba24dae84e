"""Implementations of the one attention contract."""

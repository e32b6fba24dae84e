"""Prefix-Tuning, as its authors save it."""

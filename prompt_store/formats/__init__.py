"""Checkpoints that other people's training code wrote, one module a family."""

"""What this machine can do at best, and what a work would take at that pace."""

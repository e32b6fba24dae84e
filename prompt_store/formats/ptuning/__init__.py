"""P-Tuning v1 and v2, as their authors save them."""

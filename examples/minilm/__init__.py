"""What trains a prompt of MiniLM: P-Tuning v2, as its authors train and save it."""

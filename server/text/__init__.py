"""Templates to token ids, and tokens back to text. Knows no engine."""

"""What a user would run instead, in plain transformers and PEFT. Imports nothing of softmux."""

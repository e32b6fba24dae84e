"""How often answers in bfloat16 are those of float32: softmux's, beside the training code's on the same rows."""

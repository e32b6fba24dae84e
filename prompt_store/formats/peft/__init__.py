"""HuggingFace PEFT: its directories, and what each of its methods left in them."""

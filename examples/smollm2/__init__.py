"""What trains a prompt of SmolLM2: P-Tuning v1 as its authors train and save it, prefix and prompt tuning by PEFT."""

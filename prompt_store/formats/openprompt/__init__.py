"""OpenPrompt: its templates and verbalizers."""

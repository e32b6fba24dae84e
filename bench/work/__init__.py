"""The same work for every contender: backbones, texts, popularity, virtual tokens, heads. Knows no engine."""

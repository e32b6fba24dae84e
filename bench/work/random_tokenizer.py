"""A tokenizer for random backbones: words of a made-up language, one token each, and texts written in it."""

from __future__ import annotations

import random
from typing import Literal

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

NUM_WORDS = 500
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MEAN_WORDS, _SPREAD, _FEWEST, _MOST = 24, 11, 3, 60  # the movie review snippets' lengths in WordPieces, about


def random_tokenizer(kind: Literal["encoder", "decoder"]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words; an encoder's frames a text as BERT's does."""
    vocab = {word: index for index, word in enumerate((*_SPECIAL, *(f"w{i}" for i in range(NUM_WORDS))))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "encoder":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def random_texts(num_texts: int) -> list[str]:
    """Return seeded texts with the lengths that real ones have."""
    chance = random.Random(0)
    return [" ".join(f"w{chance.randrange(NUM_WORDS)}" for _ in range(_length(chance))) for _ in range(num_texts)]


def _length(chance: random.Random) -> int:
    return min(max(round(chance.gauss(_MEAN_WORDS, _SPREAD)), _FEWEST), _MOST)

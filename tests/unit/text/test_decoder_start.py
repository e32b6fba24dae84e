"""A decoder begins with its start token, then with what the task says, or as the model's own generation does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from peft_cases import spec_of
from stack_cases import prompted
from tiny_tokenizers import t5_tokenizer

from prompt_store.errors import UnfitError
from prompt_store.manifest import HeadKind, Manifest
from server.text.decoder_start import decoder_start
from server.text.tokens import TextTokenizer

T5 = spec_of("t5")
FORCED = replace(T5, decoder_first_token_id=9)
TOKENIZER = TextTokenizer(t5_tokenizer())
SENTINEL = t5_tokenizer().convert_tokens_to_ids("<extra_id_0>")
WORDS: dict[str, Any] = {"kind": HeadKind.LABEL_WORDS, "label_words": {"x": ("good",)}}


def manifest(**said: Any) -> Manifest:
    return prompted(T5, {}, **said).manifest


def test_a_text_begins_with_the_start_token() -> None:
    assert decoder_start(manifest(), T5, TOKENIZER) == (0,)
    assert decoder_start(manifest(decoder_text="<extra_id_0>"), T5, TOKENIZER) == (0, SENTINEL)


def test_a_forced_first_token_is_for_texts_that_say_no_other() -> None:
    assert decoder_start(manifest(), FORCED, TOKENIZER) == (0, 9)
    assert decoder_start(manifest(decoder_text="<extra_id_0>"), FORCED, TOKENIZER) == (0, SENTINEL)
    assert decoder_start(manifest(**WORDS), FORCED, TOKENIZER) == (0,)


def test_what_reads_the_encoder_and_what_has_no_decoder_begin_with_nothing() -> None:
    assert decoder_start(manifest(kind=HeadKind.EMBEDDING, pool="mean"), T5, TOKENIZER) == ()
    assert decoder_start(manifest(), spec_of("gpt2"), TOKENIZER) == ()


def test_a_text_of_other_tokens_is_refused() -> None:
    with pytest.raises(UnfitError, match="decoder_text"):
        decoder_start(manifest(decoder_text="<extra_id_0>"), replace(T5, vocab_size=50), TOKENIZER)

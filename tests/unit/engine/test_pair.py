"""How a tokenizer writes a pair of texts, told as a template, and never guessed."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_tokenizers import bert_tokenizer, gpt2_tokenizer, llama_tokenizer, roberta_tokenizer, xlmr_tokenizer

from server.engine.backbone.pair import pair_template, single_template


@pytest.mark.parametrize(
    ("make", "template"),
    [
        (bert_tokenizer, "<cls>{first}<sep>{second}<sep>"),
        (roberta_tokenizer, "<cls>{first}<sep><sep>{second}<sep>"),
        (xlmr_tokenizer, "<cls>{first}<sep><sep>{second}<sep>"),
        (llama_tokenizer, "<bos>{first}<bos>{second}"),
        (gpt2_tokenizer, None),
        (lambda: gpt2_tokenizer(320, add_bos=True), None),
        (lambda: None, None),
    ],
)
def test_the_frame_of_a_pair(make: Any, template: str | None) -> None:
    assert pair_template(make()) == template


def test_a_special_token_without_a_name_is_no_template() -> None:
    tokenizer = bert_tokenizer()
    tokenizer.sep_token = "[MASK]"  # what stands between the texts has no name any more
    assert pair_template(tokenizer) is None


@pytest.mark.parametrize(
    ("make", "template"),
    [
        (bert_tokenizer, "<cls>{text}<sep>"),
        (xlmr_tokenizer, "<cls>{text}<sep>"),
        (llama_tokenizer, "<bos>{text}"),
        (gpt2_tokenizer, "{text}"),
        (lambda: None, None),
    ],
)
def test_the_frame_of_one_text(make: Any, template: str | None) -> None:
    assert single_template(make()) == template

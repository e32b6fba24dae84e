"""Where entities lie when the row is more than one text: virtual tokens, literals, several fields, bare ids."""

from __future__ import annotations

import torch
from tiny_tokenizers import bert_tokenizer

from prompt_store.template import parse_template
from server.inference.spans import SpanReader
from server.text.filled import Filled
from server.text.filling import Filler, FillRules
from server.text.tokens import TextTokenizer

TOKENIZER = TextTokenizer(bert_tokenizer())
READER = SpanReader(("O", "B-X", "I-X"), TOKENIZER)


def filler(template: str, **rules: int) -> Filler:
    parsed = parse_template(template)
    return Filler(TOKENIZER, FillRules(parsed, parsed.num_soft, "embeds" if parsed.num_soft else None, **rules))


def all_x(filled: Filled) -> torch.Tensor:
    logits = torch.zeros(filled.num_text_tokens, 3)
    logits[:, 2] = 5.0
    return logits


def test_virtual_tokens_and_literals_take_no_part() -> None:
    filled = filler("<soft:2>Find: {text}<soft:1> in it.").fill({"text": "New York"})
    found = READER.read(all_x(filled), filled)
    assert [(e["word"], e["start"], e["end"]) for e in found] == [("new york", 0, 8)]
    assert all("field" not in e for e in found)


def test_an_entity_stays_in_its_field_and_names_it() -> None:
    filled = filler("<cls>{a}<sep>{b}<sep>").fill({"a": "the film", "b": "was good"})
    found = READER.read(all_x(filled), filled)
    assert [(e["field"], e["start"], e["end"]) for e in found] == [("a", 0, 8), ("b", 0, 8)]


def test_a_truncated_text_has_entities_only_where_it_was_read() -> None:
    filled = filler("{text}", max_length=4).fill({"text": "good good bad bad"})
    assert [e["end"] for e in READER.read(all_x(filled), filled, "none")] == [4, 9]


def test_bare_token_ids_have_words_but_no_offsets() -> None:
    ids = TOKENIZER.encode("the film")[0]
    filled = filler("{text}").from_ids([2, *ids, 3])
    found = READER.read(all_x(filled), filled, "none")
    assert [(e["word"], e["start"]) for e in found] == [("the", None), ("film", None)]


def test_nothing_found_is_an_empty_answer() -> None:
    filled = filler("{text}").fill({"text": ""})
    assert READER.read(all_x(filled), filled) == []

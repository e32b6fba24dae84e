"""Whatever the tokens, the deltas joined are the whole decoded; no delta shows a part of a character."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import bert_tokenizer, gpt2_tokenizer, llama_tokenizer, roberta_tokenizer, xlmr_tokenizer

from server.text.detokenise import Detokeniser
from server.text.tokens import TextTokenizer

_TOKENIZERS = {
    "bert": bert_tokenizer(),
    "gpt2": gpt2_tokenizer(320),
    "gpt2-97": gpt2_tokenizer(),
    "roberta": roberta_tokenizer(),
    "llama": llama_tokenizer(),
    "xlmr": xlmr_tokenizer(),
}
_COPIES = {name: TextTokenizer(tokenizer) for name, tokenizer in _TOKENIZERS.items()}


def deltas_of(name: str, ids: list[int]) -> list[str]:
    detokeniser = Detokeniser(_COPIES[name])
    return [*map(detokeniser.push, ids), detokeniser.finish()]


@pytest.mark.parametrize("name", _TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 330), max_size=40))
@example([0x80 + 3] * 40)  # byte pieces or letters without end
@example([240] * 40)
def test_deltas_join_to_the_whole(name: str, ids: list[int]) -> None:
    expected = _TOKENIZERS[name].decode(ids, skip_special_tokens=True)
    assert "".join(deltas_of(name, ids)) == expected


@pytest.mark.parametrize("name", ["gpt2", "roberta", "llama"])
@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("a €😀é the\n"), max_size=20))
def test_no_delta_shows_a_part_of_a_character(name: str, text: str) -> None:
    ids = _TOKENIZERS[name](text, add_special_tokens=False)["input_ids"]
    deltas = deltas_of(name, ids)
    assert "�" not in "".join(deltas)
    assert "".join(deltas) == text


@pytest.mark.parametrize("name", _TOKENIZERS)
def test_plain_words_are_shown_at_once(name: str) -> None:
    ids = _TOKENIZERS[name]("the great the great", add_special_tokens=False)["input_ids"]
    assert all(delta for delta in deltas_of(name, ids)[:-1])

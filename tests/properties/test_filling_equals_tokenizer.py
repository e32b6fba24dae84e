"""Whatever the text, filling the default template is what the tokenizer alone would do, cut or not."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import bert_tokenizer, gpt2_tokenizer, llama_tokenizer, roberta_tokenizer, xlmr_tokenizer
from transformers import PreTrainedTokenizerFast

from prompt_store.errors import UnfitError
from prompt_store.template import parse_template
from server.text.errors import TextTooLongError
from server.text.filling import Filler, FillRules
from server.text.tokens import TextTokenizer

_TOKENIZERS = {
    "bert": bert_tokenizer(),
    "gpt2": gpt2_tokenizer(320, add_bos=True),
    "roberta": roberta_tokenizer(),
    "llama": llama_tokenizer(),
    "xlmr": xlmr_tokenizer(),
}
_COPIES = {name: TextTokenizer(tokenizer) for name, tokenizer in _TOKENIZERS.items()}
_WORDS = st.sampled_from([" ", "  ", "\n", "great", " the", "movies", "é", "😀", "[SEP]", "</s>", "<mask>", "1€", "a"])
_TEXTS = st.lists(_WORDS | st.characters(codec="utf-8"), min_size=1, max_size=12).map("".join)


@pytest.mark.parametrize("name", _TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(text=_TEXTS, max_length=st.none() | st.integers(4, 20), side=st.sampled_from(["left", "right"]))
def test_the_default_template_is_the_tokenizer_alone(name: str, text: str, max_length: int | None, side: str) -> None:
    expected = _ids(_TOKENIZERS[name], text, max_length, side)
    assume(expected)
    rules = FillRules(
        parse_template("<soft:2>{text}"),
        2,
        "embeds",
        max_length,
        truncation_side=side,
    )
    filled = Filler(_COPIES[name], rules).fill({"text": text})
    assert list(filled.input_ids[2:]) == expected


@pytest.mark.parametrize("name", _TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(first=_TEXTS, second=_TEXTS)
def test_every_origin_lies_in_its_own_field(name: str, first: str, second: str) -> None:
    fields = {"a": first, "b": second}
    rules = FillRules(parse_template("Is {a} like{b}? <soft:1> {b}."), 1, "embeds")
    filled = Filler(_COPIES[name], rules).fill(fields)
    assert len(filled.offsets) == len(filled.input_ids)
    for field, start, end in filter(None, filled.offsets):
        assert 0 <= start <= end <= len(fields[field])


@pytest.mark.parametrize("name", _TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(
    first=_TEXTS,
    second=_TEXTS,
    max_length=st.integers(20, 40),
    side=st.sampled_from(["left", "right"]),
    pieces=st.booleans(),
)
def test_only_the_truncated_field_loses_tokens_and_only_at_its_side(
    name: str, first: str, second: str, max_length: int, side: str, pieces: bool
) -> None:
    fields = {"a": first, "b": second}
    template = parse_template("Is {a} like{b}? <soft:1> it.")
    tokenize = "pieces" if pieces else "whole"
    whole = Filler(_COPIES[name], FillRules(template, 1, "embeds", tokenize=tokenize)).fill(fields)
    cut_rules = FillRules(template, 1, "embeds", max_length, "b", side, tokenize)
    try:
        cut = Filler(_COPIES[name], cut_rules).fill(fields)
    except (TextTooLongError, UnfitError):
        assert whole.num_text_tokens > max_length
        return
    num_dropped = len(whole.input_ids) - len(cut.input_ids)
    assert cut.num_text_tokens == min(whole.num_text_tokens, max_length)
    of_b = [i for i, origin in enumerate(whole.offsets) if origin and origin[0] == "b"]
    # A token that also holds a literal or a piece of the other field stays.
    candidates = [of_b[: i + num_dropped][i:] for i in range(len(of_b) - num_dropped + 1)]
    remains = [[t for i, t in enumerate(whole.input_ids) if i not in gone] for gone in map(set, candidates)]
    assert list(cut.input_ids) in remains


def _ids(tokenizer: PreTrainedTokenizerFast, text: str, max_length: int | None, side: str) -> list[int]:
    if max_length is None:
        return list(tokenizer(text)["input_ids"])
    tokenizer.truncation_side = side
    return list(tokenizer(text, truncation=True, max_length=max_length)["input_ids"])

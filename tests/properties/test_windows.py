"""Whatever the texts: windows are the tokenizer's and cover the context, and answers are its own substrings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import bert_tokenizer, roberta_tokenizer, xlmr_tokenizer
from transformers import PreTrainedTokenizerFast

from prompt_store.template import parse_template
from server.engine.backbone.pair import pair_template
from server.inference.parameters import AnswerParameters
from server.inference.question_answering import answer_output
from server.text.errors import TextError
from server.text.filled import Filled
from server.text.filling import Filler, FillRules
from server.text.tokens import TextTokenizer
from server.text.windows import WindowRules

_TOKENIZERS = {"bert": bert_tokenizer(), "roberta": roberta_tokenizer(), "xlmr": xlmr_tokenizer()}
_COPIES = {name: TextTokenizer(tokenizer) for name, tokenizer in _TOKENIZERS.items()}
_WORDS = st.sampled_from(
    [" ", "  ", "\n", "great", " the", "movies", "é", "😀", "İ", "ﬁlm", "东京", "[SEP]", "</s>", "1€", "a."]
)
_TEXTS = st.lists(_WORDS | st.characters(codec="utf-8"), min_size=1, max_size=40).map("".join)


def filler(name: str, max_length: int) -> Filler:
    pair = pair_template(_TOKENIZERS[name])
    assert pair is not None
    template = parse_template("<soft:2>" + pair.format(first="{question}", second="{context}"))
    return Filler(_COPIES[name], FillRules(template, 2, "embeds", max_length, "context"))


def windows_of(name: str, item: dict[str, str], max_length: int, stride: int | None) -> tuple[Filled, ...]:
    try:
        return filler(name, max_length).fill_windows(item, WindowRules(stride, 10_000))
    except TextError:
        assume(False)
        raise


@pytest.mark.parametrize("name", _TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(question=_TEXTS, context=_TEXTS, max_length=st.integers(8, 60), stride=st.integers(0, 12))
def test_windows_are_the_tokenizers_own(name: str, question: str, context: str, max_length: int, stride: int) -> None:
    assume(stride < max_length - 4)  # the tokenizer looks at this first, also where one window is enough
    found = windows_of(name, {"question": question, "context": context}, max_length, stride)
    expected = _overflowing(_TOKENIZERS[name], question, context, max_length, stride)
    assert [list(window.input_ids[2:]) for window in found] == expected["input_ids"]
    if "token_type_ids" in expected:
        assert [list(window.token_type_ids[2:]) for window in found] == expected["token_type_ids"]
    assert all(window.soft_positions == (0, 1) for window in found)


@pytest.mark.parametrize("name", _TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(question=_TEXTS, context=_TEXTS, max_length=st.integers(8, 60), stride=st.integers(0, 12))
def test_windows_together_are_the_whole_context(
    name: str, question: str, context: str, max_length: int, stride: int
) -> None:
    item = {"question": question, "context": context}
    found = windows_of(name, item, max_length, stride)
    (whole,) = windows_of(name, item, 10_000, None)
    first, *later = map(_context_tokens, found)
    assert first + [token for window in later for token in window[stride:]] == _context_tokens(whole)
    assert all(window.num_text_tokens <= max_length for window in found)
    if later:
        assert {window.num_text_tokens for window in found[:-1]} == {max_length}


@pytest.mark.parametrize("name", _TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(
    context=_TEXTS,
    max_length=st.integers(8, 60),
    seed=st.integers(0, 99),
    align=st.booleans(),
    allow_null=st.booleans(),
)
def test_an_answer_is_the_contexts_own_substring(
    name: str, context: str, max_length: int, seed: int, align: bool, allow_null: bool
) -> None:
    rows = windows_of(name, {"question": "was it", "context": context}, max_length, None)
    generator = torch.Generator().manual_seed(seed)
    read = [(row, torch.randn(row.num_text_tokens, 2, generator=generator) * 3) for row in rows]
    parameters = AnswerParameters(top_k=5, align_to_words=align, handle_impossible_answer=allow_null)
    output = answer_output(read, _COPIES[name].special_id("cls"), parameters)
    answers = output["answers"]
    assert {key: output[key] for key in answers[0]} == answers[0]
    assert [answer["score"] for answer in answers] == sorted((answer["score"] for answer in answers), reverse=True)
    assert len({answer["answer"].lower() for answer in answers}) == len(answers)
    for answer in answers:
        assert context[answer["start"] : answer["end"]] == answer["answer"] == answer["answer"].strip()
        assert 0 <= answer["score"] <= len(rows) + 1e-9


def _context_tokens(window: Filled) -> list[tuple[int, object]]:
    pairs = zip(window.input_ids, window.offsets, strict=True)
    return [(token, origin) for token, origin in pairs if origin is not None and origin[0] == "context"]


def _overflowing(tokenizer: PreTrainedTokenizerFast, question: str, context: str, max_length: int, stride: int):
    return tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )

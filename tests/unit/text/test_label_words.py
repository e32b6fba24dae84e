"""Label words to columns, and what is said about words that will not do."""

from __future__ import annotations

import pytest
from tiny_tokenizers import bert_tokenizer, gpt2_tokenizer, llama_tokenizer

from prompt_store.errors import UnfitError
from prompt_store.label_scoring import LabelScoring
from server.text.label_words import label_columns


def test_each_word_is_one_column_in_the_order_of_the_labels() -> None:
    tokenizer = gpt2_tokenizer()
    found = label_columns({"good": (" great", " good"), "bad": (" bad",)}, tokenizer, labels=("bad", "good"))
    assert found.labels == ("bad", "good")
    assert tokenizer.convert_ids_to_tokens(list(found.columns)) == ["Ġbad", "Ġgreat", "Ġgood"]
    assert found.groups == (((0,),), ((1,), (2,)))


def test_the_leading_space_is_part_of_the_word() -> None:
    with pytest.raises(UnfitError) as caught:
        label_columns({"good": ("great",), "bad": (" bad",)}, gpt2_tokenizer())
    assert caught.value.reasons == (
        "word 'great' of label 'good' is 5 tokens: 'g', 'r', 'e', 'a', 't'; use a word of one token, e.g. ' great' "
        "or say label_scoring.tokens: first, mean or max",
    )


def test_every_bad_word_is_named() -> None:
    with pytest.raises(UnfitError) as caught:
        label_columns({"good": (" excellent", " great"), "bad": (" great", "", " dreadful")}, gpt2_tokenizer())
    reasons = caught.value.reasons
    assert len(reasons) == 4
    assert reasons[0].startswith("word ' excellent' of label 'good' is 10 tokens: 'Ġ', 'e', ")
    assert "use a word of one token, e.g. ' good'" in reasons[0]
    assert "same token as ' great' of label 'good'" in reasons[1]
    assert "word '' of label 'bad' is 0 tokens; use" in reasons[2]


def test_a_word_that_the_vocabulary_lacks_is_refused() -> None:
    with pytest.raises(
        UnfitError, match=r"word '1' of label 'one' is not in the vocabulary; use a word of one token or say"
    ):
        label_columns({"one": ("1",), "good": ("good",)}, bert_tokenizer())


def test_labels_and_words_must_name_the_same() -> None:
    with pytest.raises(UnfitError, match="name the same"):
        label_columns({"good": (" good",)}, gpt2_tokenizer(), labels=("good", "bad"))


def test_a_word_inside_a_sentencepiece_text_is_one_token() -> None:
    tokenizer = llama_tokenizer()
    found = label_columns({"great": (" great",), "the": ("the",)}, tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(found.columns)) == ["▁great", "▁the"]


def test_two_spellings_of_one_token_are_read_once() -> None:
    found = label_columns({"good": ("great", " great", "good"), "bad": ("bad",)}, bert_tokenizer())
    assert len(found.columns) == 3
    assert found.groups == (((0,), (0,), (1,)), ((2,),))


@pytest.mark.parametrize(("tokens", "num_read"), [("first", 1), ("mean", 5), ("max", 5)])
def test_a_word_of_several_tokens_is_read_as_the_rule_says(tokens: str, num_read: int) -> None:
    tokenizer = gpt2_tokenizer()
    scoring = LabelScoring.model_validate({"tokens": tokens})
    found = label_columns({"good": ("great",), "bad": (" bad",)}, tokenizer, scoring=scoring)
    assert found.groups[0] == (tuple(range(num_read)),)
    assert tokenizer.convert_ids_to_tokens(list(found.columns[:num_read])) == list("great")[:num_read]


def test_a_word_may_be_given_as_its_tokens() -> None:
    found = label_columns({"good": ((7,), " good"), "bad": ((9,),)}, gpt2_tokenizer())
    assert found.columns[0] == 7
    assert found.words == (((7,), " good"), ((9,),))
    with pytest.raises(UnfitError, match=r"word \(7, 8\) of label 'good' is 2 tokens"):
        label_columns({"good": ((7, 8),)}, gpt2_tokenizer())


def test_labels_of_a_training_may_share_a_token() -> None:
    scoring = LabelScoring(tokens="first")
    found = label_columns({"one": ((7, 8),), "two": ((7, 9), (5,))}, gpt2_tokenizer(), scoring=scoring)
    assert found.columns == (7, 5)


def test_a_prior_has_a_logit_for_every_token_that_is_read() -> None:
    prior = {"one": ((0.5,),), "two": ((0.5,),)}
    scoring = LabelScoring(tokens="mean", words="log-probabilities", prior=prior)
    with pytest.raises(UnfitError, match=r"has \[1\] logits for the words of label 'one', which are read at \[2\]"):
        label_columns({"one": ((7, 8),), "two": ((9,),)}, gpt2_tokenizer(), scoring=scoring)

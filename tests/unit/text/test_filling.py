"""Filling a template: which tokens, where the virtual ones stand, where each token comes from."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_tokenizers import bert_tokenizer, gpt2_tokenizer, llama_tokenizer, roberta_tokenizer
from transformers import PreTrainedTokenizerFast

from prompt_store.errors import UnfitError
from prompt_store.manifest import Fingerprint, HeadKind, Manifest, Method
from prompt_store.template import parse_template
from server.text.errors import FieldError, InputIdsError, TextTooLongError
from server.text.filling import Filled, Filler, FillRules
from server.text.tokens import TextTokenizer

TEXT = "The great movies, it was not bad!"


def filler(tokenizer: PreTrainedTokenizerFast, template: str, **rules: Any) -> Filler:
    parsed = parse_template(template)
    if parsed.num_soft and "place" not in rules:
        rules |= {"place": "embeds", "num_virtual_tokens": parsed.num_soft}
    return Filler(tokenizer, FillRules(parsed, **rules))


def shown(tokenizer: PreTrainedTokenizerFast, filled: Filled) -> list[str]:
    tokens = tokenizer.convert_ids_to_tokens(list(filled.input_ids))
    return ["P" if i in filled.soft_positions else token for i, token in enumerate(tokens)]


@pytest.mark.parametrize(
    "tokenizer",
    [bert_tokenizer(), gpt2_tokenizer(), gpt2_tokenizer(320, add_bos=True), roberta_tokenizer(), llama_tokenizer()],
    ids=["bert", "gpt2", "gpt2-bos", "roberta", "llama"],
)
def test_the_default_template_gives_peft_layout(tokenizer: PreTrainedTokenizerFast) -> None:
    filled = filler(tokenizer, "<soft:3>{text}").fill({"text": TEXT})
    assert filled.soft_positions == (0, 1, 2)
    assert list(filled.input_ids[3:]) == tokenizer(TEXT)["input_ids"]
    assert filled.num_text_tokens == len(filled.input_ids) - 3


def test_template_may_be_the_only_one_to_write_special_tokens() -> None:
    tokenizer = llama_tokenizer()
    bare = filler(tokenizer, "<soft:2>{text}<soft:1>", special_tokens="template").fill({"text": TEXT})
    assert list(bare.input_ids) == [0, 0, *tokenizer(TEXT, add_special_tokens=False)["input_ids"], 0]
    written = filler(tokenizer, "<bos><soft:2>{text}", special_tokens="template").fill({"text": TEXT})
    assert written == filler(tokenizer, "<bos><soft:2>{text}").fill({"text": TEXT})


def test_a_kv_prefix_takes_no_position() -> None:
    tokenizer = bert_tokenizer()
    expected = tuple(tokenizer(TEXT)["input_ids"])
    for template in ("{text}", "<soft:5>{text}"):
        filled = filler(tokenizer, template, place="kv", num_virtual_tokens=5).fill({"text": TEXT})
        assert filled.input_ids == expected
        assert filled.soft_positions == ()


def test_text_between_boundaries_is_tokenised_as_one_string() -> None:
    tokenizer = gpt2_tokenizer()
    filled = filler(tokenizer, "It is {a} {b}.<soft:2> It was").fill({"a": "gre", "b": "at"})
    first, second = tokenizer("It is gre at.")["input_ids"], tokenizer(" It was")["input_ids"]
    assert filled.input_ids == (*first, 0, 0, *second)
    joined = filler(tokenizer, "It is {a}{b}").fill({"a": " gre", "b": "at"})
    assert "Ġgreat" in shown(tokenizer, joined)


def test_pieces_are_tokenised_apart() -> None:
    tokenizer = gpt2_tokenizer()
    filled = filler(tokenizer, "It is{a}{b}", tokenize="pieces").fill({"a": " gre", "b": "at"})
    pieces = [token for piece in ("It is", " gre", "at") for token in tokenizer(piece)["input_ids"]]
    assert list(filled.input_ids) == pieces


def test_special_tokens_inside_the_template_replace_the_tokenizers_own() -> None:
    tokenizer = bert_tokenizer()
    filled = filler(tokenizer, "<cls><soft:2><mask><soft:1> {text}<sep>").fill({"text": "the film"})
    assert shown(tokenizer, filled) == ["[CLS]", "P", "P", "[MASK]", "P", "the", "film", "[SEP]"]
    assert filled.read_position == 3
    assert filled.token_type_ids == (0,) * 8


def test_soft_slots_inside_a_template_without_special_tokens_stand_inside_the_tokenizers_frame() -> None:
    tokenizer = bert_tokenizer()
    filled = filler(tokenizer, "<soft:1>{text}<soft:2> it was").fill({"text": "film"})
    assert shown(tokenizer, filled) == ["P", "[CLS]", "film", "P", "P", "it", "was", "[SEP]"]


def test_token_types_follow_the_tokenizer() -> None:
    tokenizer = bert_tokenizer()
    pair = tokenizer("the film", "was good")
    filled = filler(tokenizer, "<soft:2><cls>{a}<sep>{b}<sep>").fill({"a": "the film", "b": "was good"})
    assert list(filled.input_ids[2:]) == pair["input_ids"]
    assert list(filled.token_type_ids or ()) == [0, 0, *pair["token_type_ids"]]
    assert filler(gpt2_tokenizer(), "{text}").fill({"text": "a"}).token_type_ids is None


def test_a_mask_takes_the_white_space_that_the_tokenizer_gives_it() -> None:
    tokenizer = roberta_tokenizer()
    filled = filler(tokenizer, "<cls>{text} It was <mask> .<eos>").fill({"text": "Good"})
    assert list(filled.input_ids) == tokenizer("Good It was <mask> .")["input_ids"]
    assert filled.read_position == filled.input_ids.index(tokenizer.mask_token_id)
    trailing = filler(tokenizer, "<cls>{text}<mask>{after}<eos>").fill({"text": "Good  ", "after": " the"})
    assert list(trailing.input_ids) == tokenizer("Good  <mask> the")["input_ids"]


def test_offsets_name_the_field_and_its_own_characters() -> None:
    tokenizer = bert_tokenizer()
    filled = filler(tokenizer, "<soft:1><cls> Is {a} the {b}?<sep>").fill({"a": "film", "b": "movies"})
    fields = {"a": "film", "b": "movies"}
    found = [(name, fields[name][start:end]) for name, start, end in filter(None, filled.offsets)]
    assert found == [("a", "film"), ("b", "movie"), ("b", "s")]
    assert filled.offsets[:3] == (None, None, None)
    assert filled.offsets[-1] is None


def test_offsets_of_byte_level_tokens_are_clipped_to_the_field() -> None:
    tokenizer = gpt2_tokenizer()
    filled = filler(tokenizer, "It was {text}!").fill({"text": "great, bad"})
    found = [origin for origin in filled.offsets if origin]
    assert found == [("text", 0, 5), ("text", 5, 6), ("text", 6, 10)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("make", [bert_tokenizer, gpt2_tokenizer, roberta_tokenizer, llama_tokenizer])
def test_truncation_equals_the_tokenizers(make: Any, side: str) -> None:
    tokenizer = make()
    for max_length in range(4, 40):
        expected = make()
        expected.truncation_side = side
        ids = expected(TEXT, truncation=True, max_length=max_length)["input_ids"]
        filled = filler(tokenizer, "<soft:2>{text}", max_length=max_length, truncation_side=side).fill({"text": TEXT})
        assert list(filled.input_ids[2:]) == ids


@pytest.mark.parametrize(("field", "strategy"), [("a", "only_first"), ("b", "only_second")])
def test_truncation_of_one_field_of_a_pair_equals_the_tokenizers(field: str, strategy: str) -> None:
    tokenizer = bert_tokenizer()
    a, b = "the film was not very good", "it is a great movie of the new plot"
    expected = bert_tokenizer()(a, b, truncation=strategy, max_length=13)
    filled = filler(tokenizer, "<cls>{a}<sep>{b}<sep>", max_length=13, truncate=field).fill({"a": a, "b": b})
    assert list(filled.input_ids) == expected["input_ids"]
    assert list(filled.token_type_ids or ()) == expected["token_type_ids"]


def test_literals_and_other_fields_survive_truncation() -> None:
    tokenizer = gpt2_tokenizer()
    full = filler(tokenizer, "It was {a} {b}:", truncate="a", max_length=99).fill({"a": "great great bad", "b": "good"})
    cut = filler(tokenizer, "It was {a} {b}:", truncate="a", max_length=len(full.input_ids) - 2)
    assert shown(tokenizer, cut.fill({"a": "great great bad", "b": "good"}))[-3:] == ["Ġgreat", "Ġgood", ":"]


@pytest.mark.parametrize(
    ("template", "rules", "fields", "found"),
    [
        ("{a}<sep>{b}", {"max_length": 6}, {"a": "the film", "b": "the plot of it"}, "no field may be cut"),
        ("{a}<sep>{b}", {"max_length": 5, "truncate": "b"}, {"a": "the the the the the", "b": "a"}, "only field 'b'"),
    ],
)
def test_what_may_not_be_cut_is_refused(
    template: str, rules: dict[str, Any], fields: dict[str, str], found: str
) -> None:
    with pytest.raises(TextTooLongError, match=f"max_length is {rules['max_length']}.*{found}"):
        filler(bert_tokenizer(), template, **rules).fill(fields)


@pytest.mark.parametrize(
    ("template", "tokenizer", "leading"),
    [
        ("<soft:2>{text}", gpt2_tokenizer(), (None, None)),
        ("<soft:2>{text}", gpt2_tokenizer(320, add_bos=True), (None, None, 1)),
        ("<soft:1>it was<soft:1> the {text}", gpt2_tokenizer(), (None, "i", "t", "Ġwas", None)),
        ("<cls><soft:1>good<mask>{text}", bert_tokenizer(), ("[CLS]", None, "good", "[MASK]")),
        ("Say {text}", gpt2_tokenizer(), ()),
    ],
)
def test_leading_tokens_are_those_before_the_last_boundary_in_front_of_a_field(
    template: str, tokenizer: PreTrainedTokenizerFast, leading: tuple[int | str | None, ...]
) -> None:
    expected = tuple(tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else token for token in leading)
    made = filler(tokenizer, template)
    assert made.leading == expected
    filled = made.fill({"text": "a"})
    assert filled.input_ids[: len(expected)] == tuple(token or 0 for token in expected)


def test_a_kv_prefix_leads_nothing() -> None:
    made = filler(bert_tokenizer(), "<soft:4><cls>{text}", place="kv", num_virtual_tokens=4)
    assert made.leading == (2,)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({"premise": "a"}, "field 'hypothesis' is missing; this task's template has 'premise', 'hypothesis'"),
        ({"premise": "a", "hypothesis": "b", "text": "c"}, "field 'text' is not in this task's template"),
        ({"premise": "a", "hypothesis": 3}, "field 'hypothesis' is int; send a text"),
        ({"premise": "a", "hypothesis": "b\ud800"}, "half a surrogate pair at character 1"),
        ("a", "the fields 'premise', 'hypothesis'; got one text"),
        (3, "got int"),
        (None, "got NoneType"),
    ],
)
def test_wrong_fields_are_named(inputs: object, found: str) -> None:
    with pytest.raises(FieldError, match=found):
        filler(bert_tokenizer(), "{premise}<sep>{hypothesis}").fill_input(inputs)


def test_a_text_goes_to_the_only_field() -> None:
    made = filler(bert_tokenizer(), "{sentence}")
    assert made.fill_input("film") == made.fill({"sentence": "film"}) == made.fill_input({"sentence": "film"})


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(FieldError, match="no token"):
        filler(gpt2_tokenizer(), "{text}").fill({"text": ""})


def test_input_ids_follow_the_leading_virtual_tokens() -> None:
    filled = filler(bert_tokenizer(), "<soft:2>{text}").fill_input({"input_ids": [2, 7, 3]})
    assert filled.input_ids == (0, 0, 2, 7, 3)
    assert filled.soft_positions == (0, 1)
    assert filled.token_type_ids == (0,) * 5
    assert filled.offsets == (None,) * 5
    kv = filler(bert_tokenizer(), "<soft:2>{text}", place="kv", num_virtual_tokens=2).from_ids([2, 7, 3])
    assert kv.input_ids == (2, 7, 3)


def test_input_ids_of_a_mask_task_are_read_at_their_mask() -> None:
    made = filler(bert_tokenizer(), "<soft:2>{text} <mask>")
    assert made.from_ids([2, 7, 4, 3]).read_position == 4
    with pytest.raises(InputIdsError, match="mask token"):
        made.from_ids([2, 7, 3])


@pytest.mark.parametrize(
    ("input_ids", "found"),
    [
        ([], "at least one"),
        ("12", "at least one"),
        (7, "at least one"),
        ([1, -1], "input_ids.1 is '-1'"),
        ([1, True], "input_ids.1 is 'True'"),
        ([1.0], "input_ids.0 is '1.0'"),
        ([97], "token id 97 is outside the backbone's vocabulary of 97"),
    ],
)
def test_bad_input_ids_are_refused(input_ids: object, found: str) -> None:
    with pytest.raises(InputIdsError, match=found):
        filler(bert_tokenizer(), "{text}").fill_input({"input_ids": input_ids})


def test_input_ids_are_refused_where_virtual_tokens_stand_in_the_text_and_when_too_long() -> None:
    with pytest.raises(InputIdsError, match="send the field 'text'"):
        filler(bert_tokenizer(), "<soft:2>{text}<soft:1>").from_ids([5])
    with pytest.raises(TextTooLongError, match="holds 5 tokens; this task's max_length is 4"):
        filler(bert_tokenizer(), "{text}", max_length=4).from_ids([5] * 5)


def test_a_token_outside_the_backbones_vocabulary_never_reaches_it() -> None:
    with pytest.raises(InputIdsError, match="vocabulary of 10"):
        filler(bert_tokenizer(), "{text}", vocab_size=10).fill({"text": "film"})


@pytest.mark.parametrize(
    ("template", "rules", "found"),
    [
        ("<soft:4>{text}", {"place": "embeds", "num_virtual_tokens": 8}, ["make the slots sum to 8"]),
        ("{text} <mask><cls>", {}, ["<mask>", "<cls>"]),
        ("{text}", {"truncate": "body"}, ["'body', which is no field"]),
        ("{text} {text}", {"truncate": "text"}, ["stands 2 times"]),
    ],
)
def test_a_template_that_does_not_fit_is_refused_with_every_reason(
    template: str, rules: dict[str, Any], found: list[str]
) -> None:
    with pytest.raises(UnfitError) as caught:
        filler(gpt2_tokenizer(), template, **rules)
    assert len(caught.value.reasons) == len(found)
    for reason, words in zip(caught.value.reasons, found, strict=True):
        assert words in reason


def test_a_max_length_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(UnfitError, match="allow 3 or more"):
        filler(bert_tokenizer(), "{text}", max_length=2)


def test_a_user_text_may_spell_special_tokens_as_in_training() -> None:
    tokenizer = bert_tokenizer()
    filled = filler(tokenizer, "{text}").fill({"text": "the [SEP] film"})
    assert list(filled.input_ids) == tokenizer("the [SEP] film")["input_ids"]


def test_somebody_elses_truncation_of_the_same_tokenizer_does_not_reach_a_filler() -> None:
    tokenizer = bert_tokenizer()
    tokenizer(TEXT, truncation=True, max_length=4, padding="max_length")
    made = filler(tokenizer, "{text}")
    tokenizer(TEXT, truncation=True, max_length=4, padding="max_length")
    assert len(made.fill({"text": TEXT}).input_ids) > 4


def test_rules_come_from_the_manifest_and_the_backbones_room() -> None:
    manifest = Manifest(
        method=Method.PROMPT_TUNING,
        kind=HeadKind.GENERATION,
        num_virtual_tokens=2,
        template="<soft:2>{text}",
        truncate="text",
        truncation_side="left",
        fingerprint=Fingerprint(arch="x"),
    )
    rules = FillRules.of(manifest, "embeds", vocab_size=97, max_text_tokens=8)
    assert (rules.max_length, rules.truncation_side, rules.num_virtual_tokens) == (8, "left", 2)
    filled = Filler(TextTokenizer(bert_tokenizer()), rules).fill({"text": TEXT})
    assert filled.num_text_tokens == 8

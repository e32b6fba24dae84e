"""Conversations behind virtual tokens: exactly what the tokenizer's own chat template makes, as PEFT is trained on."""

from __future__ import annotations

import pytest
from tiny_tokenizers import gpt2_tokenizer, llama_tokenizer
from transformers import PreTrainedTokenizerFast

from prompt_store.errors import ManifestError, UnfitError
from prompt_store.manifest import Fingerprint, HeadKind, Manifest, Method
from prompt_store.template import Chat, Field, Soft, parse_template
from prompt_store.template_checks import kind_faults
from server.text.chat import MAX_MESSAGES
from server.text.errors import FieldError, TextTooLongError
from server.text.filling import Filler, FillRules

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TALK = [
    {"role": "user", "content": "the great <|im_end|> film "},
    {"role": "assistant", "content": "was it good?"},
    {"role": "user", "content": "it was"},
]


def chatml() -> PreTrainedTokenizerFast:
    tokenizer = gpt2_tokenizer(320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def llama() -> PreTrainedTokenizerFast:
    tokenizer = llama_tokenizer()
    tokenizer.chat_template = LLAMA
    return tokenizer


def filler(tokenizer: PreTrainedTokenizerFast, template: str = "<soft:3><chat>", **rules: int) -> Filler:
    parsed = parse_template(template)
    return Filler(tokenizer, FillRules(parsed, parsed.num_soft, "embeds" if parsed.num_soft else None, **rules))


@pytest.mark.parametrize("make", [chatml, llama])
def test_the_prompt_stands_in_front_of_what_the_chat_template_writes(make: type) -> None:
    tokenizer = make()
    ids = tokenizer.apply_chat_template(TALK, tokenize=True, add_generation_prompt=True, return_dict=False)
    row = filler(tokenizer).fill_input({"messages": TALK})
    assert row.soft_positions == (0, 1, 2)
    assert list(row.input_ids[3:]) == ids
    assert filler(tokenizer).leading == (None, None, None)


def test_a_text_is_one_message_of_the_users() -> None:
    tokenizer = chatml()
    ids = tokenizer.apply_chat_template(TALK[:1], tokenize=True, add_generation_prompt=True, return_dict=False)
    assert list(filler(tokenizer, "<chat>").fill_input(TALK[0]["content"]).input_ids) == ids


def test_virtual_tokens_and_texts_may_stand_around_a_conversation() -> None:
    tokenizer = chatml()
    ours = filler(tokenizer, "<soft:1>{topic}<soft:2><chat><soft:1> It was")
    assert ours.fields == ("topic", "messages")
    row = ours.fill({"topic": "a film", "messages": TALK})
    topic = len(tokenizer.encode("a film"))
    assert row.soft_positions[:3] == (0, topic + 1, topic + 2)
    assert dict(row.fields) == {"topic": "a film"}


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([], "is a list of messages"),
        ({"role": "user"}, "is a list of messages"),
        (["hi"], r"messages\[0\] is str; a message is an object"),
        ([{"role": "user"}], r"messages\[0\] is \['role'\]"),
        ([{"role": "user", "content": 7}], r"messages\[0\].content is int; send a text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "content is list; send a text"),
        ([{"role": "user", "content": "\ud800"}], "half a surrogate pair"),
        ([{"role": "user", "content": "a"}] * (MAX_MESSAGES + 1), "at most 1024 are taken"),
        ([{"role": "assistant", "content": "a"}], "chat template refuses these messages: roles must take turns"),
    ],
)
def test_messages_that_are_none_are_refused(messages: object, match: str) -> None:
    with pytest.raises(FieldError, match=match):
        filler(llama()).fill_input({"messages": messages})


def test_a_missing_conversation_is_asked_for_and_a_long_one_is_not_cut() -> None:
    with pytest.raises(FieldError, match="field 'messages' is missing"):
        filler(chatml()).fill_input({"text": "a"})
    with pytest.raises(TextTooLongError, match="no field may be cut"):
        filler(chatml(), max_length=10).fill_input({"messages": TALK})


def test_a_tokenizer_without_a_chat_template_takes_no_chat() -> None:
    with pytest.raises(UnfitError, match="the backbone's tokenizer has no chat template"):
        filler(gpt2_tokenizer())


def test_the_slot_is_a_part_of_the_language() -> None:
    template = parse_template("<soft:3>a\\<chat><chat>")
    assert template.parts[0] == Soft(3)
    assert template.parts[-1] == Chat()
    assert parse_template(str(template)) == template
    assert template.has_special
    with pytest.raises(ManifestError, match="has no field"):
        parse_template("<soft:3>\\<chat>")


@pytest.mark.parametrize(
    ("template", "kind", "match"),
    [
        ("<chat><chat>", HeadKind.GENERATION, "one <chat>"),
        ("<chat>{messages}", HeadKind.GENERATION, "no field {messages}"),
        ("<chat>{context}", HeadKind.QUESTION_ANSWERING, "<chat> has none"),
    ],
)
def test_a_template_has_one_conversation(template: str, kind: HeadKind, match: str) -> None:
    manifest = Manifest(
        method=Method.NONE, kind=kind, num_virtual_tokens=0, template=template, fingerprint=Fingerprint(arch="a")
    )
    faults = list(kind_faults(manifest, parse_template(template), None))
    assert any(match in fault for fault in faults)
    assert Field("messages") not in parse_template("<chat>").parts

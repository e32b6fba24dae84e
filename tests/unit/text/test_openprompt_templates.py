"""OpenPrompt's templates as ours: the same tokens, soft tokens and place as its own wrapper makes of the same text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import embeds
from openprompt_text_cases import feed, num_soft
from peft_cases import spec_of
from tiny_tokenizers import bert_tokenizer, gpt2_tokenizer, llama_tokenizer, roberta_tokenizer
from transformers import PreTrainedTokenizerFast

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.manifest import HeadKind, PublisherManifest
from server.engine.backbone.pair import single_template
from server.text.errors import TextTooLongError
from server.text.filling import Filler, FillRules

TOKENIZERS = {
    "bert": bert_tokenizer,
    "roberta": roberta_tokenizer,
    "gpt2": gpt2_tokenizer,
    "llama-gqa": llama_tokenizer,
}
EXAMPLE = {"text_a": "the good film", "text_b": "bad", "topic": "a film", "text": "the great film"}
WORDS = {"classes": ["no", "yes"], "label_words": [["bad"], ["good"]]}
TEXTS = {
    "hard and soft": '{"soft"} {"placeholder": "text_a"} {"soft": None, "duplicate": 2} It was {"mask"}.',
    "words": '{"placeholder":"text_a"} {"soft": "the good"} {"mask"} .',
    "shared": '{"soft_id": 1} {"placeholder":"text_a"} {"soft_id": 1}{"soft_id": 2}{"mask"}{"soft_id": 2}',
    "same": '{"soft": None, "duplicate": 3, "same": True} a {"placeholder": "text_a"}{"soft"} {"mask"}',
    "meta and two texts": '{"soft"}{"placeholder": "text_b"}  is {"meta": "topic"}? {"placeholder": "text_a"} {"mask"}',
    "text as a dict": '{"soft"} {"text": "It was"} {"placeholder":"text_a", "shortenable": False}. {"mask"} the end ',
}
ARCHS = tuple(TOKENIZERS)


def spec(arch: str, tokenizer: PreTrainedTokenizerFast) -> BackboneSpec:
    return replace(spec_of(arch), single=single_template(tokenizer), vocab_size=len(tokenizer))


def taken(
    arch: str, text: str, config: dict[str, Any] | None = None, rows: int | None = None, **said: Any
) -> tuple[Converted, PreTrainedTokenizerFast]:
    tokenizer = TOKENIZERS[arch]()
    of = spec(arch, tokenizer)
    count = num_soft(text, tokenizer) if rows is None else rows
    told = {"freeze_plm": True, "verbalizer": WORDS, "template": {"text": text}} | (config or {})
    tensors = {"template.soft_embedding.weight": embeds(of, 1 + count)}
    return convert(Checkpoint(tensors, told), PublisherManifest(**said), of), tokenizer


def filler(found: Converted, tokenizer: PreTrainedTokenizerFast) -> Filler:
    return Filler(tokenizer, FillRules.of(found.artifact.manifest, "embeds"))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", TEXTS)
def test_the_same_row_as_openprompt_makes(name: str, arch: str) -> None:
    found, tokenizer = taken(arch, TEXTS[name])
    ours = filler(found, tokenizer)
    example = {field: EXAMPLE[field] for field in ours.fields}
    theirs = feed(TEXTS[name], example, tokenizer)
    row = ours.fill(example)
    soft = [place for place, token in enumerate(theirs.ids) if token < 0]
    assert list(row.soft_positions) == soft
    assert [t for t in range(len(row.input_ids)) if t not in soft] == [t for t, i in enumerate(theirs.ids) if i >= 0]
    for place, token in enumerate(theirs.ids):
        assert token < 0 or row.input_ids[place] == token
    assert (len(row.input_ids) - 1 if row.read_position is None else row.read_position) == theirs.place
    # Row i of `embeds` is that of the soft token at the i-th place; row 0 of the table stands for text.
    assert found.artifact.embeds is not None
    table = embeds(spec(arch, tokenizer), 1 + num_soft(TEXTS[name], tokenizer))
    assert found.artifact.embeds.tolist() == [table[-theirs.ids[place]].tolist() for place in soft]


@pytest.mark.parametrize("method", ["head", "tail"])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_long_text_loses_the_same_tokens(arch: str, method: str) -> None:
    text = TEXTS["hard and soft"]
    long = " ".join(["the good film was great"] * 8)
    found, tokenizer = taken(arch, text, {"dataloader": {"max_seq_length": 30, "truncate_method": method}})
    theirs = feed(text, {"text_a": long}, tokenizer, 30, method)
    row = filler(found, tokenizer).fill({"text_a": long})
    assert len(row.input_ids) == len(theirs.ids) == 30
    assert [i for t, i in enumerate(row.input_ids) if t not in row.soft_positions] == [i for i in theirs.ids if i >= 0]


def test_two_texts_that_would_both_be_cut_are_not() -> None:
    text = '{"soft"} {"placeholder": "text_a"} {"placeholder": "text_b"} {"mask"}'
    found, tokenizer = taken("bert", text, {"dataloader": {"max_seq_length": 12}})
    assert found.artifact.manifest.truncate is None
    ours = filler(found, tokenizer)
    assert len(ours.fill({"text_a": "the film", "text_b": "bad"}).input_ids) <= 12
    with pytest.raises(TextTooLongError):
        ours.fill({"text_a": "the film " * 9, "text_b": "bad"})


def test_ptuning_gives_every_place_a_row_of_its_own() -> None:
    tokenizer = bert_tokenizer()
    of = spec("bert", tokenizer)
    text = '{"soft_id": 1} {"placeholder": "text_a"} {"soft_id": 1} {"soft": "the good"} {"mask"}'
    tensors = {"template.new_embedding.weight": embeds(of, 4)}
    tensors |= {f"template.new_mlp_head.{i}.{n}": t for i in (0, 2) for n, t in _layer(of.embedding_size).items()}
    told = {"freeze_plm": True, "verbalizer": WORDS, "template": text}
    manifest = convert(Checkpoint(tensors, told), PublisherManifest(), of).artifact.manifest
    assert manifest.template == "<cls><soft:1> {text_a}<soft:3><mask><sep>"
    assert manifest.tokenize == "spaced-pieces"


def _layer(width: int) -> dict[str, Any]:
    import torch

    return {"weight": torch.eye(width), "bias": torch.zeros(width)}


def test_rows_of_a_soft_template_stand_in_front_of_everything() -> None:
    tokenizer = bert_tokenizer()
    of = spec("bert", tokenizer)
    config = {
        "plm": {"optimize": {"freeze_para": True}},
        "template": "soft_template",
        "soft_template": {"text": '{"placeholder": "text_a"} It was {"mask"}.'},
        "verbalizer": "manual_verbalizer",
        "manual_verbalizer": WORDS,
    }
    found = convert(Checkpoint({"template.soft_embeds": embeds(of, 3)}, config), PublisherManifest(), of)
    assert found.artifact.manifest.template == "<soft:3><cls>{text_a} It was<mask>.<sep>"
    assert not any("unverified: OpenPrompt" in check for check in found.checks)


def test_the_publishers_template_wins_over_the_text() -> None:
    found, _ = taken("bert", '{"soft"}{"mask"}', rows=1, template="<cls>{x}<soft:1><mask><sep>")
    assert (found.artifact.manifest.template, found.artifact.manifest.tokenize) == (
        "<cls>{x}<soft:1><mask><sep>",
        "pieces",
    )


@pytest.mark.parametrize(
    ("text", "rows", "match"),
    [
        ("<text_a> It was <mask>.", 1, 'has no {"mask"}'),
        ('{"placeholder": "text_a", "post_processing": lambda x: x} {"mask"}', 1, "is code and is not run"),
        ('{"placeholder": __import__("os").getcwd()} {"mask"}', 1, "is not a dict or a set of Python's literals"),
        ('{"placeholder": "text_a"', 1, "opens a brace that nothing closes"),
        ('{"placeholder": "text a"} {"soft"} {"mask"}', 1, "names no field"),
        ('{"special": "[SEP]"} {"soft"} {"placeholder": "text_a"} {"mask"}', 1, "known are <cls>, <sep>"),
        ('{"soft": 3} {"placeholder": "text_a"} {"mask"}', 1, "is no soft token"),
        ('{"soft": None, "duplicate": 0} {"placeholder": "text_a"} {"mask"}', 1, "is no soft token"),
        ('{"soft": None, "colour": "red"} {"placeholder": "text_a"} {"mask"}', 1, "says colour: not known"),
        ('{"soft": None, "duplicate": 2} {"placeholder": "text_a"} {"mask"}', 5, "2 soft tokens, 0 pieces of them"),
        (
            '{"soft": "a"} {"soft": "b"} {"placeholder": "text_a"} {"mask"}',
            2,
            "2 pieces of them as many as their words",
        ),
        ('{"placeholder": "text_a"} {"mask"}', 2, "is it the text of this run?"),
        ("{" * 5000, 1, "opens a brace"),
        ("{" * 300 + "}" * 300 + '{"mask"}', 1, "is not a dict or a set"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(text: str, rows: int, match: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        taken("bert", text, rows=rows)
    assert match in str(caught.value)


def test_special_tokens_that_have_no_name_are_asked_for() -> None:
    tokenizer = bert_tokenizer()
    of = replace(spec("bert", tokenizer), single=None)
    tensors = {"template.soft_embeds": embeds(of, 2)}
    told = {"freeze_plm": True, "verbalizer": WORDS, "template": '{"placeholder": "text_a"} {"mask"}'}
    with pytest.raises(CheckpointError, match="has no name in our templates"):
        convert(Checkpoint(tensors, told), PublisherManifest(), of)


def test_a_short_text_cannot_ask_for_billions_of_virtual_tokens() -> None:
    text = '{"placeholder": "text_a"} {"mask"} ' + '{"soft": None, "duplicate": 1000000} ' * 1500
    with pytest.raises(CheckpointError, match="more than 65536 soft tokens"):
        taken(ARCHS[0], text, rows=4)


def test_a_text_for_the_prefixes_of_a_t5_is_not_dropped() -> None:
    of = spec_of("t5")
    width = 2 * of.num_layers * of.num_key_value_heads * of.head_dim
    tensors = {
        "template.wte.weight": torch.randn(4, of.hidden_size),
        "template.control_trans.0.weight": torch.randn(6, of.hidden_size),
        "template.control_trans.0.bias": torch.randn(6),
        "template.control_trans.2.weight": torch.randn(width, 6),
        "template.control_trans.2.bias": torch.randn(width),
    }
    tensors |= {name.replace("template.", "template.decoder_"): tensor for name, tensor in tensors.items()}
    told = {"freeze_plm": True, "template": {"text": '{"placeholder": "text_a"} It was {"mask"}.'}}
    with pytest.raises(CheckpointError, match="say template in the manifest for"):
        convert(Checkpoint(tensors, told), PublisherManifest(kind=HeadKind.GENERATION), of)

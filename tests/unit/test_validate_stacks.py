"""What an artifact asks of an encoder-decoder's stacks is checked place by place, and refused with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft_cases import spec_of
from stack_cases import prompted, three_prefixes

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import UnfitError
from prompt_store.manifest import HeadKind
from prompt_store.validate import validate

T5 = replace(spec_of("t5"), is_relative=True, max_abs_embedding=10.0)
BART = replace(spec_of("bart"), max_abs_embedding=10.0)
GPT2 = replace(spec_of("gpt2"), max_abs_embedding=10.0)
ROWS = {"embeds": torch.ones(5, 32), "decoder_embeds": torch.ones(3, 32)}


def reasons(artifact: Artifact, spec: BackboneSpec) -> str:
    with pytest.raises(UnfitError) as caught:
        validate(artifact, spec)
    return "; ".join(caught.value.reasons)


def both(**said: Any) -> Artifact:
    return prompted(T5, ROWS, **{"num_decoder_virtual_tokens": 3, "template": "<soft:5>{text}"} | said)


@pytest.mark.parametrize("spec", [T5, BART], ids=["t5", "bart"])
def test_every_place_is_taken(spec: BackboneSpec) -> None:
    assert validate(prompted(spec, three_prefixes(spec)), spec) == ()
    assert validate(replace(both(), manifest=_for(spec)), spec) == ()


def _for(spec: BackboneSpec) -> Any:
    return prompted(spec, ROWS, num_decoder_virtual_tokens=3, template="<soft:5>{text}").manifest


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("decoder_kv.key", (9, 4, 5, 8), "decoder_kv.key has 9 layers; backbone tiny-t5 has 3 in its decoder"),
        ("cross_kv.value", (3, 2, 5, 8), "cross_kv.value has 2 heads of 8"),
        ("cross_kv.key", (3, 4, 6, 8), "cross_kv.key has 6 virtual tokens; the manifest says 5"),
        ("kv.key", (9, 4, 5, 8), "kv.key has 9 layers; backbone tiny-t5 has 3."),
    ],
)
def test_a_place_of_another_shape_is_named(name: str, shape: tuple[int, ...], reason: str) -> None:
    artifact = prompted(T5, three_prefixes(T5))
    wrong = replace(artifact, tensors={**artifact.tensors, name: torch.ones(shape)})
    assert reason in reasons(wrong, T5)


def test_rows_of_the_decoder_have_their_own_number() -> None:
    assert "decoder_embeds has 3 rows; the manifest says 5" in reasons(both(num_decoder_virtual_tokens=None), T5)


def test_a_decoder_alone_has_no_place_for_them() -> None:
    found = reasons(replace(both(decoder_text="a"), manifest=both(decoder_text="a").manifest), GPT2)
    assert "tiny-gpt2 has no place for decoder_embeds" in found
    assert "decoder_text is for encoder-decoders" in found


def test_a_refused_place_is_told_with_its_reason() -> None:
    spec = replace(T5, refusals={"cross_kv": "it looks elsewhere"})
    assert "tiny-t5 cannot serve cross_kv: it looks elsewhere" in reasons(prompted(T5, three_prefixes(T5)), spec)


@pytest.mark.parametrize("kind", [HeadKind.MULTIPLE_CHOICE, HeadKind.QUESTION_ANSWERING])
def test_heads_that_no_stack_reads_are_refused(kind: HeadKind) -> None:
    artifact = prompted(T5, {}, kind=kind, template="{context}{choice}")
    assert f"a {kind} task is not served on tiny-t5, an encoder-decoder" in reasons(artifact, T5)


def test_what_reads_the_encoder_has_no_prompt_in_the_decoder() -> None:
    artifact = both(kind=HeadKind.EMBEDDING, pool="mean")
    assert "reads the encoder alone; decoder_embeds would change nothing" in reasons(artifact, T5)


def test_distances_leave_no_choice_of_positions() -> None:
    prefixes = three_prefixes(T5)
    moved = {"text_position_offset": 0, "decoder_position_offset": 0}
    found = reasons(prompted(T5, prefixes, **moved), T5)
    assert "text_position_offset is 0; tiny-t5 has distances in the place of positions" in found
    assert "decoder_position_offset is 0" in found
    assert validate(prompted(BART, three_prefixes(BART), **moved), BART) == ()


def test_the_decoder_needs_a_position_to_begin_at() -> None:
    spec = replace(BART, max_positions=5)
    artifact = prompted(BART, {name: part for name, part in three_prefixes(BART).items() if name.startswith("dec")})
    assert "the decoder would start at position 5; backbone tiny-bart has 5" in reasons(artifact, spec)


def test_a_prefix_of_the_decoder_has_its_own_scale() -> None:
    artifact = prompted(T5, {name: part * 1e6 for name, part in three_prefixes(T5).items()})
    assert "cross_kv.key of layer 0 reaches" in reasons(artifact, T5)

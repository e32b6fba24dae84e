"""What PEFT's files mean on an encoder-decoder: which rows stand where, and which layer has which of them.

PROMPT_TUNING, P_TUNING, MULTITASK_PROMPT_TUNING: of s * n rows the first n stand in front of the encoder's input. The
others stood in front of the decoder's start in training (MULTITASK; up to 0.3 all of them), yet not in generate().
PREFIX_TUNING, CARTRIDGE: the decoder's own attention. PEFT joins the L pairs of keys and values with themselves, cuts
them in fours (self, cross) and drops the cross pairs, so decoder layer i has pair 2i mod L; the encoder has none.
Source: huggingface/peft, `peft_model.py` (get_prompt, PeftModelForSeq2SeqLM), 0.1 to 0.21.
"""

from __future__ import annotations

import torch

from prompt_store.artifact import DECODER_EMBEDS, DECODER_KV_KEY, DECODER_KV_VALUE, EMBEDS, KV_KEY
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.checkpoint import Reasons
from prompt_store.formats.peft.bloom import MODEL_TYPE as BLOOM
from prompt_store.formats.peft.config import PREFIXES, PeftFields
from prompt_store.formats.prefix_layout import num_layers
from prompt_store.manifest import HeadKind, Method, PublisherManifest

# The words of BART's relatives: transformers scales them inside the embedding since 4.40; before, PEFT's were unscaled.
_SCALED = frozenset({"mbart", "pegasus", "marian", "m2m_100", "blenderbot", "plbart"})
_Prompt = dict[str, torch.Tensor]


def expect_place(fields: PeftFields, publisher: PublisherManifest, spec: BackboneSpec, reasons: Reasons) -> None:
    """Note why PEFT itself could not have trained or asked this prompt on an encoder-decoder, and what nobody says."""
    if not spec.is_encoder_decoder:
        return
    if fields.method is Method.CPT:
        reasons.add(f"PEFT has CPT for decoders alone; backbone {spec.name} is a {spec.model_type}, an encoder-decoder")
    elif fields.method in PREFIXES:
        _expect_prefix(fields, spec, reasons)
    elif fields.num_submodules == 1:
        reasons.expect(
            publisher.peft_decoder != "training",
            "peft_decoder training: with num_transformer_submodules 1 the file has no rows for the decoder",
        )
    elif fields.method is not Method.MULTITASK_PROMPT_TUNING and fields.is_old:
        reasons.expect(
            publisher.peft_decoder is not None,
            "the config was written by PEFT 0.3 or before (it has neither revision nor auto_mapping), which also put "
            "rows in front of the decoder's start; from 0.4 on PEFT leaves the decoder alone: say peft_decoder in the "
            "manifest, training for what 0.3 trained, generate for what PEFT answers now",
        )


def placed(
    prompt: _Prompt, fields: PeftFields, publisher: PublisherManifest, spec: BackboneSpec, reasons: Reasons
) -> _Prompt:
    """Return the prompt where PEFT puts it on an encoder-decoder; as it is on any other backbone."""
    if not spec.is_encoder_decoder or not prompt:
        return prompt
    if EMBEDS in prompt:
        return _rows(prompt[EMBEDS], fields, publisher)
    layers = num_layers(spec, "decoder_")
    pairs = [layer if publisher.peft_layer_order == "straight" else 2 * layer for layer in range(layers)]
    if not reasons.expect(
        layers <= fields.num_layers,
        f"the file has {fields.num_layers} layers; the decoder of backbone {spec.name} has {layers}, for which PEFT "
        "itself has no prefix. Was it trained for another model?",
    ):
        return {}
    own = [pair % fields.num_layers for pair in pairs]
    key, value = (prompt[name][own] for name in sorted(prompt, key=lambda name: name != KV_KEY))
    return {DECODER_KV_KEY: key, DECODER_KV_VALUE: value}


def expect_asked(fields: PeftFields, publisher: PublisherManifest, spec: BackboneSpec, reasons: Reasons) -> None:
    """Note what the publisher says that means nothing for this method or backbone."""
    is_prefix = fields.method in PREFIXES
    order = publisher.peft_layer_order
    orders = (
        {"peft", "straight"} if spec.is_encoder_decoder else {"peft", "older"} if spec.model_type == BLOOM else set()
    )
    reasons.expect(
        order is None or (is_prefix and order in orders),
        f"peft_layer_order is for PEFT's prefixes of an encoder-decoder (peft, straight) and of a BLOOM (peft, older); "
        f"this is {fields.method} for a {spec.model_type}, and {order!r} was said",
    )
    reasons.expect(
        publisher.peft_decoder is None or (not is_prefix and spec.is_encoder_decoder),
        f"peft_decoder is for PEFT's prompts of an encoder-decoder; this is {fields.method} for a {spec.model_type}",
    )


def remarks(fields: PeftFields, publisher: PublisherManifest, spec: BackboneSpec) -> tuple[str, ...]:
    """Say what a user of an encoder-decoder should know."""
    if not spec.is_encoder_decoder:
        return ()
    if fields.method in PREFIXES:
        is_straight = publisher.peft_layer_order == "straight"
        return () if is_straight else (f"layer order: {_shuffled(fields, spec)}, as PEFT itself feeds them",)
    if fields.kinds[:1] == (HeadKind.EMBEDDING,):
        return ("embedding read on the encoder: as T5EncoderModel gives it, not the decoder of a T5Model",)
    if spec.model_type in _SCALED:
        return ("embedding scale unverified: prompts trained before transformers 4.40 saw words that were not scaled",)
    return ()


def _expect_prefix(fields: PeftFields, spec: BackboneSpec, reasons: Reasons) -> None:
    reasons.expect(
        fields.num_submodules == 2,
        f"num_transformer_submodules is 1: PEFT's {fields.method} then hands {spec.name}, an encoder-decoder, one "
        "cache for both attentions of its decoder, which is no prefix. Train it with task_type SEQ_2_SEQ_LM",
    )


def _rows(rows: torch.Tensor, fields: PeftFields, publisher: PublisherManifest) -> _Prompt:
    n = fields.num_virtual_tokens
    found = {EMBEDS: rows[:n].contiguous()}
    if publisher.peft_decoder == "training":
        found[DECODER_EMBEDS] = rows[n:].contiguous()
    return found


def _shuffled(fields: PeftFields, spec: BackboneSpec) -> str:
    pairs = ", ".join(str(2 * layer % fields.num_layers) for layer in range(num_layers(spec, "decoder_")))
    return f"the decoder's layers have the prefixes {pairs} of the file"

"""Prefix stores of IBM's TGIS, as caikit exports them: one bare tensor a file, named after the file.

Tensors: `decoder` (decoder.pt) `[n, E]`. On an encoder-decoder it goes in front of the decoder's start token, and
`encoder` (encoder.pt) `[m, E]` in front of the text; the latter is refused on any other backbone. `config` is caikit's
config.yml as JSON, if there is one: `verbalizer` is the text, `{{input}}` its fields. Math: none, multitask prompts
were multiplied before export. Layout `[rows][text]`; a special token that the tokenizer puts first stays behind them.
Source: IBM/text-generation-inference, `prompt_cache.py`, `models/seq2seq_lm.py`; caikit/caikit-nlp,
`peft_prompt_tuning.py`, `toolkit/verbalizer_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from prompt_store.artifact import DECODER_EMBEDS, EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import ManifestError, WrongStackError
from prompt_store.formats.checkpoint import Checkpoint, Reasons
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.table import read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from prompt_store.template import Field, Literal, Part, Soft, Template, parse_template

_DECODER, _ENCODER = "decoder", "encoder"
_ALONE = ("CAUSAL_LM", "is a decoder alone")
_MAX_CHARS = 65_536
_FIELD = re.compile(r"\{\{([_a-zA-Z0-9]+)\}\}")


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: nothing but tensors with the names of the store's files."""
    names = set(checkpoint.tensors)
    return f"tensors {', '.join(sorted(names))}" if names and names <= {_DECODER, _ENCODER} else None


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Take the rows and the text around them. Raises CheckpointError with every reason."""
    reasons, config = Reasons(), checkpoint.config or {}
    _expect_place(checkpoint, config, spec, reasons)
    reasons.check()
    places = {_ENCODER: EMBEDS, _DECODER: DECODER_EMBEDS} if spec.is_encoder_decoder else {_DECODER: EMBEDS}
    prompt = {places[name]: read_table(checkpoint.tensors, name, spec, reasons) for name in checkpoint.tensors}
    in_text = len(prompt.get(EMBEDS, ()))
    template = None if publisher.template is not None else _template(config, in_text, reasons)
    reasons.check()
    return Parts(
        prompt,
        Method.PROMPT_TUNING,
        in_text or len(prompt[DECODER_EMBEDS]),
        (HeadKind.GENERATION, HeadKind.LABEL_WORDS),
        template=template,
    )


def _expect_place(checkpoint: Checkpoint, config: Mapping[str, object], spec: BackboneSpec, reasons: Reasons) -> None:
    reasons.expect(
        _ENCODER not in checkpoint.tensors or spec.is_encoder_decoder,
        f"encoder.pt goes in front of an encoder-decoder's encoder; backbone {spec.name} is a {spec.model_type}",
        WrongStackError,
    )
    reasons.expect(
        spec.is_causal or spec.is_encoder_decoder,
        f"decoder.pt goes in front of a decoder's text; backbone {spec.name} is a {spec.model_type}, which is none",
        WrongStackError,
    )
    wanted, what = ("SEQ_2_SEQ_LM", "is an encoder-decoder") if spec.is_encoder_decoder else _ALONE
    task_type = config.get("task_type")
    reasons.expect(
        task_type in (None, wanted),
        f"the config's task_type is {repr(task_type)[:80]}; expected {wanted}, for a backbone that {what}",
    )


def _template(config: Mapping[str, object], rows: int, reasons: Reasons) -> str | None:
    verbalizer = config.get("verbalizer")
    if verbalizer is None:
        return None
    if not isinstance(verbalizer, str) or len(verbalizer) > _MAX_CHARS:
        reasons.add(f"the config's verbalizer is {repr(verbalizer)[:80]}; expected a text such as '{{{{input}}}}'")
        return None
    written = str(Template((*((Soft(rows),) if rows else ()), *_parts(verbalizer))))
    try:
        parse_template(written)
    except ManifestError as error:
        reasons.add(f"the config's verbalizer {verbalizer[:80]!r} cannot be written as a template: {error}")
    return written


def _parts(verbalizer: str) -> Iterator[Part]:
    for place, piece in enumerate(_FIELD.split(verbalizer)):
        if piece:
            yield Field(piece) if place % 2 else Literal(piece)


FAMILY = Family(
    "tgis",
    "TGIS and caikit: decoder.pt and encoder.pt, sent as tensors `decoder` and `encoder`, with config.yml as `config`",
    claim,
    convert,
    takes_encoder_decoders=True,
)

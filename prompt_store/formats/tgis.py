"""Prefix stores of IBM's TGIS, as caikit exports them: one bare tensor a file, named after the file.

Tensors: `decoder` (decoder.pt) `[n, E]`; `encoder` (encoder.pt) goes in front of an encoder-decoder's encoder, and is
refused on a backbone that has none. `config` is caikit's config.yml as JSON, if there is one: `verbalizer` is the text,
`{{input}}` its fields. Math: none, multitask prompts were multiplied before export. Layout `[rows][text]`; a special
token that the tokenizer puts first stays behind the rows. Source: IBM/text-generation-inference, `prompt_cache.py`;
caikit/caikit-nlp, `peft_prompt_tuning.py`, `toolkit/verbalizer_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from prompt_store.artifact import EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import ManifestError
from prompt_store.formats.checkpoint import Checkpoint, Reasons
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.table import read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from prompt_store.template import Field, Literal, Part, Soft, Template, parse_template

_DECODER, _ENCODER = "decoder", "encoder"
_MAX_CHARS = 65_536
_FIELD = re.compile(r"\{\{([_a-zA-Z0-9]+)\}\}")


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: nothing but tensors with the names of the store's files."""
    names = set(checkpoint.tensors)
    return f"tensors {', '.join(sorted(names))}" if names and names <= {_DECODER, _ENCODER} else None


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Take the rows and the text around them. Raises CheckpointError with every reason."""
    reasons, config = Reasons(), checkpoint.config or {}
    reasons.expect(
        _ENCODER not in checkpoint.tensors,
        f"encoder.pt goes in front of an encoder-decoder's encoder; backbone {spec.name} is a {spec.model_type}",
    )
    reasons.expect(
        spec.is_causal,
        f"decoder.pt goes in front of a decoder's text; backbone {spec.name} is a {spec.model_type}, which is none",
    )
    task_type = config.get("task_type")
    reasons.expect(
        task_type in (None, "CAUSAL_LM"),
        f"the config's task_type is {repr(task_type)[:80]}; expected CAUSAL_LM, for a backbone that is a decoder alone",
    )
    reasons.check()
    rows = read_table(checkpoint.tensors, _DECODER, spec, reasons)
    template = None if publisher.template is not None else _template(config, len(rows), reasons)
    reasons.check()
    return Parts(
        {EMBEDS: rows},
        Method.PROMPT_TUNING,
        len(rows),
        (HeadKind.GENERATION, HeadKind.LABEL_WORDS),
        template=template,
    )


def _template(config: Mapping[str, object], rows: int, reasons: Reasons) -> str | None:
    verbalizer = config.get("verbalizer")
    if verbalizer is None:
        return None
    if not isinstance(verbalizer, str) or len(verbalizer) > _MAX_CHARS:
        reasons.add(f"the config's verbalizer is {repr(verbalizer)[:80]}; expected a text such as '{{{{input}}}}'")
        return None
    written = str(Template((Soft(max(rows, 1)), *_parts(verbalizer))))
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
    "tgis", "TGIS and caikit: decoder.pt alone, sent as tensor `decoder`, with config.yml as `config`", claim, convert
)

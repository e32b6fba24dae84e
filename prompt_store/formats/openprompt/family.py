"""OpenPrompt's templates: a run's checkpoint, flattened, or a template's own state dict. Nobody opens its dill here.

Tensors below `prompt_model.template.`, `template.` or nothing; `prompt_model.plm.*` and `raw_embedding.weight` are the
backbone again. SoftTemplate: `soft_embeds` `[n, E]`, in front of everything. MixedTemplate: `soft_embedding.weight`
`[1 + k, E]`, row i is soft token i, which may stand in several places. PtuningTemplate: `new_embedding.weight` `[m, E]`
through `new_lstm_head.*` (both ways) and `new_mlp_head.{0,2}`, or the MLP alone, one row a place. PrefixTuningTemplate
on GPT-2: `decoder_wte.weight`, `decoder_control_trans.*` (early: without `decoder_`), as in Prefix-Tuning; on T5 for
the decoder's own attention, and without `decoder_` for the encoder's: either may be missing. Text behind a prefix
stands at n, also in T5's relative positions. What T5 writes begins with `<extra_id_0>`, where label words are read.
`config` is the run's `config.yaml`, or what the file does not hold: `{"freeze_plm": true, "template": {"text": "..",
"soft_token_ids": [1, 2, 1]}, "verbalizer": {"classes": ["neg", "pos"], "label_words": [["bad"], ["good"]]}}`.
Pieces are tokenised one by one; the tokenizer's special tokens stand around them all, yet behind `soft_embeds`.
Source: thunlp/OpenPrompt, `openprompt/prompts/*_template.py`, `ptuning_prompts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from prompt_store.artifact import EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.encoders import run_mlp, run_prompt_encoder
from prompt_store.errors import ManifestError
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.openprompt.config import dig, section, template_text
from prompt_store.formats.openprompt.template import Place, Written, write_template
from prompt_store.formats.openprompt.text import Piece, pieces_of
from prompt_store.formats.openprompt.verbalizer import read_verbalizer
from prompt_store.formats.prefix_layout import Site, prefix_for
from prompt_store.formats.table import below, read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from prompt_store.template import parse_template

_RUN, _TEMPLATE, _PLM, _VERBALIZER = "prompt_model.", "template.", "plm.", "verbalizer."
_SOFT, _MIXED, _PTUNING = "soft_embeds", "soft_embedding.weight", "new_embedding.weight"
_DECODER = "decoder_"
_T5 = frozenset({"t5", "mt5"})  # the encoder-decoders that it loads
_SENTINEL = "<extra_id_0>"
_BARE = (_SOFT, _MIXED, _PTUNING, "decoder_wte.", "decoder_control_trans.")
_IGNORED = frozenset({"raw_embedding.weight", "new_ids", "input_tokens"})
_TEXT = "text around the virtual tokens unverified: OpenPrompt keeps it outside the file; say template in the manifest"
_Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What a template puts in front of the backbone, and how it was trained."""

    tensors: _Tensors
    method: Method
    num_virtual_tokens: int  # of an encoder-decoder's encoder, if it has a prompt
    written: Written | None = None  # the template's own text in our words


_NOTHING = _Prompt({}, Method.NONE, 0)


@dataclass(frozen=True, slots=True)
class _Context:
    """What reading a template may look at besides its tensors, and where it reports."""

    config: Mapping[str, object]
    publisher: PublisherManifest
    spec: BackboneSpec
    reasons: Reasons
    pieces: tuple[Piece, ...] | None = None  # of the template's text, if the config has it and the publisher none

    def write(self, place: Place, num_rows: int) -> Written | None:
        """Return the template's text in our words, for a file of `num_rows` rows; None where there is no text."""
        if self.pieces is None:
            return None
        return write_template(self.pieces, place, num_rows, (self.spec, self.config, self.reasons))


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: a run's prefix, or a template's own names."""
    known = (_RUN, _TEMPLATE, _VERBALIZER, *_BARE)
    found = next((name for name in sorted(checkpoint.tensors) if name.startswith(known)), None)
    return found and f"tensor {found[:80]!r}"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Take the template's rows, or bake them, and the verbalizer's words. Raises CheckpointError with every reason."""
    config, reasons = checkpoint.config or {}, Reasons()
    text = template_text(config) if publisher.template is None else None
    pieces = pieces_of(text, reasons) if text is not None else None
    context = _Context(config, publisher, spec, reasons, pieces)
    tensors = {name.removeprefix(_RUN): tensor for name, tensor in checkpoint.tensors.items()}
    verbalizer, num_plm = below(_VERBALIZER, tensors), sum(name.startswith(_PLM) for name in tensors)
    rest = {n.removeprefix(_TEMPLATE): t for n, t in tensors.items() if not n.startswith((_VERBALIZER, _PLM))}
    reasons.expect(
        not spec.is_encoder_decoder or spec.model_type in _T5,
        f"OpenPrompt loads no encoder-decoder but T5; backbone {spec.name} is a {spec.model_type}",
    )
    said = read_verbalizer(verbalizer, section(context.config, "verbalizer"), publisher, reasons)
    reasons.expect(
        not (said.head and spec.is_encoder_decoder),
        f"its SoftVerbalizer reads a decoder's hidden states; heads of encoder-decoders ({spec.name}) are not served",
    )
    is_trained = _is_backbone_trained(context)
    is_answered = bool(said.words or verbalizer or publisher.label_words)
    # A head beside a template that was text alone is a task of its own; words beside one are not a checkpoint.
    is_head_alone = said.head and not rest.keys() - _IGNORED
    prompt = replace(_NOTHING, written=context.write("none", 0)) if is_head_alone else _template(rest, context)
    reasons.check()
    written = prompt.written
    kinds = (HeadKind.SEQUENCE_CLASSIFICATION,) if said.head else (HeadKind.LABEL_WORDS,) if is_answered else ()
    return Parts(
        {**prompt.tensors, **said.head},
        prompt.method,
        prompt.num_virtual_tokens,
        kinds,
        labels=said.labels,
        label_words=said.words,
        label_scoring=said.scoring,
        template=written.template if written else None,
        max_length=written.max_length if written else None,
        truncate=written.truncate if written else None,
        tokenize="spaced-pieces" if written else "pieces",
        token_types="zero",
        decoder_text=_SENTINEL if spec.is_encoder_decoder else None,
        reads={HeadKind.SEQUENCE_CLASSIFICATION: "last" if spec.is_causal else "mask"},
        backbone_trained=is_trained,
        checks=(*_plm_remarks(num_plm), *said.checks, *(() if written or publisher.template is not None else (_TEXT,))),
    )


def _plm_remarks(num_plm: int) -> Iterator[str]:
    if num_plm:
        yield f"backbone in the file ignored: {num_plm} tensors"


def _is_backbone_trained(context: _Context) -> bool:
    """Return whether training changed the backbone; by default OpenPrompt's does, so somebody has to say."""
    config, publisher = context.config, context.publisher
    frozen = config.get("freeze_plm", dig(config, "plm", "optimize", "freeze_para"))
    if publisher.backbone_trained is not None:
        return publisher.backbone_trained
    if isinstance(frozen, bool):
        return not frozen
    weights = publisher.fingerprint.weights if publisher.fingerprint is not None else None
    context.reasons.expect(
        weights == context.spec.weights_fingerprint,
        "nobody says whether the backbone was frozen, and by default OpenPrompt trains it too: send freeze_plm in "
        "`config`, or backbone_trained or the fingerprint of its weights in the manifest",
    )
    return False


def _template(tensors: _Tensors, context: _Context) -> _Prompt:
    spec, reasons = context.spec, context.reasons
    words = tensors.get("raw_embedding.weight")
    if words is not None:
        reasons.expect(
            list(words.shape) == [spec.vocab_size, spec.embedding_size],
            f"the file's word embeddings are {list(words.shape)}; those of backbone {spec.name} are "
            f"{[spec.vocab_size, spec.embedding_size]}. Was it trained for another model?",
        )
    found = {name: tensor for name, tensor in tensors.items() if name not in _IGNORED}
    if _PTUNING in found:
        return _ptuning({name: tensor for name, tensor in found.items() if name != _MIXED}, context)
    if _SOFT in found or _MIXED in found:
        return _soft(found, context) if _SOFT in found else _mixed(found, context)
    if not found:
        reasons.add("the template has no virtual tokens: it was text alone. Publish its label words with a template")
        return _NOTHING
    return _prefix(found, context)


def _soft(tensors: _Tensors, context: _Context) -> _Prompt:
    _expect_only(tensors, (_SOFT,), context.reasons)
    rows = read_table(tensors, _SOFT, context.spec, context.reasons)
    return _Prompt({EMBEDS: rows}, Method.PROMPT_TUNING, len(rows), context.write("front", len(rows)))


def _mixed(tensors: _Tensors, context: _Context) -> _Prompt:
    reasons = context.reasons
    _expect_only(tensors, (_MIXED,), reasons)
    table = read_table(tensors, _MIXED, context.spec, reasons)
    last = len(table) - 1  # row 0 stands for text
    if context.pieces is not None:
        written = context.write("pieces", last)
        rows = [row + 1 for row in written.rows] if written is not None else []
        return _Prompt({EMBEDS: table[rows]}, Method.PROMPT_TUNING, len(rows), written)
    said = dig(section(context.config, "template"), "soft_token_ids")
    ids = [soft for soft in said if soft != 0] if isinstance(said, list) else list(range(1, last + 1))
    if not reasons.expect(
        0 < len(ids) < context.spec.max_positions
        and all(isinstance(soft, int) and not isinstance(soft, bool) and 0 < soft <= last for soft in ids),
        f"soft_token_ids is {repr(said)[:80]}; expected numbers up to {last}, fewer than "
        f"{context.spec.max_positions} of them above 0",
    ):
        return _NOTHING
    reasons.expect(
        isinstance(said, list) or _num_slots(context.publisher) <= last,
        f"the template has {_num_slots(context.publisher)} virtual tokens and the file {last} rows: some stand in "
        "several places. Send the template's soft_token_ids in `config`",
    )
    _expect_placed(len(ids), context)
    return _Prompt({EMBEDS: table[ids]}, Method.PROMPT_TUNING, len(ids))


def _ptuning(tensors: _Tensors, context: _Context) -> _Prompt:
    lstm, mlp = "new_lstm_head.", "new_mlp_head."
    _expect_only(tensors, (_PTUNING, lstm, mlp), context.reasons)
    table = read_table(tensors, _PTUNING, context.spec, context.reasons)
    _expect_placed(len(table), context)
    written = context.write("separate", len(table))
    context.reasons.check()
    rows = run_prompt_encoder(table, below(lstm, tensors), below(mlp, tensors))
    return _Prompt({EMBEDS: rows}, Method.P_TUNING, len(rows), written)


def _prefix(tensors: _Tensors, context: _Context) -> _Prompt:
    spec, reasons = context.spec, context.reasons
    own = below(_DECODER, tensors)
    if spec.is_encoder_decoder:
        both = _both(own, {n: t for n, t in tensors.items() if not n.startswith(_DECODER)}, context)
        return replace(both, written=context.write("none", 0))
    reasons.expect(
        not own or len(own) == len(tensors),
        f"PrefixTuningTemplate of an encoder-decoder: it also has prefixes of the encoder; backbone {spec.name} is a "
        f"{spec.model_type} with none",
    )
    reasons.expect(spec.is_causal, f"PrefixTuningTemplate is for decoders; backbone {spec.name} is a {spec.model_type}")
    return replace(_prefix_of(own or tensors, "", context), written=context.write("none", 0))


def _both(decoder: _Tensors, encoder: _Tensors, context: _Context) -> _Prompt:
    """Return the prefixes of T5's two stacks, or of one of them."""
    sites: tuple[tuple[Site, _Tensors], ...] = (("", encoder), ("decoder_", decoder))
    found = [_prefix_of(tensors, site, context) for site, tensors in sites if tensors]
    tensors = {name: tensor for one in found for name, tensor in one.tensors.items()}
    return _Prompt(tensors, Method.PREFIX_TUNING, found[0].num_virtual_tokens)


def _prefix_of(tensors: _Tensors, site: Site, context: _Context) -> _Prompt:
    _expect_only(tensors, ("wte.weight", "control_trans."), context.reasons)
    table = read_table(tensors, "wte.weight", context.spec, context.reasons)
    context.reasons.check()
    flat = run_mlp(table, below("control_trans.", tensors), "tanh")
    return _Prompt(prefix_for(flat, context.spec, site), Method.PREFIX_TUNING, len(table))


def _expect_only(tensors: _Tensors, known: tuple[str, ...], reasons: Reasons) -> None:
    strangers = sorted(name for name in tensors if not name.startswith(known))
    reasons.expect(not strangers, f"the template has more than is known of it: {shorten(strangers)}")


def _expect_placed(rows: int, context: _Context) -> None:
    context.reasons.expect(
        context.publisher.template is not None or context.pieces is not None,
        f"nobody says where the {rows} virtual tokens stand: OpenPrompt keeps its template's text outside the file; "
        "give it with --openprompt-template, or say template in the manifest, for example "
        "'<cls>{text_a}<soft:2><mask>.<sep>'",
    )


def _num_slots(publisher: PublisherManifest) -> int:
    try:
        return parse_template(publisher.template).num_soft if publisher.template is not None else 0
    except ManifestError:  # told when the artifact is validated
        return 0


FAMILY = Family(
    "openprompt",
    "OpenPrompt: soft_embeds, soft_embedding.weight, new_embedding.weight or decoder_control_trans.*, and `freeze_plm`",
    claim,
    convert,
    takes_encoder_decoders=True,
)

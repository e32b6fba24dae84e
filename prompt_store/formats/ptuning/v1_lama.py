"""P-Tuning v1 on LAMA: the state dict of its prompt encoder, baked to virtual tokens on both sides of the text.

Tensors, perhaps below `embedding.`: `embedding.weight` `[m, H]`, `lstm_head.*` (two layers, both ways, hidden H/2),
`mlp_head.0` and `mlp_head.2` `[H, H]`. Config: the arguments of the training; `template` is (a, b, c), m = a + b + c,
on a causal backbone a + b. Math: P = mlp_head(lstm_head(embedding)). Layouts: `[CLS] P*a [MASK] P*b subject P*c [SEP]`,
with a full stop in place of no P at the end; causal `P*a subject P*b`. Read at the mask, or at the last token.
Source: THUDM/P-tuning, `LAMA/p_tuning/models.py`, `prompt_encoder.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from prompt_store.artifact import EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.encoders import run_prompt_encoder
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.table import below, read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_TABLE, _LSTM, _MLP = "embedding.weight", "lstm_head.", "mlp_head."
_OUTER = "embedding."
_COUNTS = re.compile(r"\(?\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*\)?")


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: the encoder's table beside its LSTM or MLP."""
    names = checkpoint.tensors.keys()
    has_encoder = any(name.removeprefix(_OUTER).startswith((_LSTM, _MLP)) for name in names)
    has_table = bool(names & {_TABLE, _OUTER + _TABLE})
    return "tensors 'embedding.weight' and 'lstm_head' or 'mlp_head'" if has_encoder and has_table else None


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Run the encoder once and lay out the template. Raises CheckpointError with every reason."""
    reasons, config = Reasons(), checkpoint.config or {}
    found = dict(checkpoint.tensors)
    tensors = below(_OUTER, found) if _OUTER + _TABLE in found else found
    strangers = sorted(name for name in tensors if name != _TABLE and not name.startswith((_LSTM, _MLP)))
    strangers += sorted(name for name in found if tensors is not found and not name.startswith(_OUTER))
    reasons.expect(not strangers, f"the file has more than an encoder: {shorten(strangers)}")
    table = read_table(tensors, _TABLE, spec, reasons)
    reasons.expect(
        not config.get("use_original_template"),
        "use_original_template is set: that training used a text in place of the virtual tokens",
    )
    template = None if publisher.template is not None else _template(config, len(table), spec, reasons)
    reasons.check()
    prompt = run_prompt_encoder(table, below(_LSTM, tensors), below(_MLP, tensors))
    return Parts(
        {EMBEDS: prompt},
        Method.P_TUNING,
        len(prompt),
        (HeadKind.LABEL_WORDS,),
        template=template,
        backbone_trained=bool(config.get("use_lm_finetune")),
    )


def _template(config: Mapping[str, object], rows: int, spec: BackboneSpec, reasons: Reasons) -> str | None:
    counts = _counts(config.get("template"))
    if counts is None:
        reasons.add(
            f"nobody says where the {rows} virtual tokens stand: send the training's template as `config`, "
            '{"template": [a, b, c]}, or say template in the manifest'
        )
        return None
    a, b, c = counts if not spec.is_causal else (*counts[:2], 0)
    reasons.expect(a + b + c == rows, f"the template {counts} takes {a + b + c} virtual tokens; the file has {rows}")
    if spec.is_causal:
        return f"{_soft(a)} {{subject}}{_soft(b)}"
    # Training put the full stop behind the subject's own tokens; as one string it is the same on both tokenizers.
    return f"<cls>{_soft(a)}<mask>{_soft(b)} {{subject}}{_soft(c) or '.'}<sep>"


def _counts(said: object) -> tuple[int, int, int] | None:
    """Read (a, b, c), which arguments keep as a text."""
    if isinstance(said, list | tuple):
        said = ",".join(str(count) for count in said)
    found = _COUNTS.fullmatch(said) if isinstance(said, str) else None
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _soft(count: int) -> str:
    return f"<soft:{count}>" if count else ""


FAMILY = Family(
    "ptuning-v1",
    "P-Tuning v1 (LAMA): embedding.weight, lstm_head.*, mlp_head.*, with the training's template (a, b, c)",
    claim,
    convert,
)

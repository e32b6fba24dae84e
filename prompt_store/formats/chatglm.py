"""P-Tuning v2 of ChatGLM-6B, ChatGLM2-6B and ChatGLM3-6B: a prefix encoder below `transformer.`

Tensors: `transformer.prefix_encoder.embedding.weight` `[n, w]`, w = L * 2 * groups * 128: 229376 (ChatGLM: 28 layers,
32 heads) or 14336 (ChatGLM2 and 3: 28 layers, 2 groups). With projection `[n, in]`, and `.trans.0` `[mid, in]`,
`.trans.2` `[w, mid]`: `in` is the hidden size in ChatGLM and w in 2 and 3. `config` is the model's config.json.
Math: e = table, or tanh(table @ W0 + b0) @ W2 + b2, cut as in `prefix_layout`; the authors' sequence-first order is the
same pairs. The text is at position 0, as without a prefix. transformers has no such model, so no backbone is one today.
Source: THUDM/ChatGLM-6B, `modeling_chatglm.py` (PrefixEncoder, get_prompt); THUDM/ChatGLM2-6B, the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.encoders import run_mlp
from prompt_store.errors import CheckpointError
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.prefix_layout import prefix_for
from prompt_store.formats.table import below, read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_ENCODER = "transformer.prefix_encoder."
_TABLE, _PROJECTION = _ENCODER + "embedding.weight", _ENCODER + "trans."
_BACKBONE = ("transformer.", "lm_head.")
MODEL_TYPE = "chatglm"
_MODELS = {229376: "ChatGLM-6B (28 layers, 32 heads of 128)", 14336: "ChatGLM2-6B or 3 (28 layers, 2 groups of 128)"}


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: a prefix encoder below `transformer.`"""
    found = next((name for name in sorted(checkpoint.tensors) if name.startswith(_ENCODER)), None)
    return found and f"tensor {found[:80]!r}"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Bake the prefix for a ChatGLM. Raises CheckpointError with every reason."""
    reasons, tensors = Reasons(), checkpoint.tensors
    if spec.model_type != MODEL_TYPE:
        raise CheckpointError(
            f"the prefix of {_model(checkpoint)}; backbone {spec.name} is a {spec.model_type}, and its keys and values "
            "mean nothing there"
        )
    strangers = sorted(name for name in tensors if not name.startswith(_BACKBONE))
    reasons.expect(not strangers, f"the file also has {shorten(strangers)}; known are a prefix and the backbone")
    table = read_table(tensors, _TABLE, spec, reasons)
    reasons.check()
    projection = below(_PROJECTION, tensors)
    prefix = prefix_for(run_mlp(table, projection, "tanh") if projection else table, spec)
    others = sum(not name.startswith(_ENCODER) for name in tensors)
    return Parts(
        prefix,
        Method.P_TUNING_V2,
        len(table),
        (HeadKind.GENERATION, HeadKind.LABEL_WORDS),
        text_position_offset=0,
        checks=_remarks(checkpoint.config or {}, others),
    )


def _model(checkpoint: Checkpoint) -> str:
    last = checkpoint.tensors.get(_PROJECTION + "2.weight")
    table = checkpoint.tensors.get(_TABLE)
    width = 0
    if last is not None and last.ndim == 2:
        width = last.shape[0]
    elif table is not None and table.ndim == 2:
        width = table.shape[1]
    return _MODELS.get(width, f"a ChatGLM, {width} wide")


def _remarks(config: Mapping[str, object], others: int) -> tuple[str, ...]:
    bits = config.get("quantization_bit")
    remarks = [f"backbone in the file ignored: {others} tensors"] if others else []
    if isinstance(bits, int) and bits:
        remarks.append(f"trained on a backbone of {bits} bits: its answers on another are close, not the same")
    return tuple(remarks)


FAMILY = Family("chatglm", "ChatGLM: transformer.prefix_encoder.*", claim, convert)

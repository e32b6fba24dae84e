"""P-Tuning v1 on SuperGLUE (few-shot, PET): `embeddings.pth` as one dict of tensors. The backbone was trained as well.

Tensors: `prompt_embeddings.weight` `[p, E]`; LSTM form `lstm_head.*` (two layers, both ways, hidden E), `mlp_head.0`
`[E, 2E]`, `mlp_head.2` `[E, E]`; MLP form `mlp.0`, `mlp.2` `[E, E]` (or under `mlp_head`).
Math: P = mlp_head(lstm_head(prompt_embeddings)), or mlp(prompt_embeddings). Layouts are the task's patterns, tokenised
part by part; nothing in the file says which.
Source: THUDM/P-tuning, `PT-Fewshot/pet/wrapper.py`, `pet/tasks.py`.
"""

from __future__ import annotations

from prompt_store.artifact import EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.encoders import run_prompt_encoder
from prompt_store.errors import UnservedMethodError
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.table import below, read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_TABLE = "prompt_embeddings.weight"
_SEVERAL_MASKS = ("copa", "wsc")
_LSTM, _MLP, _LONE_MLP = "lstm_head.", "mlp_head.", "mlp."


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: the table under its own name, unless Petals' rows for every layer stand beside it."""
    if "intermediate_prompt_embeddings.weight" in checkpoint.tensors:
        return None
    return f"tensor {_TABLE!r}" if _TABLE in checkpoint.tensors else None


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Run the encoder once. Raises CheckpointError with every reason."""
    reasons, tensors = Reasons(), checkpoint.tensors
    strangers = sorted(n for n in tensors if n != _TABLE and not n.startswith((_LSTM, _MLP, _LONE_MLP)))
    reasons.expect(not strangers, f"the file has more than an encoder: {shorten(strangers)}")
    mlp, lone = below(_MLP, tensors), below(_LONE_MLP, tensors)
    reasons.expect(not (mlp and lone), "the file has mlp_head.* and mlp.*, two encoders of the same rows: keep one")
    task = (checkpoint.config or {}).get("task_name")
    reasons.expect(
        task not in _SEVERAL_MASKS,
        f"{task} is answered by filling several masks one after the other, the surest first, once for each answer; "
        "that is not served",
        UnservedMethodError,
    )
    table = read_table(tensors, _TABLE, spec, reasons)
    reasons.expect(
        publisher.template is not None,
        f"nobody says where the {len(table)} virtual tokens stand: say template in the manifest, "
        "for example '<cls>{premise} Question: {hypothesis}?<soft:1> Answer: <mask>.<sep>'",
    )
    reasons.check()
    prompt = run_prompt_encoder(table, below(_LSTM, tensors), mlp or lone)
    return Parts(
        {EMBEDS: prompt},
        Method.P_TUNING,
        len(prompt),
        (HeadKind.LABEL_WORDS,),
        tokenize="pieces",
        backbone_trained=True,
    )


FAMILY = Family(
    "ptuning-few-shot",
    "P-Tuning v1 (few-shot): prompt_embeddings.weight with its encoder, on the backbone that was trained with it",
    claim,
    convert,
)

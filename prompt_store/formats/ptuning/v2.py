"""P-Tuning v2 as its authors save it: a model's state dict with `prefix_encoder.*`, whole or stripped.

Tensors: `prefix_encoder.embedding.weight` `[n, L * 2 * H]`; with projection `[n, H]`, and `prefix_encoder.trans.0`
`[P, H]`, `.trans.2` `[L * 2 * H, P]`. Heads and poolers as in `trained_model`; the head is one Linear, for RoBERTa too.
Math: e = table, or tanh(table @ W0 + b0) @ W2 + b2; K and V of each layer side by side. Text follows at position n.
The shapes decide, not the config. Source: THUDM/P-tuning-v2, `model/prefix_encoder.py`, `sequence_classification.py`,
`token_classification.py`, `question_answering.py`, `multiple_choice.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.encoders import run_mlp
from prompt_store.formats.assembly.labels import config_labels, config_problem_type
from prompt_store.formats.checkpoint import Checkpoint, Reasons
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.prefix_layout import prefix_for
from prompt_store.formats.table import below, read_table
from prompt_store.formats.trained_model import read_model
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_TABLE = "prefix_encoder.embedding.weight"
_PROJECTION = "prefix_encoder.trans."
_MARKS = ("prefix_encoder.embedding.", _PROJECTION)


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: a prefix encoder's table or projection."""
    found = next((name for name in sorted(checkpoint.tensors) if name.startswith(_MARKS)), None)
    return found and f"tensor {found[:80]!r}"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Bake the prefix, if it has a projection, and take head and pooler. Raises CheckpointError with every reason."""
    reasons = Reasons()
    model = read_model(checkpoint, "prefix_encoder.", publisher, spec, reasons)
    labels = config_labels(checkpoint.config, reasons)
    problem_type = config_problem_type(checkpoint.config, reasons)
    table = read_table(checkpoint.tensors, _TABLE, spec, reasons)
    reasons.check()
    projection = below(_PROJECTION, checkpoint.tensors)
    flat = run_mlp(table, projection, "tanh") if projection else table.detach()
    prefix = prefix_for(flat, spec, advice=_advice(flat.shape[1], bool(projection), spec))
    return Parts(
        {**prefix, **model.tensors},
        Method.P_TUNING_V2,
        len(table),
        model.kinds,
        labels=labels,
        problem_type=problem_type,
        reads={HeadKind.SEQUENCE_CLASSIFICATION: "pooler", HeadKind.MULTIPLE_CHOICE: "pooler"},
        checks=(*model.checks, *_remarks(checkpoint.config, bool(projection))),
    )


def _advice(width: int, is_projected: bool, spec: BackboneSpec) -> str:
    is_bare = width == spec.hidden_size and not is_projected
    return "prefix_encoder.trans.*, its projection, is missing" if is_bare else "Was it trained for another model?"


def _remarks(config: Mapping[str, object] | None, is_projected: bool) -> tuple[str, ...]:
    said = (config or {}).get("prefix_projection")
    if not isinstance(said, bool) or said == is_projected:
        return ()
    return (f"prefix_projection is {said} in the config; the tensors say {is_projected}, and they are followed",)


FAMILY = Family(
    "ptuning-v2",
    "P-Tuning v2: prefix_encoder.embedding.weight, with its head, as `*Prefix*For*` saves it",
    claim,
    convert,
)

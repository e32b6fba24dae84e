"""P-Tuning v2's "Prompt" classes (`--prompt`): one row of input a virtual token, in front of text embedded before.

Tensors: `prefix_encoder.weight` `[n, H]`, and what `trained_model` knows; `embeddings.*` is the backbone's, again.
Math: raw = whole embedding of the text (word, position from 0, type, LayerNorm); [rows | raw] goes through the same
embedding a second time, with positions 0..n+T-1 and type 0. Sequence classification pools the first text token,
multiple choice the first virtual one. Source: THUDM/P-tuning-v2, `model/sequence_classification.py`
(BertPromptForSequenceClassification, RobertaPrompt...), `model/multiple_choice.py`.
"""

from __future__ import annotations

from prompt_store.artifact import EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.assembly.labels import config_labels, config_problem_type
from prompt_store.formats.checkpoint import Checkpoint, Reasons
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.table import read_table
from prompt_store.formats.trained_model import read_model
from prompt_store.manifest import READS_TOKENS, HeadKind, Method, PublisherManifest

_TABLE = "prefix_encoder.weight"


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: the table under the name that only these classes use."""
    return f"tensor {_TABLE!r}" if _TABLE in checkpoint.tensors else None


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Take the rows, head and pooler. Raises CheckpointError with every reason."""
    reasons = Reasons()
    model = read_model(checkpoint, _TABLE, publisher, spec, reasons)
    for kind in (*model.kinds, *filter(None, [publisher.kind])):
        reasons.expect(kind not in READS_TOKENS, f"no Prompt class of P-Tuning v2 answers {kind}")
    labels = config_labels(checkpoint.config, reasons)
    problem_type = config_problem_type(checkpoint.config, reasons)
    table = read_table(checkpoint.tensors, _TABLE, spec, reasons)
    reasons.check()
    return Parts(
        {EMBEDS: table, **model.tensors},
        Method.PROMPT_TUNING,
        len(table),
        model.kinds,
        labels=labels,
        problem_type=problem_type,
        reads={HeadKind.SEQUENCE_CLASSIFICATION: "text-pooler", HeadKind.MULTIPLE_CHOICE: "pooler"},
        embeds_twice=True,
        checks=model.checks,
    )


FAMILY = Family(
    "ptuning-v2-prompt",
    "P-Tuning v2 --prompt: prefix_encoder.weight, with its head, as `*Prompt*For*` saves it",
    claim,
    convert,
)

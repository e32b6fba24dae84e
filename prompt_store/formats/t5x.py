"""T5X prompt tuning: one array in front of a T5's encoder input, the decoder untouched.

Tensors: `encoder.prompt.prompt.prompt` `[n, H]`, which is the file's name below `numpy_checkpoints/`; a released `.npy`
goes by the same name. Math: none, it is PEFT's prompt tuning of T5: `[rows | embedded text]`, mask ones, relative
positions over both. Needs the LM-adapted T5 1.1 that it was trained on. Source: google-research/prompt-tuning,
`train/layers.py`, `prompts.py` (prefix_prompt).
"""

from __future__ import annotations

from prompt_store.artifact import EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.table import read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_PROMPT = "encoder.prompt.prompt.prompt"
_MARKS = ("encoder.prompt.", "decoder.prompt.")
_T5 = frozenset({"t5", "mt5", "umt5"})


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: the parameter's dotted name."""
    found = next((name for name in sorted(checkpoint.tensors) if name.startswith(_MARKS)), None)
    return found and f"tensor {found[:80]!r}"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Take the rows for a T5. Raises CheckpointError with every reason."""
    reasons = Reasons()
    reasons.expect(
        spec.model_type in _T5,
        f"a T5X prompt stands in front of a T5's encoder input; backbone {spec.name} is a {spec.model_type}",
    )
    strangers = sorted(name for name in checkpoint.tensors if name != _PROMPT)
    reasons.expect(not strangers, f"the file has more than the encoder's prompt: {shorten(strangers)}")
    rows = read_table(checkpoint.tensors, _PROMPT, spec, reasons)
    reasons.check()
    return Parts({EMBEDS: rows}, Method.PROMPT_TUNING, len(rows), (HeadKind.GENERATION, HeadKind.LABEL_WORDS))


FAMILY = Family("t5x", f"T5X: {_PROMPT}, on a T5", claim, convert, takes_encoder_decoders=True)

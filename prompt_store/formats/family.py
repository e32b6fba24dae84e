"""The seam between recognition and one family of checkpoints: what a family must say and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats.assembly.heads import Reads
from prompt_store.formats.checkpoint import Checkpoint
from prompt_store.label_scoring import LabelScoring, LabelWords
from prompt_store.manifest import (
    HeadKind,
    Manifest,
    Method,
    ProblemType,
    PublisherManifest,
    SpecialTokens,
    Tokenize,
    TokenTypes,
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpoint held, baked and under canonical names.

    `method` is None when it brought no soft prompt. `kinds` are the kinds of task it can be, best first; empty when
    the file does not say. `template`, `tokenize`, `token_types` and `special_tokens` are what the family's training
    did, and `reads` says where its one-layer heads read, by kind. `manifest` is set only by a file that carries a whole
    one.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    method: Method | None = None
    num_virtual_tokens: int = 0
    kinds: tuple[HeadKind, ...] = ()
    labels: tuple[str, ...] | None = None
    problem_type: ProblemType | None = None  # of a sequence classification
    label_words: LabelWords | None = None
    label_scoring: LabelScoring | None = None
    template: str | None = None
    tokenize: Tokenize | None = None
    max_length: int | None = None
    truncate: str | None = None
    token_types: TokenTypes | None = None
    special_tokens: SpecialTokens | None = None
    text_position_offset: int | None = None  # of the first text token behind a KV prefix; None: their number
    decoder_position_offset: int | None = None  # of the decoder's start behind its KV prefix; None: their number
    decoder_text: str | None = None  # what a decoder has behind its start token, on an encoder-decoder
    reads: Mapping[HeadKind, Reads] = field(default_factory=dict)
    embeds_twice: bool = False
    backbone_trained: bool = False  # the training changed the backbone too: right on those weights alone
    manifest: Manifest | None = None
    checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """One family of checkpoints.

    `claim` returns the evidence by which it knows a checkpoint as its own, or None; families must claim disjoint
    checkpoints, since two claims are refused as ambiguous. `needs` tells a publisher what would be recognised.
    """

    name: str
    needs: str
    claim: Callable[[Checkpoint], str | None]
    convert: Callable[[Checkpoint, PublisherManifest, BackboneSpec], Parts]
    takes_encoder_decoders: bool = False  # whether its training knows T5, BART and the like


def not_taken(
    name: str,
    claim: Callable[[Checkpoint], str | None],
    reason: str,
    error: type[CheckpointError] = CheckpointError,
) -> Family:
    """Return a family that is recognised only to be refused by name."""

    def refuse(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
        raise error(f"{name} checkpoint: {reason} ({claim(checkpoint)}; {checkpoint.describe()})")

    return Family(name, needs="", claim=claim, convert=refuse)

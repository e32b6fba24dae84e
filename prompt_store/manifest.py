"""The manifest: everything besides tensors that determines an artifact's answer. Knows no tensors.

`Manifest` is what an artifact holds; `PublisherManifest` is what somebody may send along with a checkpoint.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from prompt_store.errors import ManifestError, TooLargeError
from prompt_store.label_scoring import Label, LabelScoring, LabelWords
from prompt_store.strict_json import StrictJsonError, parse

MAX_MANIFEST_BYTES = 1 << 20
MAX_MANIFEST_DEPTH = 8


class HeadKind(StrEnum):
    """What a task reads from the hidden states."""

    SEQUENCE_CLASSIFICATION = "sequence-classification"
    TOKEN_CLASSIFICATION = "token-classification"
    QUESTION_ANSWERING = "question-answering"
    MULTIPLE_CHOICE = "multiple-choice"
    LABEL_WORDS = "label-words"
    GENERATION = "generation"
    EMBEDDING = "embedding"


HEADED = frozenset(
    {
        HeadKind.SEQUENCE_CLASSIFICATION,
        HeadKind.TOKEN_CLASSIFICATION,
        HeadKind.QUESTION_ANSWERING,
        HeadKind.MULTIPLE_CHOICE,
    }
)
"""Kinds that read through a trained head."""

READS_TOKENS = frozenset({HeadKind.TOKEN_CLASSIFICATION, HeadKind.QUESTION_ANSWERING})
"""Kinds whose head reads every text token."""


Pool = Literal["pooler", "text-pooler", "first", "cls", "last", "mean"]
"""Where a row is read: the pooler's output over its first position (a virtual token counts) or over its first text
token; its first position, its first text token or its last position itself; the mean over its text tokens."""


Tokenize = Literal["whole", "pieces", "spaced-pieces"]
"""What of a template is tokenised as one string: all between two hard boundaries, every part apart, or every part apart
with the space in front of a field as the field's (OpenPrompt)."""


TokenTypes = Literal["pair", "zero"]
SpecialTokens = Literal["tokenizer", "template"]
"""Whether the second text of a pair has type 1, as the tokenizer gives it, or 0 like all else (PEFT's question
answering drops the types)."""


ProblemType = Literal["single_label", "multi_label", "regression"]
"""What the scores of a sequence classification mean: one label of all, any number of them, or values."""


class Method(StrEnum):
    """How the soft prompt was trained."""

    PROMPT_TUNING = "prompt-tuning"
    P_TUNING = "p-tuning"
    PREFIX_TUNING = "prefix-tuning"
    P_TUNING_V2 = "p-tuning-v2"
    MULTITASK_PROMPT_TUNING = "multitask-prompt-tuning"
    CPT = "cpt"  # context-aware prompt tuning
    CARTRIDGE = "cartridge"
    NONE = "none"  # a head, a template or label words on the bare backbone


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_M = TypeVar("_M", bound=_Part)


class GenerationDefaults(_Part):
    """Defaults for `parameters` of a generation task; a request overrides each one alone."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    ignore_eos: bool | None = None


class GoldenExample(_Part):
    """One input with the answer that the publisher promises."""

    inputs: JsonValue
    outputs: JsonValue
    tolerance: Annotated[float, Field(gt=0)] = 1e-3


HeadForm = Literal["linear", "dense-linear", "dense-norm-linear", "pre-classifier", "prediction"]
_NESTED = ("dense-linear", "dense-norm-linear")  # both layers stand below the path
HeadActivation = Literal["tanh", "gelu", "gelu_new", "relu"]


class HeadModule(_Part):
    """The trained layers between hidden states and logits, by the names of the training model.

    `linear`: one Linear at `path`. `dense-linear`: `path.dense`, `activation`, `path.out_proj`. `dense-norm-linear`:
    the same with the LayerNorm `path.norm` before the last, whose epsilon is `norm_eps`.
    `pre-classifier`: `pre_classifier`, `activation`, `path`. `prediction`: `head.dense`, `activation`, `head.norm`,
    `path`, where the first three are the backbone's own if the artifact brings none.
    `reads` says which hidden state goes in: the pooler's output over the row's first position (a virtual token counts)
    or over its first text token, the first position itself, the last one, that of the mask, the mean of all,
    or every text token.
    `pooler_activation` is of a pooler that the artifact brings; unset is tanh.
    """

    path: str
    form: HeadForm = "linear"
    activation: HeadActivation | None = None
    norm_eps: Annotated[float, Field(gt=0)] | None = None
    reads: Literal["pooler", "text-pooler", "first", "last", "mask", "mean", "tokens"]
    pooler_activation: Literal["tanh", "gelu"] | None = None

    @property
    def reads_pooler(self) -> bool:
        """Whether a pooler stands between the hidden state and the head."""
        return self.reads in ("pooler", "text-pooler")

    @property
    def last(self) -> str:
        """The path of the layer that gives the scores."""
        return f"{self.path}.out_proj" if self.form in _NESTED else self.path

    @property
    def first(self) -> str | None:
        """The path of the layer before the activation; None: there is none."""
        if self.form in _NESTED:
            return f"{self.path}.dense"
        return {"pre-classifier": "pre_classifier", "prediction": "head.dense"}.get(self.form)

    @property
    def norm(self) -> str | None:
        """The path of the LayerNorm before the last layer; None: there is none."""
        return {"dense-norm-linear": f"{self.path}.norm", "prediction": "head.norm"}.get(self.form)


class Fingerprint(_Part):
    """The backbone that the prompt was made for; `weights` is absent when nobody could say."""

    arch: str
    weights: str | None = None


class PublisherManifest(_Part):
    """What a publisher may say; every field is optional where the checkpoint itself says it."""

    kind: HeadKind | None = None
    template: Annotated[str, Field(min_length=1, max_length=65_536)] | None = None
    tokenize: Tokenize | None = None
    max_length: Annotated[int, Field(ge=1)] | None = None
    truncate: str | None = None
    truncation_side: Literal["right", "left"] | None = None
    labels: Annotated[tuple[Label, ...], Field(min_length=1)] | None = None
    label_words: LabelWords | None = None
    label_scoring: LabelScoring | None = None
    problem_type: ProblemType | None = None
    pool: Pool | None = None
    normalize: bool | None = None  # an embedding is scaled to length 1 unless the request says otherwise
    text_position_offset: Annotated[int, Field(ge=0)] | None = None
    decoder_position_offset: Annotated[int, Field(ge=0)] | None = None
    decoder_text: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    peft_layer_order: Literal["peft", "straight", "older"] | None = (
        None  # see `prompt_store.formats.peft.family`; default peft
    )
    # Which of PEFT's two forward passes on an encoder-decoder is served: training's also has a prompt in the decoder.
    peft_decoder: Literal["generate", "training"] | None = None
    token_types: TokenTypes | None = None
    special_tokens: SpecialTokens | None = None
    qa_offset: Annotated[int, Field(ge=0)] | None = None
    embeds_scale: Annotated[float, Field(gt=0, le=1e4)] | None = None  # see `prompt_store.formats.scale`
    trained_quantization: Annotated[str, Field(max_length=64)] | None = None  # of the backbone at training, e.g. int4
    prompt_task_id: Annotated[int, Field(ge=0)] | None = None  # the row of a multitask prompt
    prompt_task: Annotated[str, Field(max_length=256)] | None = None  # the prompt to take, of a file that names several
    generation: GenerationDefaults | None = None
    examples: Annotated[tuple[GoldenExample, ...], Field(max_length=64)] | None = None
    fingerprint: Fingerprint | None = None
    backbone_trained: bool | None = None  # training also changed the backbone: taken on exactly those weights alone
    description: Annotated[str, Field(max_length=4096)] | None = None  # goes to the version record, not the artifact

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Read untrusted JSON. Raises TooLargeError, ManifestError with every fault and its field's path."""
        return _read(cls, raw)


class Manifest(_Part):
    """What an artifact's `manifest` tensor holds. Unset fields are left out of the canonical bytes."""

    manifest_version: Literal[1] = 1
    method: Method
    kind: HeadKind
    num_virtual_tokens: Annotated[int, Field(ge=0)]  # of the encoder's prompt, else the decoder's, else the cross one
    num_decoder_virtual_tokens: Annotated[int, Field(ge=1)] | None = None  # of the decoder's; default as the former
    num_cross_virtual_tokens: Annotated[int, Field(ge=1)] | None = None  # of the cross prefix; default as the former
    template: str
    tokenize: Tokenize = "whole"
    max_length: int | None = None
    truncate: str | None = None
    truncation_side: Literal["right", "left"] = "right"
    labels: tuple[Label, ...] | None = None  # in the head's order; for label words, the order of the answer
    label_words: LabelWords | None = None
    label_scoring: LabelScoring | None = None
    problem_type: ProblemType | None = None
    head: HeadModule | None = None
    pool: Pool | None = None  # of an embedding task; a head says itself where it reads
    normalize: bool | None = None  # of an embedding task: the default of the parameter
    text_position_offset: int | None = None  # KV prefixes: position of the first text token; default n
    decoder_position_offset: int | None = None  # decoder KV prefixes: position of the decoder's start; default n
    decoder_text: str | None = None  # what an encoder-decoder's decoder has behind its start token; default nothing
    token_types: TokenTypes | None = None  # default pair
    special_tokens: SpecialTokens | None = None  # default tokenizer: it adds its own where the template writes none
    qa_offset: int | None = None  # virtual tokens in front: the place that answers for the first text token; default n
    embeds_twice: Literal[True] | None = (
        None  # the text's whole embedding stands beside `embeds`, and is embedded again
    )
    generation: GenerationDefaults | None = None
    examples: tuple[GoldenExample, ...] | None = None
    fingerprint: Fingerprint

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Read untrusted JSON. Raises TooLargeError, ManifestError with every fault and its field's path."""
        return _read(cls, raw)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `None` means unset and is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @model_validator(mode="after")
    def _labels_fit_label_words(self) -> Self:
        if self.kind is HeadKind.LABEL_WORDS and not self.label_words:
            raise ValueError('a label-words task needs label_words, e.g. {"good": ["great"], "bad": ["awful"]}')
        if self.label_scoring is not None:
            if self.kind is not HeadKind.LABEL_WORDS:
                raise ValueError(f"label_scoring is for label-words tasks; this is a {self.kind} task")
            if faults := list(self.label_scoring.faults(self.label_words or {})):
                raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _pool_is_for_embeddings(self) -> Self:
        is_embedding = self.kind is HeadKind.EMBEDDING
        if is_embedding != (self.pool is not None):
            raise ValueError("an embedding task, and no other, says its pool: mean, cls, last, ..")
        if self.normalize is not None and not is_embedding:
            raise ValueError(f"normalize is for embedding tasks; this is a {self.kind} task")
        return self


def _read(model: type[_M], raw: bytes) -> _M:
    if len(raw) > MAX_MANIFEST_BYTES:
        raise TooLargeError(f"the manifest has {len(raw)} bytes; at most {MAX_MANIFEST_BYTES} are taken")
    try:
        parse(raw, MAX_MANIFEST_DEPTH)  # pydantic takes duplicate keys and deep nesting
    except StrictJsonError as error:
        raise ManifestError(f"the manifest {error}") from error
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        faults = (f"manifest.{'.'.join(map(str, e['loc'])) or '(root)'}: {e['msg']}" for e in error.errors())
        raise ManifestError(*faults) from error

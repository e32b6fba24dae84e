"""A request's `parameters`, by kind of head. Unknown ones are refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from prompt_store.manifest import GenerationDefaults, HeadKind, Manifest
from server.inference.errors import RequestError

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_ANSWERS = 100


def _tuple_of(value: object) -> object:
    """JSON has lists; strict validation wants tuples. One bare text is a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


StopText = Annotated[str, Field(min_length=1, max_length=256)]
Labels = Annotated[tuple[str, ...], BeforeValidator(_tuple_of), Field(max_length=1024)]


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    stream: bool = False  # the caller of the service picks `infer` or `stream`


class ClassificationParameters(_Parameters):
    """For sequence classification and label words."""

    top_k: Annotated[int, Field(ge=1)] | None = None  # None: every label
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None  # of multi_label only
    words: bool = False  # of label words: tell each word's logits too

    def expect_use(self, manifest: Manifest) -> None:
        """Refuse what this task's answers would ignore. Raises RequestError."""
        if self.threshold is not None and manifest.problem_type != "multi_label":
            found = manifest.problem_type or manifest.kind
            raise RequestError(
                f"threshold chooses the labels of a multi_label task; this one is {found}", "parameters.threshold"
            )
        if self.words and manifest.kind is not HeadKind.LABEL_WORDS:
            raise RequestError(f"words are of label-words tasks; this is a {manifest.kind} task", "parameters.words")
        if self.top_k is not None and manifest.problem_type == "regression":
            raise RequestError("top_k ranks labels; this regression task answers with its value", "parameters.top_k")


class TokenParameters(_Parameters):
    """For token classification."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"
    ignore_labels: Labels = ("O",)
    stride: Annotated[int, Field(ge=0)] | None = None  # read a long text in windows that share so many tokens


class AnswerParameters(_Parameters):
    """For question answering."""

    top_k: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None  # None: the best one, without a list
    max_answer_length: Annotated[int, Field(ge=1, le=512)] = 15  # tokens
    doc_stride: Annotated[int, Field(ge=0)] | None = None  # tokens that two windows share; None: 128 where they fit
    align_to_words: bool = True
    handle_impossible_answer: bool = False
    null_threshold: float | None = None  # None: "no answer" is ranked by its score like any other

    @model_validator(mode="after")
    def _threshold_has_a_use(self) -> Self:
        if self.null_threshold is not None and not self.handle_impossible_answer:
            raise ValueError("null_threshold is for handle_impossible_answer, which is not set")
        return self


class ChoiceParameters(_Parameters):
    """For multiple choice."""


class EmbeddingParameters(_Parameters):
    """For embeddings."""

    normalize: bool | None = None  # None: what the manifest says, else no
    dimensions: Annotated[int, Field(ge=1)] | None = None  # the first so many alone; None: all


class GenerationParameters(GenerationDefaults):
    """For generation; what is None comes from the manifest's defaults."""

    model_config = ConfigDict(strict=True)

    stop: Annotated[tuple[StopText, ...], BeforeValidator(_tuple_of), Field(max_length=MAX_STOPS)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    stream: bool = False


Parameters = (
    ClassificationParameters
    | TokenParameters
    | AnswerParameters
    | ChoiceParameters
    | GenerationParameters
    | EmbeddingParameters
)
_P = TypeVar("_P", bound=BaseModel)

_MODELS: dict[HeadKind, type[Parameters]] = {
    HeadKind.SEQUENCE_CLASSIFICATION: ClassificationParameters,
    HeadKind.LABEL_WORDS: ClassificationParameters,
    HeadKind.TOKEN_CLASSIFICATION: TokenParameters,
    HeadKind.QUESTION_ANSWERING: AnswerParameters,
    HeadKind.MULTIPLE_CHOICE: ChoiceParameters,
    HeadKind.GENERATION: GenerationParameters,
    HeadKind.EMBEDDING: EmbeddingParameters,
}


def parse_parameters(kind: HeadKind, parameters: Mapping[str, JsonValue]) -> Parameters:
    """Read the parameters that a task of this kind takes. Raises RequestError with every fault and its path."""
    return _read(_MODELS[kind], kind, parameters)


def _read(model: type[_P], kind: HeadKind, parameters: Mapping[str, Any]) -> _P:
    try:
        return model.model_validate(dict(parameters))
    except ValidationError as error:
        faults = [(".".join(map(str, ("parameters", *e["loc"]))), e) for e in error.errors(include_url=False)]
        told = "; ".join(f"{path}: {_told(model, kind, e)}" for path, e in faults)
        raise RequestError(told, faults[0][0]) from error


def _told(model: type[BaseModel], kind: HeadKind, fault: Mapping[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        return f"a {kind} task does not know it; it knows {', '.join(sorted(model.model_fields))}"
    return str(fault["msg"])

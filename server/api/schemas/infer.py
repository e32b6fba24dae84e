"""Bodies and answers of inference."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, WithJsonSchema

from prompt_store.manifest import HeadKind
from server.api.schemas.common import Body, ErrorAnswer, View
from server.inference.answer import Answer

_FIELDS = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
            {"type": "array", "items": {"type": "integer", "minimum": 0}},
        ]
    },
}
_ITEM = {"anyOf": [{"type": "string"}, _FIELDS]}

# Which fields an item has is the task's matter, so the service reads it; the page only shows the outline.
Inputs = Annotated[
    JsonValue,
    WithJsonSchema({"anyOf": [{"type": "string"}, _FIELDS, {"type": "array", "minItems": 1, "items": _ITEM}]}),
    Field(description="A text, an object of the template's fields, `{input_ids}`, or a list of these: a batch."),
]
Parameters = Annotated[
    dict[str, JsonValue],
    Field(
        description="What the task's kind takes. Generation: max_new_tokens, temperature, top_p, top_k, min_p, "
        "repetition_penalty, presence_penalty, frequency_penalty, stop, seed, logprobs, ignore_eos, stream. "
        "Classification and label words: top_k; multi-label also threshold. Token classification: "
        "aggregation_strategy, ignore_labels, stride. Question answering: top_k, max_answer_length, doc_stride, "
        "align_to_words, handle_impossible_answer, null_threshold. Embedding: normalize, dimensions."
    ),
]
User = Annotated[
    str | None, Field(max_length=256, description="The same user gets the same version of a weighted alias.")
]
TaskId = Annotated[str, Field(max_length=300, description="`[tenant/]name[@alias | @sha256:..]`")]


class TaskInferBody(Body):
    """One inference; the task stands in the path."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": "a warm, funny, engaging film"}, {"inputs": ["good", "bad"]}]}
    )

    inputs: Inputs
    parameters: Parameters = Field(default_factory=dict)
    user: User = None


class InferBody(TaskInferBody):
    """One inference."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"task_id": "sentiment", "inputs": "a warm, funny, engaging film"},
                {"task_id": "source", "inputs": ["The battery died after two days.", "omg so tired today"]},
                {
                    "task_id": "reader",
                    "inputs": {"question": "Who wrote it?", "context": "Ada Lovelace wrote the first program."},
                    "parameters": {"top_k": 3},
                },
                {
                    "task_id": "quiz",
                    "inputs": {"question": "What barks?", "choices": ["a cat", "a dog", "a tree"]},
                },
            ]
        }
    )

    task_id: TaskId


class BatchBody(Body):
    """Inferences of different tasks in one call."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "requests": [
                        {"task_id": "sentiment", "inputs": "a warm, funny, engaging film"},
                        {"task_id": "source", "inputs": "The battery died after two days."},
                    ]
                }
            ]
        }
    )

    requests: Annotated[list[InferBody], Field(min_length=1)]


class UsageView(View):
    """Tokens of all inputs; `input_tokens` counts no virtual ones."""

    input_tokens: int
    virtual_tokens: int
    output_tokens: int


class TimingView(View):
    """Where the time went, in milliseconds."""

    load_ms: float
    queue_ms: float
    step_ms: float
    total_ms: float


class InferAnswer(View):
    """What one version answered, an output for each input."""

    task: str
    version: str
    alias: str | None
    kind: HeadKind
    outputs: list[Any]
    usage: UsageView
    timing: TimingView


class BatchAnswer(View):
    """Each request's own answer or error, in order."""

    results: list[InferAnswer | ErrorAnswer]


def answer_json(answer: Answer) -> dict[str, Any]:
    """Return an InferAnswer's JSON. By hand: this is the hot path, and the values are our own."""
    usage, timing = answer.usage, answer.timing
    return {
        "task": str(answer.task),
        "version": answer.version,
        "alias": answer.alias,
        "kind": answer.kind.value,
        "outputs": list(answer.outputs),
        "usage": {
            "input_tokens": usage.input_tokens,
            "virtual_tokens": usage.virtual_tokens,
            "output_tokens": usage.output_tokens,
        },
        "timing": {
            "load_ms": round(timing.load_ms, 3),
            "queue_ms": round(timing.queue_ms, 3),
            "step_ms": round(timing.step_ms, 3),
            "total_ms": round(timing.total_ms, 3),
        },
    }

"""From the rows of a call to its answer. The figures come from the engine, their shape from `outputs`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice

import torch
from pydantic import JsonValue

from prompt_store.manifest import HeadKind
from prompt_store.template import CHOICE
from server.engine.types import Outcome, Token
from server.inference.answer import Answer, Timing, Usage
from server.inference.outputs import choice_output, embedding_output, label_words_output, sequence_output
from server.inference.overlaps import without_overlaps
from server.inference.parameters import (
    AnswerParameters,
    ChoiceParameters,
    ClassificationParameters,
    EmbeddingParameters,
    TokenParameters,
)
from server.inference.question_answering import answer_output
from server.inference.spans import SpanReader
from server.inference.walk import Walk
from server.inference.writing import Written
from server.text.filled import Filled

_MAX_READ_ON_LOOP = 8  # the spans of a row take up to a millisecond


class Clocked:
    """The times of one call, from its arrival."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = self._leased = clock()

    def leased(self) -> None:
        """The version is resident and held."""
        self._leased = self._clock()

    def timing(self, outcomes: Sequence[Outcome]) -> Timing:
        """Return where the time went until now."""
        return Timing(
            load_ms=1e3 * (self._leased - self._started),
            queue_ms=1e3 * max(outcome.queue_s for outcome in outcomes),
            step_ms=1e3 * max(outcome.step_s for outcome in outcomes),
            total_ms=1e3 * (self._clock() - self._started),
        )


async def read_answer(walk: Walk, clocked: Clocked) -> Answer:
    """Wait for the rows of a submitted walk and read its answer. Raises EngineError."""
    if walk.lease.servable.manifest.kind is HeadKind.GENERATION:
        written = await walk.written()
        outcomes = [text.outcome for text in written]
        wants_logprobs = walk.work.wants_logprobs
        outputs = [_generation_output(text, wants_logprobs) for text in written]
        num_written = sum(len(text.tokens) for text in written)
    else:
        outcomes, num_written = await walk.outcomes(), 0
        outputs = await _head_outputs(walk, outcomes)
    return _answer(walk, outputs, _usage(walk, num_written), clocked.timing(outcomes))


def _answer(walk: Walk, outputs: Sequence[JsonValue], usage: Usage, timing: Timing) -> Answer:
    lease = walk.lease
    kind = lease.servable.manifest.kind
    return Answer(lease.task, lease.version, lease.alias, kind, tuple(outputs), usage, timing)


def _usage(walk: Walk, num_written: int) -> Usage:
    return Usage(
        input_tokens=sum(filled.num_text_tokens for filled in walk.work.filled),
        virtual_tokens=walk.lease.servable.manifest.num_virtual_tokens * len(walk.work.filled),
        output_tokens=num_written,
    )


async def _head_outputs(walk: Walk, outcomes: Sequence[Outcome]) -> list[JsonValue]:
    if isinstance(walk.work.parameters, AnswerParameters | TokenParameters) and len(outcomes) > _MAX_READ_ON_LOOP:
        return await asyncio.to_thread(_item_outputs, walk, outcomes)
    return _item_outputs(walk, outcomes)


def _item_outputs(walk: Walk, outcomes: Sequence[Outcome]) -> list[JsonValue]:
    left = map(_logits, outcomes)
    return [_item_output(walk, list(zip(rows, islice(left, len(rows)), strict=True))) for rows in walk.work.items]


def _item_output(walk: Walk, rows: Sequence[tuple[Filled, torch.Tensor]]) -> JsonValue:
    """Answer one input from all of its rows."""
    match walk.work.parameters:
        case AnswerParameters() as parameters:
            return answer_output(rows, walk.lease.servable.null_id, parameters)
        case TokenParameters() as parameters:
            return without_overlaps([_entities(walk, row, logits, parameters) for row, logits in rows])
        case ChoiceParameters():
            return choice_output(torch.cat([logits for _, logits in rows]), [row.fields[CHOICE] for row, _ in rows])
        case _:
            ((row, logits),) = rows
            return _row_output(walk, row, logits)


def _row_output(walk: Walk, filled: Filled, logits: torch.Tensor) -> JsonValue:
    servable, manifest = walk.lease.servable, walk.lease.servable.manifest
    match walk.work.parameters:
        case ClassificationParameters(top_k=top_k, words=words) if servable.label_columns is not None:
            return label_words_output(logits, servable.label_columns, top_k, words)
        case ClassificationParameters(top_k=top_k, threshold=threshold):
            labels = manifest.labels or invented_labels(logits.shape[-1])
            return sequence_output(logits, labels, manifest.problem_type, top_k, threshold)
        case EmbeddingParameters(normalize=normalize, dimensions=dimensions):
            is_unit = bool(manifest.normalize) if normalize is None else normalize
            return embedding_output(logits, is_unit, dimensions)
        case _:
            raise AssertionError("generation reads no logits, and kinds of several rows are read together")


def _entities(walk: Walk, filled: Filled, logits: torch.Tensor, parameters: TokenParameters) -> list[JsonValue]:
    servable = walk.lease.servable
    reader = SpanReader(servable.manifest.labels or invented_labels(logits.shape[-1]), servable.tokenizer)
    return reader.read(logits, filled, parameters.aggregation_strategy, parameters.ignore_labels)


def _logits(outcome: Outcome) -> torch.Tensor:
    assert outcome.logits is not None, "the engine reads logits for everything but generation"
    return outcome.logits


def invented_labels(count: int) -> tuple[str, ...]:
    """Return the names of labels that nobody named, as transformers invents them."""
    return tuple(f"LABEL_{index}" for index in range(count))


def _generation_output(text: Written, wants_logprobs: bool) -> JsonValue:
    output: dict[str, JsonValue] = {
        "text": text.text,
        "finish_reason": text.finish_reason.value,
        "num_tokens": len(text.tokens),
    }
    if wants_logprobs:
        output["logprobs"] = [_logprob(token) for token in text.tokens]
    return output


def _logprob(token: Token) -> JsonValue:
    top: list[JsonValue] = [{"token_id": other, "logprob": value} for other, value in token.top_logprobs.items()]
    return {"token_id": token.token_id, "logprob": token.logprob, "top": top}

"""From the logits of a context's windows to its answers, as transformers' question-answering pipeline gives them.

In a window, start and end are each a softmax over the context's tokens and the null token; a span's score is their
product. Spans are widened to whole words, and those with the same text add up, over all windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import JsonValue

from prompt_store.template import CONTEXT
from server.inference.parameters import AnswerParameters
from server.text.filled import Filled

Output = dict[str, JsonValue]
Chars = tuple[int, int]


@dataclass(slots=True)
class _Answer:
    """A text found in the context; `score` grows with every span that says the same."""

    text: str
    start: int
    end: int
    score: float

    def json(self) -> Output:
        return {"answer": self.text, "score": self.score, "start": self.start, "end": self.end}


@dataclass(frozen=True, slots=True)
class _Span:
    """Tokens of a window's context, from `first` to `last`."""

    first: int
    last: int
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """The context's tokens of one row and what the head says of them; column 0 is the start, column 1 the end."""

    chars: Sequence[Chars]  # of each token, in the request's own context
    words: Sequence[int | None]  # the number of the word that each token is a part of
    logits: torch.Tensor  # [context tokens, 2]
    chances: torch.Tensor  # [context tokens, 2], softmax over them and the null token
    null_logit: float  # start and end together
    null_score: float

    def spans(self, max_tokens: int, count: int) -> list[_Span]:
        """Return the best spans of at most `max_tokens`, best first."""
        width = min(max_tokens, len(self.chars))
        if not width:
            return []
        ends = torch.nn.functional.pad(self.chances[:, 1], (0, width - 1)).unfold(0, width, 1)  # [first, tokens on]
        scores = (self.chances[:, :1] * ends).flatten()
        best = torch.topk(scores, min(count, len(scores)))
        places = (divmod(place, width) for place in best.indices.tolist())
        found = [
            _Span(first, first + on, score) for (first, on), score in zip(places, best.values.tolist(), strict=True)
        ]
        return [span for span in found if span.last < len(self.chars)]

    def widened(self, span: _Span) -> _Span:
        """Return the span with the rest of its first and last word, as far as they stand in the window."""
        first, last, words = span.first, span.last, self.words
        while first and words[first] is not None and words[first - 1] == words[first]:
            first -= 1
        while last + 1 < len(words) and words[last] is not None and words[last + 1] == words[last]:
            last += 1
        return _Span(first, last, span.score)

    def best_logit(self, max_tokens: int) -> float:
        """Return the start and end logits of the best span together."""
        best = self.spans(max_tokens, 1)
        return max((float(self.logits[span.first, 0] + self.logits[span.last, 1]) for span in best), default=-math.inf)


def answer_output(
    rows: Sequence[tuple[Filled, torch.Tensor]],  # logits [text tokens, 2] of each window, in order
    null_id: int | None,  # the token whose first place stands for "no answer"
    parameters: AnswerParameters,
) -> Output:
    """Return the best answer; with `top_k` also the list of the best."""
    windows = [_window(filled, logits, null_id) for filled, logits in rows]
    answers = sorted(_found(rows[0][0].fields[CONTEXT], windows, parameters), key=lambda answer: -answer.score)
    if parameters.handle_impossible_answer:
        answers = _with_null(answers, windows, parameters)
    best = answers[: parameters.top_k or 1] or [_Answer("", 0, 0, 0.0)]
    output = best[0].json()
    return output if parameters.top_k is None else {**output, "answers": [answer.json() for answer in best]}


def null_place(filled: Filled, null_id: int | None) -> int | None:
    """Return where the row's "no answer" stands among its text tokens, None where it has no such token."""
    soft = frozenset(filled.soft_positions)
    text = (token for place, token in enumerate(filled.input_ids) if place not in soft)
    return next((place for place, token in enumerate(text) if token == null_id), None)


def has_context(filled: Filled) -> bool:
    """Say whether any of the row's tokens can be an answer."""
    has_tokens = any(origin is not None and origin[0] == CONTEXT for origin in filled.offsets)
    return has_tokens and not filled.fields[CONTEXT].isspace()


def _window(filled: Filled, logits: torch.Tensor, null_id: int | None) -> _Window:
    assert logits.shape == (filled.num_text_tokens, 2), f"{tuple(logits.shape)} logits"
    soft = frozenset(filled.soft_positions)
    places = [place for place in range(len(filled.input_ids)) if place not in soft]
    null = null_place(filled, null_id)
    own = [
        (i, origin[1:], filled.words[place])
        for i, place in enumerate(places)
        if (origin := filled.offsets[place]) is not None and origin[0] == CONTEXT and i != null
    ]
    mine = [i for i, _, _ in own]
    logits = logits.double()
    chances = torch.softmax(logits[mine if null is None else [*mine, null]], dim=0)
    return _Window(
        chars=[chars for _, chars, _ in own],
        words=[word for _, _, word in own],
        logits=logits[mine],
        chances=chances[: len(mine)],
        null_logit=-math.inf if null is None else float(logits[null].sum()),
        null_score=0.0 if null is None else float(chances[-1].prod()),
    )


def _found(context: str, windows: Sequence[_Window], parameters: AnswerParameters) -> list[_Answer]:
    """Return every text that a good span stands for, with the scores of all of its spans."""
    top_k = parameters.top_k or 1
    # Spans become one when they are widened to the same words, so more are looked at.
    count = 2 * top_k + 10 if parameters.align_to_words else top_k
    answers: dict[str, _Answer] = {}
    for window in windows:
        for narrow in window.spans(parameters.max_answer_length, count):
            span = window.widened(narrow) if parameters.align_to_words else narrow
            found = _trimmed(context, window.chars[span.first][0], window.chars[span.last][1])
            if found.text:
                answers.setdefault(found.text.lower(), found).score += span.score
    return list(answers.values())


def _trimmed(context: str, start: int, end: int) -> _Answer:
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return _Answer(text, start, start + len(text), 0.0)


def _with_null(answers: Sequence[_Answer], windows: Sequence[_Window], parameters: AnswerParameters) -> list[_Answer]:
    """Rank "no answer" by its chance in the window that allows it least, or decide by the logits as SQuAD 2.0 does.

    Rajpurkar et al. 2018; `null_score_diff_threshold` of transformers' `run_qa.py`.
    """
    null = _Answer("", 0, 0, min(window.null_score for window in windows))
    if parameters.null_threshold is None:
        return sorted([*answers, null], key=lambda answer: -answer.score)
    best = max(window.best_logit(parameters.max_answer_length) for window in windows)
    is_null = min(window.null_logit for window in windows) - best > parameters.null_threshold
    return [null, *answers] if is_null else list(answers)

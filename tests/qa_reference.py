"""transformers' question-answering pipeline, which version 5 no longer has, from its definition (its last is 4.57).

The spans are still chosen by transformers itself: `select_starts_ends` lives on in the document pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast
from transformers.pipelines.document_question_answering import select_starts_ends

Logits = Callable[[Sequence[int], Sequence[int]], torch.Tensor]
"""From one window's ids and token types to [tokens, 2]."""


@dataclass(frozen=True)
class Pipeline:
    """One tokenizer and one model."""

    tokenizer: PreTrainedTokenizerFast
    logits: Logits
    max_length: int = 384

    def windows(self, question: str, context: str, stride: int | None) -> Any:
        """Encode the pair as overlapping windows of the context."""
        return self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=self.max_length,
            stride=min(self.max_length // 2, 128) if stride is None else stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def answers(
        self,
        question: str,
        context: str,
        top_k: int = 1,
        *,
        max_answer_length: int = 15,
        doc_stride: int | None = None,
        align_to_words: bool = True,
        handle_impossible_answer: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the best answers, best first."""
        found: list[dict[str, Any]] = []
        null_score = 1e6
        windows = self.windows(question, context, doc_stride)
        for number, ids in enumerate(windows["input_ids"]):
            encoding = windows.encodings[number]
            logits = self.logits(ids, encoding.type_ids).numpy()
            masked = [
                owner != 1 and token != self.tokenizer.cls_token_id
                for owner, token in zip(encoding.sequence_ids, ids, strict=True)
            ]
            starts, ends, scores, null_score = select_starts_ends(
                logits[None, :, 0],
                logits[None, :, 1],
                np.array([masked]).astype(int),
                np.ones((1, len(ids)), dtype=int),
                null_score,
                top_k * 2 + 10 if align_to_words else top_k,
                handle_impossible_answer,
                max_answer_length,
            )
            for first, last, score in zip(starts, ends, scores, strict=True):
                start, end = _chars(encoding, int(first), int(last), align_to_words)
                same = (one for one in found if one["answer"].lower() == context[start:end].lower())
                if (known := next(same, None)) is not None:
                    known["score"] += float(score)
                else:
                    found.append({"answer": context[start:end], "start": start, "end": end, "score": float(score)})
        if handle_impossible_answer:
            found.append({"answer": "", "start": 0, "end": 0, "score": null_score})
        return sorted(found, key=lambda answer: -answer["score"])[:top_k]


def _chars(encoding: Any, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
    if not align_to_words or encoding.token_to_word(first) is None or encoding.token_to_word(last) is None:
        return encoding.offsets[first][0], encoding.offsets[last][1]
    start = encoding.word_to_chars(encoding.token_to_word(first), sequence_index=1)[0]
    return start, encoding.word_to_chars(encoding.token_to_word(last), sequence_index=1)[1]

"""How the logits of label words become the scores of labels, as a manifest says it. Knows no tokens and no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Label = Annotated[str, Field(min_length=1, max_length=256)]
TokenIds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1, max_length=64)]
LabelWord = Annotated[str, Field(min_length=1)] | TokenIds
"""A word as it stands in the text, leading space included, or the token ids that stand for it."""

LabelWords = dict[Label, Annotated[tuple[LabelWord, ...], Field(min_length=1)]]

_LARGEST = 1e30  # products with logits stay finite in float32


class LabelScoring(BaseModel):
    """The rule of a label-words task. What is unset is as PET has it (Schick and Schuetze 2021, section 3.1).

    `words`: `logits` is the default, a softmax over labels of the mean of their words' logits; `log-probabilities` is
    OpenPrompt's, where one softmax over all words comes first and the mean is of their logarithms.
    `tokens`: what is read of a word of several tokens, its `first` one, or the `mean` or `max` of them all, each at the
    one position that is read; unset, every word is one token.
    `weights`: the share of each word within its label (OpenPrompt's KnowledgeableVerbalizer); unset, all have the same.
    `prior`: the logits of each word's tokens where the text says nothing, by whose probabilities those of the words are
    divided (contextual calibration, Zhao et al. 2021); unset, nothing is calibrated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    words: Literal["logits", "log-probabilities"] | None = None
    tokens: Literal["first", "mean", "max"] | None = None
    weights: dict[Label, tuple[Annotated[float, Field(ge=0, le=_LARGEST)], ...]] | None = None
    prior: dict[Label, tuple[tuple[Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)], ...], ...]] | None = None

    @property
    def normalizes_words(self) -> bool:
        """Whether a softmax over all words comes before the mean."""
        return self.words == "log-probabilities"

    def over(self, other: LabelScoring | None) -> LabelScoring:
        """Return this rule, with what it leaves unset taken from `other`."""
        said = self.model_dump(exclude_none=True)
        return LabelScoring.model_validate((other.model_dump(exclude_none=True) if other else {}) | said)

    def without_words(self) -> LabelScoring:
        """Return the rule without what belongs to certain words."""
        return self.model_copy(update={"weights": None, "prior": None})

    def faults(self, label_words: Mapping[str, Sequence[object]]) -> Iterator[str]:
        """Yield what does not fit the words themselves."""
        sizes = {label: len(words) for label, words in label_words.items()}
        for name, given in (("weights", self.weights), ("prior", self.prior)):
            if given is not None and {label: len(entries) for label, entries in given.items()} != sizes:
                yield f"label_scoring.{name} needs one entry for each word of {_counted(sizes)}"
        for label, shares in (self.weights or {}).items():
            if shares and sum(shares) <= 0:
                yield f"label_scoring.weights of label {label!r} are all zero"
        if (self.prior is not None or self.weights is not None) and not self.normalizes_words:
            yield 'label_scoring.prior and .weights are for probabilities of words: say words "log-probabilities" too'


def _counted(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{label!r} ({size})" for label, size in list(sizes.items())[:20])

"""Our entities are those of transformers' own token-classification pipeline, for every strategy and tokenizer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tiny_tokenizers import bert_tokenizer, gpt2_tokenizer, llama_tokenizer, roberta_tokenizer, xlmr_tokenizer
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast, TokenClassificationPipeline

from prompt_store.template import parse_template
from server.inference.overlaps import without_overlaps
from server.inference.spans import SpanReader
from server.text.filling import Filler, FillRules
from server.text.tokens import TextTokenizer
from server.text.windows import WindowRules

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
TEXTS = (
    "The great movies of New York, it was very bad!",
    "movies moving mover  plotted 12 in the filmed newest york",
    "a",
    "Élan 😀 great  great, was it?\nNot [SEP] the",
)
STRATEGIES = ("none", "simple", "first", "average", "max")


@pytest.fixture(scope="module")
def model() -> BertForTokenClassification:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=330,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        initializer_range=0.6,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    return BertForTokenClassification(config).eval()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", [bert_tokenizer, gpt2_tokenizer, roberta_tokenizer, llama_tokenizer, xlmr_tokenizer])
def test_entities_equal_the_pipelines(model: BertForTokenClassification, make: Any, strategy: str) -> None:
    tokenizer = make()
    pipeline = TokenClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    reader = SpanReader(LABELS, TextTokenizer(tokenizer))
    filler = Filler(tokenizer, FillRules(parse_template("{text}")))
    num_entities = 0
    for text in TEXTS:
        for ignored in (["O"], [], ["O", "PER", "B-PER"]):
            expected = run_pipeline(pipeline, text, strategy, ignored)
            filled = filler.fill({"text": text})
            logits = logits_of(model, tokenizer, filled.input_ids, filled.token_type_ids)
            found = reader.read(logits, filled, strategy, ignored)
            assert without_scores(found) == without_scores(expected)
            assert [e["score"] for e in found] == pytest.approx([e["score"] for e in expected], abs=1e-6)
            num_entities += len(found)
    assert num_entities > 20


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer, xlmr_tokenizer])
def test_entities_of_long_texts_equal_the_pipelines_chunks(
    model: BertForTokenClassification, make: Any, strategy: str
) -> None:
    tokenizer = make()
    tokenizer.model_max_length = 16
    pipeline = TokenClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    reader = SpanReader(LABELS, TextTokenizer(tokenizer))
    filler = Filler(tokenizer, FillRules(parse_template("{text}"), max_length=16))
    num_entities = 0
    for text in (" ".join(TEXTS), TEXTS[2], " and ".join(TEXTS * 3)):
        for stride in (0, 5):
            expected = run_pipeline(pipeline, text, strategy, ["O"], stride)
            windows = filler.fill_windows({"text": text}, WindowRules(stride, 99))
            found = without_overlaps(
                [
                    reader.read(logits_of(model, tokenizer, row.input_ids, row.token_type_ids), row, strategy, ["O"])
                    for row in windows
                ]
            )
            assert without_scores(found) == without_scores(expected)
            assert [e["score"] for e in found] == pytest.approx([e["score"] for e in expected], abs=1e-6)
            num_entities += len(found)
    assert num_entities > 20


def run_pipeline(
    pipeline: TokenClassificationPipeline, text: str, strategy: str, ignored: list[str], stride: int | None = None
) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        # It says that byte-level tokenizers mark no words; so does our module.
        warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
        found: list[dict[str, Any]] = pipeline(
            text, aggregation_strategy=strategy, ignore_labels=ignored, **({} if stride is None else {"stride": stride})
        )
    return [{name: value for name, value in entity.items() if name != "index"} for entity in found]


def logits_of(
    model: BertForTokenClassification,
    tokenizer: PreTrainedTokenizerFast,
    ids: tuple[int, ...],
    types: tuple[int, ...] | None,
) -> torch.Tensor:
    with torch.no_grad():
        token_types = None if types is None else torch.tensor([types])
        logits: torch.Tensor = model(input_ids=torch.tensor([ids]), token_type_ids=token_types).logits
    return logits[0]


def without_scores(entities: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in entity.items() if name != "score"} for entity in entities]

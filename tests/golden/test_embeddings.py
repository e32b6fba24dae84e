"""Pooled embeddings: PEFT's FEATURE_EXTRACTION adapters with mean pooling, and the bare backbone's, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from engine_cases import load_request, made_artifact, open_engine, peft_artifact, random_ids, row_of
from parity import assert_within
from peft import PeftModel
from peft_cases import PEFT_TYPES, load_peft, save_peft, tiny_model
from tiny_tokenizers import bert_tokenizer

from prompt_store.artifact import Artifact
from prompt_store.manifest import HeadKind, Manifest, Pool, PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.errors import NeverFitsError
from server.engine.rows import RunningRow, check_fits
from server.engine.step import RowResult
from server.engine.types import LoadRequest, ReadEmbedding, RowInput, SamplingParams

ARCHS = ("gpt2", "llama-gqa", "mistral-window", "bert", "roberta", "electra")
LENGTHS = (1, 5, 13, 24)  # on both sides of Mistral's window of 8
METHODS = [method for method in PEFT_TYPES if not method.startswith("MULTITASK")]  # PEFT's own forward fails there
TOLERANCE = 1e-5  # of the vectors' scale
POOLS: tuple[Pool, ...] = ("mean", "cls", "first", "last", "pooler", "text-pooler")


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    return cache(lambda arch: open_engine(arch, tmp_path_factory.mktemp(arch)))


def run(engine: Engine, rows: Sequence[tuple[LoadRequest, RowInput]]) -> list[RowResult]:
    """Run one step over all rows."""
    return engine._stepper.run([running_row(engine, *row) for row in rows])


def running_row(engine: Engine, request: LoadRequest, row: RowInput) -> RunningRow:
    bringing = Bringing(engine._backbone)
    resident = bringing.bring(request, bringing.part_keys(request), {}).resident
    return RunningRow(resident, row, SamplingParams(), engine.spec.vocab_size)


@torch.inference_mode()
def peft_mean(model: PeftModel, ids: list[int]) -> torch.Tensor:
    """Return the mean of PEFT's last hidden states over the text alone."""
    tokens = torch.tensor([ids])
    hidden = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    mean: torch.Tensor = hidden[0, -len(ids) :].mean(0)
    return mean


@pytest.mark.parametrize("arch", ARCHS)
def test_mean_is_that_of_pefts_hidden_states(engine_of: Callable[[str], Engine], arch: str, tmp_path: Path) -> None:
    """Every method's rows alone, and all of them with rows of a bare task in one step."""
    engine, rows, wanted = engine_of(arch), [], []
    for seed, method in enumerate(METHODS):
        directory = save_peft(arch, method, "FEATURE_EXTRACTION", tmp_path / method, n=3 + seed)
        artifact, model = peft_artifact(directory, engine.spec, PublisherManifest()), load_peft(arch, directory)
        assert (artifact.manifest.kind, artifact.manifest.pool) == (HeadKind.EMBEDDING, "mean")
        request = load_request(method, artifact)
        for length in LENGTHS:
            ids = random_ids(length, seed=length)
            rows.append((request, row_of(request, ids)))
            wanted.append(peft_mean(model, ids))
    bare = (bare_request(engine, "last"), RowInput(tuple(random_ids(9, 9))))
    for row, mixed, theirs in zip(rows, run(engine, [*rows, bare]), wanted, strict=False):
        assert_within(mixed, theirs, TOLERANCE, f"mean embeddings of PEFT on {arch}, mixed")
        assert_within(run(engine, [row])[0], theirs, TOLERANCE, f"mean embeddings of PEFT on {arch}, alone")


def bare_request(engine: Engine, pool: Pool) -> LoadRequest:
    return load_request(f"bare-{pool}", with_pool(engine, pool, num_soft=0))


def with_pool(engine: Engine, pool: Pool, num_soft: int) -> Artifact:
    artifact = made_artifact(engine.spec, HeadKind.GENERATION, num_soft)
    fields = artifact.manifest.to_dict() | {"kind": HeadKind.EMBEDDING, "pool": pool}
    return Artifact(Manifest.model_validate(fields), artifact.tensors)


def places_of(pool: Pool, soft: set[int], count: int) -> list[int]:
    text = [place for place in range(count) if place not in soft]
    return {"mean": text, "cls": text[:1], "text-pooler": text[:1], "last": [count - 1]}.get(pool, [0])


@pytest.mark.parametrize(
    ("arch", "pool"),
    [
        *(("gpt2", pool) for pool in POOLS if "pooler" not in pool),
        *(("bert", pool) for pool in POOLS),
    ],
)
def test_pools_read_their_place_with_virtual_tokens_around_the_text(
    engine_of: Callable[[str], Engine], arch: str, pool: Pool
) -> None:
    engine = engine_of(arch)
    request = load_request("around", with_pool(engine, pool, num_soft=4))
    compiled = LoadRequest(request.task, request.version, request.artifact, request.reading, (None, None, 7))
    ids, soft = [0, 0, 7, *random_ids(6, 1), 0, 0], (0, 1, 9, 10)
    row = RowInput(tuple(ids), soft)
    model, _ = tiny_model(arch, "BACKBONE")
    model.load_state_dict(tiny_model(arch, "FEATURE_EXTRACTION")[0].state_dict(), strict=False)
    model.pooler = engine._backbone.pooler
    with torch.inference_mode():
        embeds = model.get_input_embeddings()(torch.tensor([ids]))
        assert request.artifact.embeds is not None
        embeds[0, list(soft)] = request.artifact.embeds
        hidden = model(inputs_embeds=embeds).last_hidden_state[0, places_of(pool, set(soft), len(ids))]
        wanted = (model.pooler(hidden[:, None]) if "pooler" in pool else hidden).mean(0)
    assert_within(run(engine, [(compiled, row)])[0], wanted, TOLERANCE, f"pools on {arch}")


def test_mean_is_sentence_transformers_over_a_padded_batch(engine_of: Callable[[str], Engine]) -> None:
    """Mean pooling as all-MiniLM's own model card writes it: masked sum over clamped count, on padded texts."""
    engine, tokenizer = engine_of("bert"), bert_tokenizer()
    texts = ["a good film", "it was not a very good movie, and the plot was bad", "great", ""]
    model, _ = tiny_model("bert", "FEATURE_EXTRACTION")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch)[0]
    mask = batch["attention_mask"].unsqueeze(-1).expand(hidden.size()).float()
    wanted = torch.sum(hidden * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
    request = bare_request(engine, "mean")
    rows = [(request, RowInput(tuple(tokenizer(text)["input_ids"]))) for text in texts]
    for row, mixed, theirs in zip(rows, run(engine, rows), wanted, strict=True):
        assert_within(mixed, theirs, TOLERANCE, "mean pooling of sentence-transformers, mixed")
        assert_within(run(engine, [row])[0], theirs, TOLERANCE, "mean pooling of sentence-transformers, alone")


@pytest.mark.parametrize("pool", ["mean", "cls", "text-pooler"])
def test_row_without_text_has_nothing_to_pool(engine_of: Callable[[str], Engine], pool: Pool) -> None:
    engine = engine_of("bert")
    request = load_request("empty", with_pool(engine, pool, num_soft=4))
    assert request.reading == ReadEmbedding(pool)
    with pytest.raises(NeverFitsError, match="the row is empty"):
        check_fits(running_row(engine, request, row_of(request, [])), engine.spec.max_positions)
    check_fits(running_row(engine, request, row_of(request, [7])), engine.spec.max_positions)

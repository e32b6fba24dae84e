"""A new version is tried once: its answer must be finite, and every place of its soft prompt must move it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_cases import load_request, made_artifact, open_engine, random_ids, row_of
from stack_cases import begins, decoder_row, prompted, three_prefixes

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import PromptPlace
from prompt_store.errors import TrialError
from prompt_store.manifest import HeadKind
from server.engine.backbone.backbone import Backbone
from server.engine.bringing import Bringing, Brought
from server.engine.engine import Engine
from server.engine.residency import PartKey, Sized
from server.engine.step import Stepper
from server.engine.trial import Trial
from server.engine.types import LoadRequest


class Deaf(Bringing):
    """A backbone that takes what stands at a place without a word, and ignores it."""

    def __init__(self, backbone: Backbone, place: PromptPlace) -> None:
        super().__init__(backbone)
        self._place = place

    def bring(self, request: LoadRequest, keys: dict[str, PartKey], known: dict[PartKey, Sized]) -> Brought:
        names = request.artifact.names_at(self._place)
        heard = {name: tensor for name, tensor in request.artifact.tensors.items() if name not in names}
        return super().bring(replace(request, artifact=replace(request.artifact, tensors=heard)), keys, known)


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=["t5", "bart"])
def two_stacks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine(request.param, tmp_path_factory.mktemp(request.param))


def attempt(engine: Engine, artifact: Artifact, ignored: PromptPlace | None = None) -> int:
    """Return how often serving could go on in between."""
    request = load_request("tried", artifact)
    bringing = Bringing(engine._backbone) if ignored is None else Deaf(engine._backbone, ignored)
    trial = Trial(bringing, Stepper(engine._backbone), engine.spec)
    row = row_of(request, random_ids(6, 0))
    if engine.spec.is_encoder_decoder:
        row = decoder_row(request, random_ids(6, 0), begins(engine.spec))
    request = replace(request, leading=())  # compiled, virtual tokens would be keys and values themselves
    return sum(1 for _ in trial.passes(request, bringing.part_keys(request), row))


def made(engine: Engine, num_soft: int = 0, num_prefix: int = 0) -> Artifact:
    reads = "last" if engine.spec.is_causal else "first"
    found = made_artifact(engine.spec, HeadKind.SEQUENCE_CLASSIFICATION, num_soft, num_prefix, reads)
    head = torch.randn(found.tensors["head.score.weight"].shape, generator=torch.Generator().manual_seed(1))
    return replace(found, tensors={**found.tensors, "head.score.weight": head})


@pytest.mark.parametrize("counts", [(4, 0), (0, 4), (3, 4), (0, 0)])
def test_a_prompt_that_is_seen_passes(engine: Engine, counts: tuple[int, int]) -> None:
    attempt(engine, made(engine, *counts))


def test_a_prompt_that_is_clearly_seen_takes_one_pass(engine: Engine) -> None:
    found = made(engine, num_prefix=4)
    assert attempt(engine, found) == 0
    # Where the answers are close, each pass once more, alone.
    head = {**found.tensors, "head.score.bias": torch.tensor([1e3, 0.0])}
    assert attempt(engine, replace(found, tensors=head)) == 2


def test_a_place_that_is_ignored_is_named(engine: Engine) -> None:
    with pytest.raises(TrialError, match=r"this soft prompt's kv gave the same answer: the backbone ignores it"):
        attempt(engine, made(engine, num_prefix=4), "kv")


def test_a_place_that_matters_hides_no_other(engine: Engine) -> None:
    """All of a prompt at once would have moved the answer by its virtual tokens alone."""
    with pytest.raises(TrialError, match="this soft prompt's kv gave"):
        attempt(engine, made(engine, num_soft=3, num_prefix=4), "kv")


@pytest.mark.parametrize("place", ["kv", "decoder_kv", "cross_kv", "decoder_embeds"])
def test_every_place_of_two_stacks_is_tried(two_stacks: Engine, place: PromptPlace) -> None:
    rows = torch.randn(3, two_stacks.spec.embedding_size, generator=torch.Generator().manual_seed(2))
    artifact = prompted(two_stacks.spec, {**three_prefixes(two_stacks.spec), "decoder_embeds": rows})
    attempt(two_stacks, artifact)
    with pytest.raises(TrialError, match=f"this soft prompt's {place} gave"):
        attempt(two_stacks, artifact, place)


def test_a_prompt_without_any_effect_passes_where_another_would_have_one(engine: Engine) -> None:
    """Zero values move nothing but weights; random ones do, so the backbone was listening."""
    found = made(engine, num_prefix=4)
    quiet = {name: torch.zeros_like(t) if name.startswith("kv.") else t for name, t in found.tensors.items()}
    attempt(engine, replace(found, tensors=quiet))


def test_a_head_that_hears_nothing_is_refused(engine: Engine) -> None:
    found = made(engine, num_prefix=4)
    deaf = {**found.tensors, "head.score.weight": torch.zeros_like(found.tensors["head.score.weight"])}
    with pytest.raises(TrialError, match="this soft prompt's kv gave the same answer"):
        attempt(engine, replace(found, tensors=deaf))


@pytest.mark.parametrize("counts", [(4, 0), (0, 4)])
def test_vectors_that_overflow_are_refused(engine: Engine, counts: tuple[int, int]) -> None:
    found = made(engine, *counts)
    huge = {name: t if name.startswith("head.") else t * float("inf") for name, t in found.tensors.items()}
    with pytest.raises(TrialError, match="not finite"):
        attempt(engine, replace(found, tensors=huge))

"""P-Tuning's originals answer as their training-time modules run live on the same row, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from engine_cases import EVERY_COLUMN, again, answer, load_request, open_engine, random_ids, row_of, running
from parity import assert_within
from peft_cases import tiny_model
from ptuning_cases import FewShotEncoder, LamaEncoder, PrefixModel, PromptModel, TaskModel, saved
from tiny_archs import PAD_ID
from torch import nn

from prompt_store.artifact import Artifact
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import HEADED, READS_TOKENS, Fingerprint, HeadKind, PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import LoadRequest, RowInput, SamplingParams

TOLERANCE = 1e-5  # of the logits' scale
SEQUENCE, CHOICE = HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.MULTIPLE_CHOICE
LENGTHS = (1, 2, 7, 20)
POOLED, DENSE = ("bert", "roberta", "xlm-roberta"), ("roberta", "xlm-roberta", "electra")  # by the heads they have

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    opened = cache(lambda arch: open_engine(arch, tmp_path_factory.mktemp(arch)))
    return lambda arch: again(opened(arch))


def models(arch: str) -> Iterator[TaskModel]:
    """Yield a model of every class: each kind of head, the prefix bare and behind a projection, the "Prompt" classes.

    One-layer heads over a pooler are THUDM's; two-layer ones over the first position are transformers' own.
    """
    for is_projected in (False, True):
        for kind in sorted(HEADED):
            if arch in POOLED or kind in READS_TOKENS:
                yield PrefixModel(arch, kind, is_projected)
        if arch in DENSE:
            yield PrefixModel(arch, SEQUENCE, is_projected, is_dense=True)
    if arch in ("bert", "roberta"):
        yield from (PromptModel(arch, SEQUENCE), PromptModel(arch, CHOICE))


def request_of(name: str, checkpoint: Checkpoint, engine: Engine) -> LoadRequest:
    artifact = convert(checkpoint, PublisherManifest(), engine.spec).artifact
    return load_request(name, Artifact.from_bytes(artifact.to_bytes()))


def text(length: int, arch: str) -> tuple[list[int], list[int]]:
    """Return ids, with a pad among them, and types of both kinds."""
    ids = random_ids(length, seed=length)
    if length > 2:
        ids[2] = PAD_ID
    return ids, [0 if "roberta" in arch else place % 2 for place in range(length)]


def row_input(request: LoadRequest, ids: list[int], types: list[int]) -> RowInput:
    row = row_of(request, ids)
    return replace(row, token_type_ids=(0,) * len(row.soft_positions) + tuple(types))


def assert_close(ours: object, theirs: torch.Tensor, what: str) -> None:
    assert_within(ours, theirs, TOLERANCE, f"P-Tuning's modules live, {what}")


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "stripped"])
@pytest.mark.parametrize("arch", ["bert", "roberta", "xlm-roberta", "electra"])
async def test_ptuning_v2_alone_and_mixed(engine_of: Callable[[str], Engine], arch: str, is_whole: bool) -> None:
    engine = engine_of(arch)
    bringing = Bringing(engine._backbone)
    rows, live = [], []
    for index, model in enumerate(models(arch)):
        request = request_of(f"task-{index}", model.checkpoint(is_whole), engine)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        for length in LENGTHS:
            ids, types = text(length, arch)
            row = row_input(request, ids, types)
            rows.append(RunningRow(resident, row, SamplingParams(), engine.spec.vocab_size))
            live.append(model(ids, types))
    for row, result, theirs in zip(rows, engine._stepper.run(rows), live, strict=True):
        assert_close(result, theirs, f"v2 on {arch}, mixed")
        assert_close(engine._stepper.run([row])[0], theirs, f"v2 on {arch}, alone")


@pytest.mark.parametrize("outer", ["", "embedding."])
@pytest.mark.parametrize("counts", [(3, 3, 3), (2, 4, 0)])
async def test_lama_is_baked_once_and_answers_as_live(
    engine_of: Callable[[str], Engine], counts: tuple[int, int, int], outer: str
) -> None:
    """`[CLS] P*a [MASK] P*b subject P*c [SEP]`, read at the mask, against the encoder run in the request."""
    encoder = LamaEncoder(sum(counts), 32)
    async with running(engine_of("bert")) as engine:
        artifact = words(Checkpoint(saved(encoder, outer), {"template": str(counts)}), engine)
        request = replace(load_request("lama", artifact, EVERY_COLUMN), leading=())
        a, b, c = counts
        for length in LENGTHS:
            shape: list[int | None] = [8, *[None] * a, 9, *[None] * b, *random_ids(length, length), *[None] * c, 10]
            places = tuple(place for place, token in enumerate(shape) if token is None)
            row = RowInput(tuple(token or 0 for token in shape), places, read_position=a + 1)
            found = (await answer(engine, request, row)).logits
            assert_close(found, live_logits("bert", "MASKED_LM", engine, encoder, row)[a + 1], "v1 on bert")


async def test_lama_on_a_causal_backbone_reads_the_last_token(engine_of: Callable[[str], Engine]) -> None:
    encoder = LamaEncoder(5, 32)
    async with running(engine_of("gpt2")) as engine:
        artifact = words(Checkpoint(saved(encoder), {"template": [2, 3, 4]}), engine)
        assert artifact.manifest.template == "<soft:2> {subject}<soft:3>"
        request = replace(load_request("lama", artifact, EVERY_COLUMN), leading=(None, None))
        row = RowInput((0, 0, *random_ids(4, 1), 0, 0, 0), (0, 1, 6, 7, 8))
        found = (await answer(engine, request, row)).logits
        assert_close(found, live_logits("gpt2", "CAUSAL_LM", engine, encoder, row)[-1], "v1 on gpt2")


@pytest.mark.parametrize(("rows", "is_lstm"), [(3, True), (1, True), (1, False)])
async def test_few_shot_is_baked_and_answers_as_live_on_its_own_backbone(
    engine_of: Callable[[str], Engine], rows: int, is_lstm: bool
) -> None:
    engine = engine_of("bert")
    encoder, spec = FewShotEncoder(rows, 32, is_lstm), engine.spec
    publisher = PublisherManifest(
        template=f"<cls>{{text}}<soft:{rows}><mask><sep>",
        label_words={"x": ("x",)},
        fingerprint=Fingerprint(arch=spec.arch_fingerprint, weights=spec.weights_fingerprint),
    )
    manifest = convert(Checkpoint(saved(encoder)), publisher, spec)
    assert manifest.artifact.embeds is not None
    torch.testing.assert_close(manifest.artifact.embeds, encoder().detach(), atol=TOLERANCE, rtol=0.0)
    assert manifest.artifact.manifest.tokenize == "pieces"
    async with running(engine) as live:
        request = replace(load_request("few-shot", manifest.artifact, EVERY_COLUMN), leading=())
        for length in LENGTHS:
            shape: list[int | None] = [8, *random_ids(length, length), *[None] * rows, 9, 10]
            places = tuple(place for place, token in enumerate(shape) if token is None)
            row = RowInput(tuple(token or 0 for token in shape), places, read_position=len(shape) - 2)
            theirs = live_logits("bert", "MASKED_LM", engine, encoder, row)[len(shape) - 2]
            assert_close((await answer(live, request, row)).logits, theirs, "v1 few-shot on bert")


def words(checkpoint: Checkpoint, engine: Engine) -> Artifact:
    return convert(checkpoint, PublisherManifest(label_words={"x": ("x",)}), engine.spec).artifact


@torch.inference_mode()
def live_logits(arch: str, task: str, engine: Engine, encoder: nn.Module, row: RowInput) -> torch.Tensor:
    """Return [tokens, vocab] of the plain model, the encoder's rows written over the pseudo tokens one by one."""
    model = engine._backbone.parts.model
    plain, _ = tiny_model(arch, task)
    plain.load_state_dict(model.state_dict())
    embeds = plain.get_input_embeddings()(torch.tensor([row.input_ids]))
    for place, vector in zip(row.soft_positions, encoder(), strict=True):
        embeds[0, place] = vector
    logits: torch.Tensor = plain(inputs_embeds=embeds).logits[0]
    return logits

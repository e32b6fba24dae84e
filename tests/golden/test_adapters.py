"""DeBERTa keeps its attention to itself: through our adapter it answers as PEFT and P-Tuning v2's modules do live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from deberta_cases import DebertaPrefixModel
from engine_cases import (
    SETTINGS,
    Counted,
    backbone_directory,
    load_request,
    open_engine,
    peft_artifact,
    random_ids,
    row_of,
)
from parity import assert_within
from peft import PeftModel
from peft_cases import load_peft, save_peft, tiny_model

from prompt_store.artifact import Artifact
from prompt_store.errors import CheckpointError, UnfitError
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import HEADED, HeadKind, HeadModule, PublisherManifest
from prompt_store.validate import validate
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import LoadRequest, RowInput, SamplingParams

ARCHS = ("deberta", "deberta-positions", "deberta-v2", "deberta-v3")
LENGTHS = (1, 5, 13, 24)  # on both sides of the distances that have a place of their own
TASK_ID = 1  # of the multitask prompts
TOLERANCE = 1e-4  # of the logits' scale
CASES = [
    (task_type, peft_type)
    for task_type in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
    for peft_type in ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")
    if not (task_type == "QUESTION_ANS" and peft_type.startswith("MULTITASK"))  # PEFT hands its task to nobody
]
POOLER = {"modules_to_save": ["pooler"]}  # which PEFT saves only when it is told to

# DeBERTa's module in older transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    return cache(lambda arch: open_engine(arch, tmp_path_factory.mktemp(arch)))


def publisher(peft_type: str) -> PublisherManifest:
    return PublisherManifest(prompt_task_id=TASK_ID if peft_type.startswith("MULTITASK") else None)


def running_rows(engine: Engine, request: LoadRequest, rows: Sequence[RowInput]) -> list[RunningRow]:
    bringing = Bringing(engine._backbone)
    resident = bringing.bring(request, bringing.part_keys(request), {}).resident
    return [RunningRow(resident, row, SamplingParams(), engine.spec.vocab_size) for row in rows]


def assert_same(engine: Engine, rows: Sequence[RunningRow], wanted: Sequence[torch.Tensor], what: str) -> None:
    """Assert that every row gets its answer alone, and in one step with all the others."""
    for row, result, theirs in zip(rows, engine._stepper.run(rows), wanted, strict=True):
        assert_within(result, theirs, TOLERANCE, f"{what}, mixed")
        assert_within(engine._stepper.run([row])[0], theirs, TOLERANCE, f"{what}, alone")


@torch.inference_mode()
def peft_logits(model: PeftModel, peft_type: str, ids: list[int]) -> torch.Tensor:
    """Return PEFT's logits: [labels], [tokens, labels] or [tokens, 2] of the text alone."""
    extra = {"task_ids": torch.tensor([TASK_ID])} if peft_type.startswith("MULTITASK") else {}
    tokens = torch.tensor([ids])
    output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **extra)
    if "start_logits" in output:
        return torch.stack([output.start_logits[0], output.end_logits[0]], dim=1)[-len(ids) :]
    return output.logits[0] if output.logits.dim() == 2 else output.logits[0, -len(ids) :]


@pytest.mark.parametrize("arch", [*ARCHS, "mpnet"])
def test_peft_alone_and_mixed(engine_of: Callable[[str], Engine], arch: str, tmp_path: Path) -> None:
    engine = engine_of(arch)
    rows: list[RunningRow] = []
    wanted: list[torch.Tensor] = []
    for task_type, peft_type in CASES:
        name = f"{task_type}-{peft_type}"
        options = POOLER if (arch, task_type) != ("mpnet", "SEQ_CLS") and task_type == "SEQ_CLS" else {}
        directory = save_peft(arch, peft_type, task_type, tmp_path / name, n=3, **options)
        artifact = peft_artifact(directory, engine.spec, publisher(peft_type))
        request, model = load_request(name, Artifact.from_bytes(artifact.to_bytes())), load_peft(arch, directory)
        texts = [random_ids(length, seed) for seed, length in enumerate(LENGTHS)]
        rows += running_rows(engine, request, [row_of(request, text) for text in texts])
        wanted += [peft_logits(model, peft_type, text) for text in texts]
    assert_same(engine, rows, wanted, f"PEFT on {arch}")


@pytest.mark.parametrize("arch", ARCHS)
def test_ptuning_v2_alone_and_mixed(engine_of: Callable[[str], Engine], arch: str) -> None:
    engine = engine_of(arch)
    has_types = engine.spec.num_token_types > 0
    rows: list[RunningRow] = []
    wanted: list[torch.Tensor] = []
    for is_projected in (False, True):
        for kind in sorted(HEADED):
            model = DebertaPrefixModel(arch, kind, is_projected)
            artifact = convert(model.checkpoint(), PublisherManifest(), engine.spec).artifact
            request = load_request(kind, Artifact.from_bytes(artifact.to_bytes()))
            for length in LENGTHS:
                ids, types = random_ids(length, length), [has_types * (place % 2) for place in range(length)]
                row = replace(row_of(request, ids), token_type_ids=tuple(types))
                rows += running_rows(engine, request, [row])
                wanted.append(model(ids, types))
    assert_same(engine, rows, wanted, f"P-Tuning v2 live on {arch}")


@pytest.mark.parametrize("arch", ["deberta", "deberta-v2"])
def test_bfloat16_is_served_too(engine_of: Callable[[str], Engine], arch: str, tmp_path: Path) -> None:
    """v1 has two parameters that stay float32, v2's convolution a mask."""
    directory = backbone_directory(arch, tmp_path / "backbone")
    engine = Engine.open(str(directory), replace(SETTINGS, dtype="bfloat16"), Counted())
    assert engine.spec.refusals == {}
    checkpoint = DebertaPrefixModel(arch, HeadKind.TOKEN_CLASSIFICATION).checkpoint(is_whole=False)
    request = load_request("task", convert(checkpoint, PublisherManifest(), engine.spec).artifact)
    inputs = [row_of(request, random_ids(length, length)) for length in LENGTHS]
    exact = engine_of(arch)
    wanted = exact._stepper.run(running_rows(exact, request, inputs))
    for found, theirs in zip(engine._stepper.run(running_rows(engine, request, inputs)), wanted, strict=True):
        assert isinstance(theirs, torch.Tensor)
        assert_within(found, theirs, 0.1, f"{arch} in bfloat16")


@pytest.mark.parametrize("kind", [HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.MULTIPLE_CHOICE])
def test_a_pooler_that_nobody_saved_is_asked_for(engine_of: Callable[[str], Engine], kind: HeadKind) -> None:
    spec = engine_of("deberta").spec
    assert not spec.has_pooler
    assert spec.pooler_activation == "gelu"
    checkpoint = DebertaPrefixModel("deberta", kind).checkpoint(is_whole=False)
    artifact = convert(checkpoint, PublisherManifest(), spec).artifact
    assert artifact.manifest.head == HeadModule(path="classifier", reads="pooler", pooler_activation="gelu")
    validate(artifact, spec)
    rest = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("pooler.")}
    with pytest.raises(CheckpointError, match=r"reads the pooler, which is neither in backbone .* nor in the file"):
        convert(Checkpoint(rest, checkpoint.config), PublisherManifest(), spec)


def test_another_activation_of_the_pooler_is_refused(engine_of: Callable[[str], Engine]) -> None:
    """In the model's config, in the backbone's, and in an artifact that somebody wrote."""
    spec = engine_of("deberta").spec
    checkpoint = DebertaPrefixModel("deberta", HeadKind.SEQUENCE_CLASSIFICATION).checkpoint(is_whole=False)
    assert checkpoint.config is not None
    said = Checkpoint(checkpoint.tensors, {**checkpoint.config, "pooler_hidden_act": "tanh"})
    with pytest.raises(CheckpointError, match=r"pooler_hidden_act is 'tanh'; that of backbone .* is gelu"):
        convert(said, PublisherManifest(), spec)
    with pytest.raises(CheckpointError, match="is followed by 'mish'; known are tanh, gelu"):
        convert(checkpoint, PublisherManifest(), replace(spec, pooler_activation="mish"))
    artifact = convert(checkpoint, PublisherManifest(), spec).artifact
    head = HeadModule(path="classifier", reads="pooler")
    forgotten = replace(artifact, manifest=artifact.manifest.model_copy(update={"head": head}))
    with pytest.raises(UnfitError, match=r"pooler is followed by tanh; that of backbone .* by gelu"):
        validate(forgotten, spec)


def test_the_pooler_of_a_classifiers_files_serves(tmp_path: Path) -> None:
    """A prompt was trained on a classifier that was there before, whose pooler stands in the backbone's own files."""
    directory = backbone_directory("deberta-v3", tmp_path / "backbone")
    classifier, _ = tiny_model("deberta-v3", "SEQ_CLS")
    classifier.save_pretrained(directory)
    engine = Engine.open(str(directory), SETTINGS, Counted())
    assert engine.spec.has_pooler
    adapter = save_peft("deberta-v3", "PROMPT_TUNING", "SEQ_CLS", tmp_path / "adapter", n=3)
    artifact = peft_artifact(adapter, engine.spec, PublisherManifest())
    assert not artifact.part("pooler")
    request, ids = load_request("task", artifact), random_ids(9, 1)
    rows = running_rows(engine, request, [row_of(request, ids)])
    assert_same(engine, rows, [peft_logits(load_peft("deberta-v3", adapter), "", ids)], "PEFT on DeBERTa's own pooler")

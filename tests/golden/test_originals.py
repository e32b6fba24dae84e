"""Tiny models that the original P-Tuning code ran, its inputs and its outputs: the same through the engine.

Each folder is its own backbone, no two the same. So a mixed step has a folder's rows between those of every other
folder's prompt and head, which fit its shapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from engine_cases import SETTINGS, Counted, load_request, row_of
from parity import assert_near
from safetensors.torch import load_file, save_file
from tiny_tokenizers import bert_tokenizer

from prompt_store.artifact import Artifact
from prompt_store.errors import CheckpointError
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import PublisherManifest
from prompt_store.validate import validate
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import LoadRequest, RowInput, SamplingParams

ORIGINALS = Path(__file__).parents[2].parent / "shared" / "golden" / "originals"
FOLDERS = tuple(
    f"{arch}-{name}"
    for arch, names in {
        "bert": (
            "sequence_classification",
            "sequence_classification_projection",
            "token_classification",
            "question_answering",
            "multiple_choice",
            "prompt_sequence_classification",
            "prompt_multiple_choice",
        ),
        "roberta": (
            "sequence_classification",
            "token_classification",
            "question_answering",
            "multiple_choice",
            "prompt_sequence_classification",
        ),
        "deberta": ("sequence_classification", "token_classification", "question_answering"),
        "deberta-v2": ("token_classification",),
    }.items()
    for name in names
)
LAMA = "p-tuning-v1-lama"  # a prompt encoder and the rows it gave; no backbone
TOLERANCE = 1e-5

pytestmark = [
    pytest.mark.skipif(
        not ORIGINALS.is_dir(), reason=f"the original models are not beside the checkout, at {ORIGINALS}"
    ),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # DeBERTa's module in older transformers
]


@dataclass(frozen=True)
class Original:
    """One folder: what its training left, what went in, what came out."""

    name: str
    checkpoint: Checkpoint
    expected: torch.Tensor
    rows: tuple[RowInput, ...]  # unpadded

    @classmethod
    def read(cls, name: str) -> Original:
        folder = ORIGINALS / name
        run = load_file(folder / "expected.safetensors")
        ids, mask = run["input_ids"], run["attention_mask"]
        types = run.get("token_type_ids", torch.zeros_like(ids))
        rows = [
            RowInput(tuple(row[:length].tolist()), token_type_ids=tuple(kinds[:length].tolist()))
            for row, kinds, length in zip(
                ids.flatten(0, -2), types.flatten(0, -2), mask.flatten(0, -2).sum(1).int().tolist(), strict=True
            )
        ]
        config = json.loads((folder / "config.json").read_text())
        return cls(name, Checkpoint(load_file(folder / "model.safetensors"), config), run["logits"], tuple(rows))

    def save_backbone(self, directory: Path) -> Path:
        """Save the backbone alone, as its publisher would."""
        arch = self.name.partition("-")[0]
        config = {**self.checkpoint.config, "architectures": [f"{arch.capitalize()}Model"]}
        tensors = {
            name.removeprefix(f"{arch}."): tensor
            for name, tensor in self.checkpoint.tensors.items()
            if name.startswith(f"{arch}.") and not name.endswith("position_ids")
        }
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        bert_tokenizer().save_pretrained(directory)
        return directory

    def request(self, engine: Engine) -> LoadRequest:
        publisher = PublisherManifest(backbone_trained=False)  # a neighbour's own backbone is another
        artifact = convert(self.checkpoint, publisher, engine.spec).artifact
        return load_request(self.name, Artifact.from_bytes(artifact.to_bytes()))

    def assert_same(self, found: Sequence[object], how: str) -> None:
        """Assert that every row has what the original code gave; pads have no answer."""
        mine = [logits.reshape(-1, logits.shape[-1]) for logits in found if isinstance(logits, torch.Tensor)]
        assert len(mine) == len(self.rows)
        expected = self.expected.reshape(len(mine), -1, mine[0].shape[-1])
        for ours, theirs in zip(mine, expected, strict=True):
            assert_near(ours, theirs[: len(ours)], TOLERANCE, f"originals, {self.name}, {how}")


def kin_of(name: str) -> list[str]:
    """Return the other folders of the same architecture: their prompts fit the backbone, their weights differ."""
    arch = name.rpartition("-")[0]
    return [other for other in FOLDERS if other != name and other.rpartition("-")[0] == arch]


def with_prompt(request: LoadRequest, row: RowInput) -> RowInput:
    """Put the prompt's rows, if it has any, in front of the text."""
    front = row_of(request, row.input_ids)
    return replace(front, token_type_ids=(0,) * len(front.soft_positions) + (row.token_type_ids or ()))


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    @cache
    def opened(name: str) -> Engine:
        directory = Original.read(name).save_backbone(tmp_path_factory.mktemp(name) / "backbone")
        return Engine.open(str(directory), SETTINGS, Counted())

    return opened


@pytest.mark.parametrize("name", FOLDERS)
def test_alone_and_in_a_mixed_step(engine_of: Callable[[str], Engine], name: str) -> None:
    engine, original = engine_of(name), Original.read(name)
    bringing = Bringing(engine._backbone)

    def rows(one: Original) -> list[RunningRow]:
        request = one.request(engine)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        inputs = [with_prompt(request, row) for row in one.rows]
        return [RunningRow(resident, row, SamplingParams(), engine.spec.vocab_size) for row in inputs]

    mine = rows(original)
    alone = [engine._stepper.run([row])[0] for row in mine]
    others = kin_of(name) or [name]
    neighbours = [row for other in others for row in rows(Original.read(other))]
    before, after = neighbours[::2], neighbours[1::2]
    mixed = engine._stepper.run([*before, *mine, *after])[len(before) :][: len(mine)]
    original.assert_same(alone, "alone")
    original.assert_same(mixed, "mixed")


def test_every_folder_is_covered() -> None:
    assert {folder.name for folder in ORIGINALS.iterdir()} == {*FOLDERS, LAMA}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_read_here_is_valid(engine_of: Callable[[str], Engine], name: str) -> None:
    spec = engine_of(name).spec
    found = convert(Original.read(name).checkpoint, PublisherManifest(), spec)
    assert any("ignored: its" in check and "are those of backbone" in check for check in found.checks)
    validate(found.artifact, spec)


@pytest.mark.parametrize("name", [name for name in FOLDERS if kin_of(name)])
def test_another_folders_backbone_is_refused(engine_of: Callable[[str], Engine], name: str) -> None:
    """The file's backbone is left out, so it must be the served one, down to the last weight."""
    other = kin_of(name)[0]
    with pytest.raises(
        CheckpointError, match=r"is not the one served: embeddings, (encoder, )?encoder\.layer\.0, .* differ"
    ):
        convert(Original.read(name).checkpoint, PublisherManifest(), engine_of(other).spec)


def test_lama_encoder_gives_the_original_prompt(engine_of: Callable[[str], Engine]) -> None:
    folder = ORIGINALS / LAMA
    config = json.loads((folder / "meta.json").read_text())
    artifact = convert(
        Checkpoint(load_file(folder / "embedding.safetensors"), config),
        PublisherManifest(label_words={"x": ("x",)}),
        engine_of("bert-sequence_classification").spec,
    ).artifact
    expected = load_file(folder / "expected.safetensors")["prompt"]
    assert artifact.embeds is not None
    assert_near(artifact.embeds, expected, TOLERANCE, f"originals, {LAMA}, its prompt")
    assert artifact.manifest.template == "<cls><soft:3><mask><soft:3> {subject}<soft:3><sep>"

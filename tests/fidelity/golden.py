"""Golden folders: what an original training code saved, what it was given, and what it answered, of any sizes.

A folder holds `config.json` and `expected.safetensors`, and either a whole model in `model.safetensors` (expected:
`input_ids`, `attention_mask`, `token_type_ids` where there are any, `logits`), or the prompt encoder of P-Tuning v1
in `embedding.safetensors` (expected: `prompt`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from engine_cases import SETTINGS, Counted, load_request, row_of
from peft_cases import spec_of
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_tokenizers import bert_tokenizer

from fidelity.case import Refused, Served, max_error
from prompt_store.artifact import Artifact
from prompt_store.errors import SoftmuxError
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import PublisherManifest
from prompt_store.validate import validate
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import LoadRequest, RowInput, SamplingParams

WHOLE, ENCODER = "model.safetensors", "embedding.safetensors"
# What a folder that is not laid out so ends in; a refusal by name is a SoftmuxError.
BROKEN = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


class NotGoldenError(SoftmuxError):
    """A folder that is not laid out as golden ones are."""


def measured_folders(directory: Path, room: Path) -> dict[str, Served | Refused]:
    """Measure each golden folder; the errors are absolute."""
    folders = sorted(path.parent for path in directory.glob("*/expected.safetensors"))
    return {folder.name: _measured(folder, room / folder.name) for folder in folders}


def _measured(folder: Path, room: Path) -> Served | Refused:
    try:
        return Served(*_errors(folder, room))
    except (SoftmuxError, *BROKEN) as error:
        return Refused(type(error).__name__, " ".join(str(error).split()))


def _errors(folder: Path, room: Path) -> tuple[float, float]:
    if (folder / WHOLE).is_file():
        return Golden(folder).errors(room)
    if (folder / ENCODER).is_file():
        return (_encoder_error(folder),) * 2
    raise NotGoldenError(f"neither {WHOLE} nor {ENCODER} is in {folder.name}")


def _encoder_error(folder: Path) -> float:
    """Return the error of the rows that the encoder gives; they are the same for every request."""
    config = _config(folder)
    tensors = load_file(folder / ENCODER)
    width = next(tensor.shape[1] for name, tensor in tensors.items() if name.endswith("embedding.weight"))
    arch = "gpt2" if str(config.get("model", "")).startswith("gpt") else "bert"
    spec = replace(spec_of(arch), hidden_size=width, embedding_size=width)
    publisher = PublisherManifest(label_words={"x": ("x",)})
    rows = convert(Checkpoint(tensors, config), publisher, spec).artifact.embeds
    return _off(rows, load_file(folder / "expected.safetensors")["prompt"])


def _config(folder: Path) -> dict[str, Any]:
    found = next((folder / name for name in ("config.json", "meta.json") if (folder / name).is_file()), None)
    if found is None:
        raise NotGoldenError(f"no config.json is in {folder.name}")
    config: dict[str, Any] = json.loads(found.read_text())
    return config


@dataclass(frozen=True)
class Golden:
    """One folder with a whole model."""

    folder: Path

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What its training left."""
        return Checkpoint(load_file(self.folder / WHOLE), _config(self.folder))

    @cached_property
    def run(self) -> dict[str, torch.Tensor]:
        """What went in, and what came out."""
        return load_file(self.folder / "expected.safetensors")

    @property
    def inputs(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Each row's ids and types, unpadded."""
        ids = self.run["input_ids"]
        types = self.run.get("token_type_ids", torch.zeros_like(ids)).flatten(0, -2)
        mask = self.run.get("attention_mask", torch.ones_like(ids)).flatten(0, -2)
        lengths = mask.sum(1).int().tolist()
        if any(not row[:length].all() for row, length in zip(mask, lengths, strict=True)):
            raise NotGoldenError(f"a row of {self.folder.name} is not padded on the right; the originals were")
        rows = zip(ids.flatten(0, -2), types, lengths, strict=True)
        return [(tuple(row[:n].tolist()), tuple(kinds[:n].int().tolist())) for row, kinds, n in rows]

    def errors(self, room: Path) -> tuple[float, float]:
        """Return the largest error alone, and in one step with rows of another prompt."""
        engine = Engine.open(str(self._save_backbone(room)), SETTINGS, Counted())
        artifact = convert(self.checkpoint, PublisherManifest(), engine.spec).artifact
        validate(artifact, engine.spec)
        artifact = Artifact.from_bytes(artifact.to_bytes())
        mine, others = (self._rows(engine, one) for one in (artifact, _randomised(artifact)))
        alone = [engine._stepper.run([row])[0] for row in mine]
        both = [row for pair in zip(others, mine, strict=True) for row in pair]
        return self._worst(alone), self._worst(engine._stepper.run(both)[1::2])

    def _save_backbone(self, directory: Path) -> Path:
        """Save the backbone alone, as its publisher would."""
        root = _root(self.checkpoint)
        tensors = {
            name.removeprefix(f"{root}."): tensor
            for name, tensor in self.checkpoint.tensors.items()
            if name.startswith(f"{root}.") and not name.endswith("position_ids")
        }
        config = {name: value for name, value in (self.checkpoint.config or {}).items() if name != "architectures"}
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(config))
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        bert_tokenizer(min(97, int(config["vocab_size"]))).save_pretrained(directory)
        return directory

    def _rows(self, engine: Engine, artifact: Artifact) -> list[RunningRow]:
        bringing, request = Bringing(engine._backbone), load_request(self.folder.name, artifact)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        inputs = [_with_prompt(request, *row) for row in self.inputs]
        return [RunningRow(resident, row, SamplingParams(), engine.spec.vocab_size) for row in inputs]

    def _worst(self, found: Sequence[object]) -> float:
        """Return the largest error over all rows; pads have no answer."""
        mine = [logits.reshape(-1, logits.shape[-1]) for logits in found if isinstance(logits, torch.Tensor)]
        if not mine or len(mine) != len(found):
            return math.inf
        expected = self.run["logits"].reshape(len(mine), -1, mine[0].shape[-1])
        errors = [_off(ours, theirs[: len(ours)]) for ours, theirs in zip(mine, expected, strict=True)]
        return max_error(errors)


def _root(checkpoint: Checkpoint) -> str:
    """Return the name under which the model keeps its backbone."""
    ending = ".embeddings.word_embeddings.weight"
    roots = {name.removesuffix(ending) for name in checkpoint.tensors if name.endswith(ending)}
    if len(roots) != 1:
        raise NotGoldenError(f"expected one backbone beside the prompt in {WHOLE}; found {sorted(roots) or 'none'}")
    return roots.pop()


def _with_prompt(request: LoadRequest, ids: tuple[int, ...], types: tuple[int, ...]) -> RowInput:
    """Put the prompt's rows, if it has any, in front of the text."""
    row = row_of(request, ids)
    return replace(row, token_type_ids=(0,) * len(row.soft_positions) + types)


def _randomised(artifact: Artifact) -> Artifact:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in artifact.tensors.items()
    }
    return Artifact(artifact.manifest, tensors)


def _off(found: torch.Tensor | None, wanted: torch.Tensor) -> float:
    if found is None or found.shape != wanted.shape:
        return math.inf
    return float((found.double() - wanted.double()).abs().max())

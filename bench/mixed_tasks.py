"""softmux in process: requests of many classification tasks, each with its own prefix and head, in mixed steps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import torch

from bench.classifier_head import LABELS, random_head
from prompt_store.artifact import Artifact, version_of
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, Manifest, Method
from prompt_store.refs import TaskName, Version
from server.engine.engine import Engine
from server.engine.types import LoadRequest, ReadSequence, RowInput, RowRequest


class SilentObserver:
    """Listens to steps and says nothing."""

    def step(self, num_rows: int, num_tokens: int, num_tasks: int, seconds: float) -> None:
        """A step ended."""

    def row_failed(self, reason: str) -> None:
        """A row failed."""

    def evicted(self, reason: str) -> None:
        """A version left the device."""


class MixedTasks:
    """Resident tasks; request i goes to task i modulo their number."""

    def __init__(self, engine: Engine, keys: Sequence[tuple[TaskName, Version]]) -> None:
        self._engine = engine
        self._keys = keys

    @classmethod
    async def load(cls, engine: Engine, artifacts: Sequence[Artifact]) -> MixedTasks:
        """Make one task of each artifact, and all of them resident."""
        keys = []
        for index, artifact in enumerate(artifacts):
            task, version = TaskName("bench", f"task-{index}"), version_of(artifact.to_bytes())
            await engine.load(LoadRequest(task, version, artifact, ReadSequence()))
            keys.append((task, version))
        return cls(engine, keys)

    async def answer(self, lines: Sequence[str]) -> list[torch.Tensor]:
        """Tokenise, submit and await every line; return their logits in order."""
        encoded = self._engine.tokenizer(list(lines))["input_ids"]
        return await asyncio.gather(*(self._row(index, ids) for index, ids in enumerate(encoded)))

    async def _row(self, index: int, input_ids: list[int]) -> torch.Tensor:
        task, version = self._keys[index % len(self._keys)]
        lease = self._engine.lease(task, version)
        assert lease is not None, f"{task} is not resident"
        try:
            outcome = await self._engine.submit(RowRequest(lease, RowInput(tuple(input_ids)))).outcome()
        finally:
            lease.release()
        assert outcome.logits is not None
        return outcome.logits


def classifier(spec: BackboneSpec, num_virtual_tokens: int, seed: int) -> Artifact:
    """Return a task that reads the backbone's pooler, with a random prefix of its own (none: 0 tokens)."""
    tensors = {f"head.classifier.{name}": tensor for name, tensor in random_head(spec.hidden_size).items()}
    if num_virtual_tokens:
        generator = torch.Generator().manual_seed(seed)
        shape = (spec.num_layers, spec.num_key_value_heads, num_virtual_tokens, spec.head_dim)
        tensors["kv.key"] = torch.randn(shape, generator=generator)
        tensors["kv.value"] = torch.randn(shape, generator=generator)
    soft = f"<soft:{num_virtual_tokens}>" if num_virtual_tokens else ""
    manifest = Manifest(
        method=Method.PREFIX_TUNING if num_virtual_tokens else Method.NONE,
        kind=HeadKind.SEQUENCE_CLASSIFICATION,
        num_virtual_tokens=num_virtual_tokens,
        template=soft + "{text}",
        labels=LABELS,
        problem_type="single_label",
        head=HeadModule(path="classifier", form="linear", reads="pooler"),
        fingerprint=Fingerprint(arch=spec.arch_fingerprint),
    )
    return Artifact(manifest, tensors)

"""Tasks with prefixes that matter as much as words do, all asked at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import torch
from engine_cases import answer, load_request, random_ids, row_of, running

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, Manifest, Method
from server.engine.engine import Engine
from server.engine.types import LoadRequest, Outcome, SamplingParams

LENGTHS = (1, 3, 7, 12, 12, 30)
PREFIXES = (6, 20, 0)  # virtual tokens of the tasks; the last one has none
WRITE = SamplingParams(max_new_tokens=6, ignore_eos=True, num_logprobs=0)


def task(spec: BackboneSpec, number: int, kind: HeadKind) -> LoadRequest:
    """A task with a prefix of its own that matters as much as words do."""
    count = PREFIXES[number]
    size = (spec.num_layers, spec.num_key_value_heads, count, spec.head_dim)
    generator = torch.Generator().manual_seed(number)
    scale = max(spec.max_abs_key) / 3
    tensors = {name: scale * torch.randn(size, generator=generator) for name in ("kv.key", "kv.value") if count}
    is_head = kind is HeadKind.TOKEN_CLASSIFICATION
    if is_head:
        tensors["head.score.weight"] = torch.randn(3, spec.hidden_size, generator=generator)
    manifest = Manifest(
        method=Method.PREFIX_TUNING if count else Method.NONE,
        kind=kind,
        num_virtual_tokens=count,
        template="{text}",
        labels=("a", "b", "c") if is_head else None,
        head=HeadModule(path="score", reads="tokens") if is_head else None,
        fingerprint=Fingerprint(arch=spec.arch_fingerprint),
    )
    return load_request(f"task-{number}", Artifact(manifest, tensors))


async def outcomes(engine: Engine, kind: HeadKind) -> Sequence[Outcome]:
    """Ask every task for every length, all at once."""
    asked = [(number, length) for length in LENGTHS for number in range(len(PREFIXES))]
    requests = [task(engine.spec, number, kind) for number in range(len(PREFIXES))]
    async with running(engine) as live:
        for request in requests:
            await live.load(request)
        return await asyncio.gather(
            *(
                answer(live, requests[number], row_of(requests[number], random_ids(length, seed)), WRITE)
                for seed, (number, length) in enumerate(asked)
            )
        )

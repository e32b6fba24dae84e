"""The tasks that softmux serves in the benchmarks, as artifacts."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bench.work.classifier_head import LABELS, random_head
from bench.work.vectors import PrefixShape, prefix_of
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, Manifest, Method


def classifier(spec: BackboneSpec, task: int, num_virtual_tokens: int) -> Artifact:
    """Return a task that reads the backbone's pooler, with a prefix of its own (none: 0 tokens)."""
    head = {f"head.classifier.{name}": tensor for name, tensor in random_head(spec.hidden_size).items()}
    manifest = Manifest(
        method=_method(num_virtual_tokens),
        kind=HeadKind.SEQUENCE_CLASSIFICATION,
        num_virtual_tokens=num_virtual_tokens,
        template=_template(num_virtual_tokens),
        labels=LABELS,
        problem_type="single_label",
        head=HeadModule(path="classifier", form="linear", reads="pooler"),
        fingerprint=Fingerprint(arch=spec.arch_fingerprint),
    )
    return Artifact(manifest, {**head, **_prefix(spec, task, num_virtual_tokens)})


def writer(spec: BackboneSpec, task: int, num_virtual_tokens: int) -> Artifact:
    """Return a task that writes, with a prefix of its own (none: 0 tokens)."""
    return Artifact(_writing(spec, num_virtual_tokens), _prefix(spec, task, num_virtual_tokens))


def prompted_writer(spec: BackboneSpec, task: int, num_virtual_tokens: int) -> Artifact:
    """Return a task that writes behind virtual tokens at the input, as Prompt Tuning gives them."""
    generator = torch.Generator().manual_seed(task)
    embeds = torch.randn(num_virtual_tokens, spec.embedding_size, generator=generator)
    scaled = embeds * (spec.max_abs_embedding / 16)  # as large as words
    return Artifact(_writing(spec, num_virtual_tokens, Method.PROMPT_TUNING), {"embeds": scaled})


def _writing(spec: BackboneSpec, num_virtual_tokens: int, method: Method | None = None) -> Manifest:
    return Manifest(
        method=method or _method(num_virtual_tokens),
        kind=HeadKind.GENERATION,
        num_virtual_tokens=num_virtual_tokens,
        template=_template(num_virtual_tokens),
        fingerprint=Fingerprint(arch=spec.arch_fingerprint),
    )


def _method(num_virtual_tokens: int) -> Method:
    return Method.PREFIX_TUNING if num_virtual_tokens else Method.NONE


def _template(num_virtual_tokens: int) -> str:
    return (f"<soft:{num_virtual_tokens}>" if num_virtual_tokens else "") + "{text}"


def _prefix(spec: BackboneSpec, task: int, num_virtual_tokens: int) -> Mapping[str, torch.Tensor]:
    if not num_virtual_tokens:
        return {}
    shape = PrefixShape(spec.num_layers, spec.num_key_value_heads, spec.head_dim)
    key, value = prefix_of(task, num_virtual_tokens, shape)
    return {"kv.key": key, "kv.value": value}

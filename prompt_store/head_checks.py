"""Does an artifact's head fit a backbone: present, of the right shape, one row a label. A part of `validate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import ManifestError
from prompt_store.label_checks import mask_faults
from prompt_store.manifest import HEADED, READS_TOKENS, HeadKind, HeadModule
from prompt_store.template import Template, parse_template

_ROWS = {HeadKind.QUESTION_ANSWERING: 2, HeadKind.MULTIPLE_CHOICE: 1}  # start and end; one score a choice

PREDICTION = "head."  # how the names of ModernBERT's layers before the classifier begin


def head_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    """Yield every reason why the head and pooler do not fit the backbone and the labels."""
    manifest = artifact.manifest
    tensors, pooler = artifact.part("head"), artifact.part("pooler")
    if manifest.kind not in HEADED:
        if manifest.head is not None or tensors or pooler:
            yield f"a {manifest.kind} task has no head; the artifact has one"
        return
    if manifest.head is None:
        yield f"a {manifest.kind} task needs a trained head; the artifact has none"
        return
    yield from _layer_faults(manifest.head, tensors, spec)
    yield from _label_faults(artifact, manifest.head)
    yield from _reads_faults(artifact, manifest.head, spec)
    yield from _pooler_faults(manifest.head, pooler, spec)


def _layer_faults(head: HeadModule, tensors: Mapping[str, torch.Tensor], spec: BackboneSpec) -> Iterator[str]:
    layers: dict[str, int | None] = {head.last: None}
    is_backbones = head.form == "prediction" and not any(name.startswith(PREDICTION) for name in tensors)
    if is_backbones and not spec.has_prediction_head:
        yield f"the head needs {PREDICTION}dense and {PREDICTION}norm, which neither the artifact nor {spec.name} has"
    if head.first is not None and not is_backbones:
        layers = {head.first: spec.hidden_size, head.last: None}
        if head.activation is None:
            yield f"head {head.path!r} has {head.first} and {head.last}; the manifest says no activation between them"
    expected = {f"{layer}.{param}" for layer in layers for param in ("weight", "bias")}
    if head.norm is not None and not is_backbones:
        yield from _norm_faults(head.norm, tensors, spec)
        expected |= {f"{head.norm}.weight", f"{head.norm}.bias"}
    if head.form == "dense-norm-linear" and head.norm_eps is None:
        yield f"head {head.path!r} has a norm; the manifest says no norm_eps"
    if unknown := sorted(tensors.keys() - expected):
        yield f"head {head.path!r} has no place for {', '.join(name[:80] for name in unknown[:8])}"
    for layer, rows in layers.items():
        yield from _linear_faults(
            f"head.{layer}", tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.bias"), rows, spec
        )


def _norm_faults(norm: str, tensors: Mapping[str, torch.Tensor], spec: BackboneSpec) -> Iterator[str]:
    for name in (f"{norm}.weight", f"{norm}.bias"):
        tensor = tensors.get(name)
        if tensor is None and name.endswith(".weight"):
            yield f"head.{name} is missing"
        if tensor is not None and list(tensor.shape) != [spec.hidden_size]:
            yield f"head.{name} has shape {list(tensor.shape)}; backbone {spec.name} needs {[spec.hidden_size]}"


def _linear_faults(
    name: str, weight: torch.Tensor | None, bias: torch.Tensor | None, rows: int | None, spec: BackboneSpec
) -> Iterator[str]:
    if weight is None:
        yield f"{name}.weight is missing"
        return
    shape = list(weight.shape)
    if len(shape) != 2 or 0 in shape:
        yield f"{name}.weight has shape {shape}; expected [out, in]"
        return
    if shape[1] != spec.hidden_size:
        yield (
            f"{name} reads {shape[1]} values; backbone {spec.name} has hidden_size {spec.hidden_size}. "
            "Was it trained for another model?"
        )
    if rows is not None and shape[0] != rows:
        yield f"{name} gives {shape[0]} values; expected {rows}"
    if bias is not None and list(bias.shape) != shape[:1]:
        yield f"{name}.bias has shape {list(bias.shape)}; expected {shape[:1]}"


def _label_faults(artifact: Artifact, head: HeadModule) -> Iterator[str]:
    weight, labels = artifact.part("head").get(f"{head.last}.weight"), artifact.manifest.labels
    kind = artifact.manifest.kind
    if kind in _ROWS:
        if labels is not None:
            yield f"a {kind} task has no labels; the manifest lists {', '.join(labels[:20])}"
        if weight is not None and weight.ndim == 2 and weight.shape[0] != _ROWS[kind]:
            yield f"the head has {weight.shape[0]} rows; a {kind} head has {_ROWS[kind]}"
    elif labels is None:
        yield "a task with a head needs labels, one for each row of the head"
    elif weight is not None and weight.ndim == 2 and len(labels) != weight.shape[0]:
        yield f"the manifest lists {len(labels)} labels; the head has {weight.shape[0]} rows"
    if labels is not None and len(set(labels)) != len(labels):
        yield f"a label stands twice: {', '.join(labels[:20])}"


def _reads_faults(artifact: Artifact, head: HeadModule, spec: BackboneSpec) -> Iterator[str]:
    if (head.reads == "tokens") != (artifact.manifest.kind in READS_TOKENS):
        yield f"the head reads {head.reads}; that is not what a {artifact.manifest.kind} task reads"
    if head.reads == "mask" and (template := _template_or_none(artifact)) is not None:
        yield from mask_faults("heads that read a mask", template, spec)
    if head.reads_pooler and not spec.has_pooler and not artifact.part("pooler"):
        yield f"the head reads the pooler, which is neither in backbone {spec.name} nor in the artifact"


def _template_or_none(artifact: Artifact) -> Template | None:
    try:
        return parse_template(artifact.manifest.template)
    except ManifestError:  # told by the template's own check
        return None


def _pooler_faults(head: HeadModule, pooler: Mapping[str, torch.Tensor], spec: BackboneSpec) -> Iterator[str]:
    if not pooler:
        return
    if not head.reads_pooler:
        yield f"the artifact brings a pooler; its head reads {head.reads}"
    activation = head.pooler_activation or "tanh"
    if activation != spec.pooler_activation:
        yield (
            f"the artifact's pooler is followed by {activation}; that of backbone {spec.name} by "
            f"{spec.pooler_activation}. Say pooler_activation in the head"
        )
    if unknown := sorted(pooler.keys() - {"dense.weight", "dense.bias"}):
        yield f"a pooler is dense.weight and dense.bias; the artifact also has {', '.join(unknown[:8])}"
    yield from _linear_faults(
        "pooler.dense", pooler.get("dense.weight"), pooler.get("dense.bias"), spec.hidden_size, spec
    )

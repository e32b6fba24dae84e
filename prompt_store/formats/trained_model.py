"""A whole model's state dict, or what somebody kept of it: head and pooler are taken, the backbone's weights are not.

The names are those of transformers' `*For<Task>` classes: `<backbone>.*`, `<backbone>.pooler.dense.*`, `classifier.*`,
`qa_outputs.*`. The config is the model's `config.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.own_backbone import OwnBackbone
from prompt_store.formats.table import below
from prompt_store.manifest import READS_TOKENS, HeadKind, PublisherManifest

_ROOTS = {  # model type -> where its classes keep the backbone
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "electra": "electra",
    "albert": "albert",
    "distilbert": "distilbert",
    "deberta": "deberta",
    "deberta-v2": "deberta",
}
_OTHER_EMBEDDINGS = "embeddings."  # the "Prompt" classes keep the backbone's embeddings a second time
_HEADS = ("classifier.", "qa_outputs.")
_POOLER = "pooler.dense."
_KINDS = {
    "ForSequenceClassification": HeadKind.SEQUENCE_CLASSIFICATION,
    "ForTokenClassification": HeadKind.TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": HeadKind.QUESTION_ANSWERING,
    "ForMultipleChoice": HeadKind.MULTIPLE_CHOICE,
}
_SEVERAL_FORMS = ("wic", "wsc")
_SAME = {  # of config.json -> of the spec
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "pooler_hidden_act": "pooler_activation",
}


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What stands beside a prompt: `tensors` below `head.` and `pooler.`, and the kind of task, if it can be told."""

    tensors: dict[str, torch.Tensor]
    kinds: tuple[HeadKind, ...]
    checks: tuple[str, ...]


def read_model(
    checkpoint: Checkpoint, prompt: str, publisher: PublisherManifest, spec: BackboneSpec, reasons: Reasons
) -> TrainedModel:
    """Sort every tensor but those that begin with `prompt`; note what has no place or was made for another backbone."""
    rest = {name: t.detach() for name, t in sorted(checkpoint.tensors.items()) if not name.startswith(prompt)}
    root = _ROOTS.get(spec.model_type, spec.model_type)
    found: dict[str, torch.Tensor] = {}
    copied: dict[str, torch.Tensor] = {}
    homeless = []
    for name, tensor in rest.items():
        canonical = _canonical(name)
        if canonical is not None:
            reasons.expect(canonical not in found, f"{name[:80]!r} and another tensor are both {canonical}")
            found[canonical] = tensor
        elif name.startswith((*(f"{known}." for known in {root, *_ROOTS.values()}), _OTHER_EMBEDDINGS)):
            copied[name] = tensor
        else:
            homeless.append(name)
    foreign = [*foreign_weights(rest, spec), *_config_faults(checkpoint.config, spec)]
    for reason in (*foreign, *_homeless(homeless)):
        reasons.add(reason)
    _expect_text(checkpoint.config, publisher, reasons)
    kinds = _kinds(checkpoint.config, found, reasons)
    checks: list[str] = []
    if not foreign:
        checks.extend(own_backbone(copied, spec).checked(publisher.backbone_trained, spec, reasons))
    unread = _why_no_pooler(found, kinds or tuple(filter(None, [publisher.kind])))
    if unread is not None and any(name.startswith(_POOLER) for name in found):
        found = {name: tensor for name, tensor in found.items() if not name.startswith(_POOLER)}
        checks.append(f"pooler in the file ignored: {unread}")
    return TrainedModel(found, kinds, tuple(checks))


def _expect_text(config: Mapping[str, object] | None, publisher: PublisherManifest, reasons: Reasons) -> None:
    """Note a task whose training wrote its text in one of several forms, when nobody says which."""
    task = (config or {}).get("finetuning_task")
    reasons.expect(
        task not in _SEVERAL_FORMS or publisher.template is not None,
        f"P-Tuning v2 writes the text of {task} in one of several forms, and its template_id is in no file: say "
        "template in the manifest, as training wrote it",
    )


def own_backbone(tensors: Mapping[str, torch.Tensor], spec: BackboneSpec) -> OwnBackbone:
    """Pick out of a model's state dict what is a copy of such a backbone as `spec` describes."""
    again = {name: tensor for name, tensor in tensors.items() if name.startswith(_OTHER_EMBEDDINGS)}
    return OwnBackbone(below(f"{_ROOTS.get(spec.model_type, spec.model_type)}.", tensors), again)


def _why_no_pooler(found: Mapping[str, torch.Tensor], kinds: tuple[HeadKind, ...]) -> str | None:
    """Say why the head reads no pooler, or return None where it may."""
    if any(kind in READS_TOKENS for kind in kinds):
        return "the head reads every token"
    has_two_layers = any(name.endswith(".out_proj.weight") for name in found)
    return "a head of two layers reads the first position itself" if has_two_layers else None


def _canonical(name: str) -> str | None:
    if name.startswith(_HEADS):
        return "head." + name
    owner, _, param = name.rpartition(_POOLER)
    return _POOLER + param if param in ("weight", "bias") and owner.count(".") <= 1 else None


def _kinds(
    config: Mapping[str, object] | None, found: Mapping[str, torch.Tensor], reasons: Reasons
) -> tuple[HeadKind, ...]:
    """Return the class that the config names, else what the head's name leaves no doubt of, else nothing."""
    has_spans = any(name.startswith("head.qa_outputs.") for name in found)
    named = config.get("architectures") if config is not None else None
    for name in named if isinstance(named, list) else []:
        kind = next((kind for suffix, kind in _KINDS.items() if str(name).endswith(suffix)), None)
        if kind is not None:
            is_spans = kind is HeadKind.QUESTION_ANSWERING
            reasons.expect(
                is_spans == has_spans or not found,
                f"the config says {str(name)[:80]}; the file's head is {', '.join(sorted(found)[:4])}",
            )
            return (kind,)
    return (HeadKind.QUESTION_ANSWERING,) if has_spans else ()


def foreign_weights(tensors: Mapping[str, torch.Tensor], spec: BackboneSpec) -> Iterator[str]:
    """Yield every reason why a model's state dict is of another backbone than `spec` describes, by names and shapes."""
    root = _ROOTS.get(spec.model_type, spec.model_type)
    others = sorted({known for known in _ROOTS.values() if known != root and _has(tensors, known)})
    if others:
        yield f"the file holds a {others[0]}; backbone {spec.name} is a {spec.model_type}. Was it trained for another?"
    words = tensors.get(f"{root}.embeddings.word_embeddings.weight")
    if words is not None and list(words.shape) != [spec.vocab_size, spec.embedding_size]:
        yield (
            f"the file's word embeddings are {list(words.shape)}; those of backbone {spec.name} are "
            f"{[spec.vocab_size, spec.embedding_size]}. Was it trained for another model?"
        )


def _has(tensors: Mapping[str, torch.Tensor], root: str) -> bool:
    return any(name.startswith(f"{root}.") for name in tensors)


def _config_faults(config: Mapping[str, object] | None, spec: BackboneSpec) -> Iterator[str]:
    said = config or {}
    if said.get("model_type") not in (None, spec.model_type):
        yield f"the config's model_type is {repr(said['model_type'])[:80]}; backbone {spec.name} is {spec.model_type!r}"
    for name, of_spec in _SAME.items():
        ours = getattr(spec, of_spec)
        if said.get(name) not in (None, ours):
            yield f"the config's {name} is {repr(said[name])[:80]}; that of backbone {spec.name} is {ours}"


def _homeless(names: list[str]) -> Iterator[str]:
    if names:
        yield f"the file also has {shorten(names)}; known are a prompt, a head, a pooler and the backbone's weights"

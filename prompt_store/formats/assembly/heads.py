"""From trained head tensors to the manifest's head: its path, its form, and which hidden state goes in.

Rules are those of the `*ForSequenceClassification` and `*ForTokenClassification` classes of transformers 5; a model
type that is in no table is refused unless the publisher says where its head reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import MissingLayerError
from prompt_store.formats.checkpoint import Reasons
from prompt_store.manifest import READS_TOKENS, HeadActivation, HeadForm, HeadKind, HeadModule, Pool
from prompt_store.stack_checks import ON_STACKS

Reads = Literal["pooler", "text-pooler", "first", "last", "mask", "mean", "tokens"]

# One Linear over the pooler's output.
_POOLED = frozenset({"bert", "albert", "ernie", "gte", "megatron-bert", "nomic_bert", "rembert"})
_OWN_POOLED = frozenset({"deberta", "deberta-v2"})  # the same, but the pooler is the task's, and trained with it
_PREDICTED = frozenset({"modernbert", "modernbert-decoder"})  # head.dense, activation, head.norm, classifier
_CONFIGURED = "of the config"
_DENSE_ACTIVATION = {  # dense, activation, out_proj over the first position
    "roberta": "tanh",
    "xlm-roberta": "tanh",
    "xlm-roberta-xl": "tanh",
    "roberta-prelayernorm": "tanh",
    "camembert": "tanh",
    "data2vec-text": "tanh",
    "mpnet": "tanh",
    "jina_embeddings_v3": "tanh",
    "electra": "gelu",
    "roformer": _CONFIGURED,
    "big_bird": _CONFIGURED,
}
_LM_GELU = {  # whatever their config says; elsewhere an LM head's layers are of the config
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "roberta-prelayernorm", "mpnet"),
}
_PRE_ACTIVATION = {"distilbert": "relu"}  # pre_classifier, activation, classifier over the first position
_ON_ENCODERS = frozenset({"t5", "mt5", "umt5"})  # one Linear over what the encoder gives
_PLAIN_TOKENS = _POOLED | _OWN_POOLED | _DENSE_ACTIVATION.keys() | _PRE_ACTIVATION.keys() | _ON_ENCODERS
_LAYERS: dict[HeadForm, str] = {
    "dense-linear": "dense and out_proj",
    "dense-norm-linear": "dense, norm and out_proj",
    "pre-classifier": "pre_classifier and classifier",
    "prediction": "head.dense, head.norm and classifier",
}


@dataclass(frozen=True, slots=True)
class HeadTensors:
    """The trained head, by names below `head.`, whether a pooler came too, and where its family reads, if it says."""

    tensors: Mapping[str, torch.Tensor]
    has_pooler: bool
    reads: Reads | None = None

    def describe(self) -> str:
        """Name the tensors for a message."""
        return ", ".join(f"{name[:80]} {list(t.shape)}" for name, t in sorted(self.tensors.items())[:8])


def head_module(head: HeadTensors, kind: HeadKind, pool: Pool | None, spec: BackboneSpec) -> HeadModule:
    """Return where this head stands and what it reads. Raises CheckpointError with every reason."""
    reasons = Reasons()
    path, form = _place(head, reasons)
    if form == "linear" and spec.model_type in _PREDICTED:
        form = "prediction"
        reasons.expect(
            spec.has_prediction_head,
            f"in a {spec.model_type} head.dense and head.norm stand before {path}; they are neither in the files of "
            f"backbone {spec.name} nor in this one: train again with head in modules_to_save",
            MissingLayerError,
        )
    is_own = pool is None and form in ("linear", "dense-norm-linear") and head.reads is not None
    reads = head.reads if is_own and head.reads else _reads(form, kind, pool, spec, reasons)
    activation = _activation(form, spec, reasons)
    reads_pooler = reads in ("pooler", "text-pooler")
    if reads_pooler:
        reasons.expect(
            spec.has_pooler or head.has_pooler,
            f"head {path!r} reads the pooler, which is neither in backbone {spec.name} nor in the file: "
            "train again with the pooler in modules_to_save, or say pool in the manifest",
            MissingLayerError,
        )
    pooler_activation = _pooler_activation(spec, reasons) if reads_pooler and head.has_pooler else None
    reasons.check()
    return HeadModule(
        path=path,
        form=form,
        activation=activation,
        norm_eps=_norm_eps(spec, reasons) if form == "dense-norm-linear" else None,
        reads=reads,
        pooler_activation=pooler_activation,
    )


def _norm_eps(spec: BackboneSpec, reasons: Reasons) -> float | None:
    """Return the epsilon of an LM head's norm."""
    reasons.expect(
        spec.norm_eps is not None,
        f"a head with a norm is that of a masked-LM head; {spec.name} names no layer_norm_eps",
    )
    reasons.check()
    return spec.norm_eps


def _activation(form: HeadForm, spec: BackboneSpec, reasons: Reasons) -> HeadActivation | None:
    """Return what stands between the layers; None: nothing does."""
    kind = spec.model_type
    match form:
        case "linear":
            return None
        case "dense-linear":
            name, known = _DENSE_ACTIVATION.get(kind), list(_DENSE_ACTIVATION)
        case "dense-norm-linear":
            name, known = "gelu" if kind in _LM_GELU else _CONFIGURED, []
        case "pre-classifier":
            name, known = _PRE_ACTIVATION.get(kind), list(_PRE_ACTIVATION)
        case "prediction":
            name, known = _CONFIGURED if kind in _PREDICTED else None, sorted(_PREDICTED)
    said = spec.head_activation if name is _CONFIGURED else name
    found: HeadActivation | None = next((one for one in get_args(HeadActivation) if one == said), None)
    reasons.expect(name is not None, f"a head of {_LAYERS[form]} is one of {', '.join(known)}; {spec.name} is a {kind}")
    reasons.expect(
        name is None or found is not None,
        f"{said} stands in the heads of {spec.name}; known are {', '.join(get_args(HeadActivation))}",
    )
    return found


def _pooler_activation(spec: BackboneSpec, reasons: Reasons) -> Literal["tanh", "gelu"] | None:
    """Return what follows the pooler that the file brings; tanh, as nearly everywhere, goes without saying."""
    reasons.expect(
        spec.pooler_activation in ("tanh", "gelu"),
        f"a pooler of {spec.name} is followed by {spec.pooler_activation!r}; known are tanh, gelu",
    )
    return "gelu" if spec.pooler_activation == "gelu" else None


def num_labels(head: HeadModule, tensors: Mapping[str, torch.Tensor]) -> int:
    """Return how many scores the head gives: the rows of its last layer's weight."""
    return int(tensors[f"{head.last}.weight"].shape[0])


def _place(head: HeadTensors, reasons: Reasons) -> tuple[str, HeadForm]:
    weights = {
        name.removesuffix(".weight") for name, t in head.tensors.items() if name.endswith(".weight") and t.ndim == 2
    }
    outer = {path.removesuffix(".out_proj") for path in weights if path.endswith(".out_proj")}
    for path in outer:
        if _accounts_for(head, (f"{path}.dense", f"{path}.out_proj"), weights):
            return path, "dense-linear"
        if _accounts_for(head, (f"{path}.dense", f"{path}.out_proj"), weights, norm=f"{path}.norm"):
            return path, "dense-norm-linear"
    if _accounts_for(head, ("pre_classifier", "classifier"), weights):
        return "classifier", "pre-classifier"
    if _accounts_for(head, ("head.dense", "classifier"), weights, norm="head.norm"):
        return "classifier", "prediction"
    for path in weights:
        if _accounts_for(head, (path,), weights):
            return path, "linear"
    reasons.add(
        f"the head is {head.describe()}; expected one Linear (<path>.weight, .bias), "
        f"or {', or '.join(_LAYERS.values())}"
    )
    return "", "linear"


def _accounts_for(head: HeadTensors, layers: tuple[str, ...], weights: set[str], norm: str | None = None) -> bool:
    """Whether the head is exactly these Linear layers and a norm: one too many would be left out in silence."""
    if weights != set(layers):
        return False
    named = [*layers, *([norm] if norm else [])]
    allowed = {f"{layer}.{param}" for layer in named for param in ("weight", "bias")}
    is_flat = all(t.ndim == 1 for name, t in head.tensors.items() if name.removesuffix(".weight") not in layers)
    return head.tensors.keys() <= allowed and is_flat and (norm is None or f"{norm}.weight" in head.tensors)


def _reads(form: HeadForm, kind: HeadKind, pool: Pool | None, spec: BackboneSpec, reasons: Reasons) -> Reads:
    if kind in READS_TOKENS:
        reasons.expect(pool is None, f"pool {pool!r} is for one vector a row; a {kind} head reads every token")
        reasons.expect(
            spec.is_causal or spec.is_relative or spec.model_type in _PLAIN_TOKENS or form == "prediction",
            f"{kind} heads of model type {spec.model_type!r} have layers before the head that no adapter saves",
            MissingLayerError,
        )
        reasons.expect(
            form in ("linear", "prediction"),
            f"a {kind} head is one Linear; the file has {_LAYERS.get(form)}",
        )
        return "tokens"
    if pool == "cls" or pool == "mean":
        reasons.add(f"pool {pool!r} is for embedding tasks; a {kind} head reads pooler, text-pooler, first or last")
        return "first"
    if pool is not None:
        return pool
    if spec.is_encoder_decoder:
        reasons.add(f"a {kind} head is not served on {spec.name}, an encoder-decoder: {ON_STACKS}")
        return "first"
    if spec.is_causal:
        return "last"
    if form == "prediction":
        reasons.expect(
            spec.head_pool is not None,
            f"the config of {spec.name} says no classifier_pooling: say pool in the manifest",
        )
        return "mean" if spec.head_pool == "mean" else "first"
    if form != "linear":
        return "first"
    reasons.expect(
        spec.model_type in _POOLED | _OWN_POOLED,
        f"where a single-layer head reads is not known for model type {spec.model_type!r}: say pool in the manifest, "
        "and bring every module that stands before the head",
        MissingLayerError,
    )
    return "pooler"

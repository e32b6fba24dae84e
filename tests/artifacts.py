"""Small artifacts for tests, and strategies that make any."""

from __future__ import annotations

from typing import get_args

import torch
from hypothesis import strategies as st

from prompt_store.artifact import Artifact
from prompt_store.manifest import (
    Fingerprint,
    GenerationDefaults,
    GoldenExample,
    HeadKind,
    HeadModule,
    Manifest,
    Method,
    Pool,
)


def small_artifact(seed: int = 0, **fields: object) -> Artifact:
    """A prompt of three vectors with a linear head of two labels."""
    generator = torch.Generator().manual_seed(seed)
    manifest = {
        "method": Method.P_TUNING,
        "kind": HeadKind.SEQUENCE_CLASSIFICATION,
        "num_virtual_tokens": 3,
        "template": "<soft:3>{text}",
        "labels": ("schlecht", "gut"),
        "head": HeadModule(path="classifier", reads="pooler"),
        "fingerprint": Fingerprint(arch="sha256:0"),
    }
    tensors = {
        "embeds": torch.randn(3, 8, generator=generator),
        "head.classifier.weight": torch.randn(2, 8, generator=generator),
        "head.classifier.bias": torch.randn(2, generator=generator),
        "pooler.dense.weight": torch.randn(8, 8, generator=generator).bfloat16(),
    }
    return Artifact(Manifest.model_validate({**manifest, **fields}), tensors)


_WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
_KEYS = st.text(st.characters(codec="ascii"), max_size=6)  # two keys that NFC makes one are refused, rightly
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _WORDS
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=6
)
_ANSWERS = _JSON.filter(lambda value: value is not None)


def manifests(**more: st.SearchStrategy[object]) -> st.SearchStrategy[Manifest]:
    """Any manifest of the kind that `more` says."""
    return st.builds(
        Manifest,
        method=st.sampled_from(Method),
        num_virtual_tokens=st.integers(0, 10**6),
        template=_WORDS,
        max_length=st.none() | st.integers(1, 10**6),
        truncate=st.none() | _WORDS,
        labels=st.none() | st.lists(_WORDS, min_size=1, max_size=4).map(tuple),
        generation=st.none()
        | st.builds(GenerationDefaults, temperature=st.none() | st.floats(0, 100), seed=st.integers(0, 9)),
        examples=st.none()
        | st.lists(st.builds(GoldenExample, inputs=_ANSWERS, outputs=_ANSWERS), max_size=2).map(tuple),
        fingerprint=st.builds(Fingerprint, arch=_WORDS, weights=st.none() | _WORDS),
        **more,
    )


_OTHER_KINDS = [kind for kind in HeadKind if kind not in (HeadKind.LABEL_WORDS, HeadKind.EMBEDDING)]
MANIFESTS = manifests(kind=st.sampled_from(_OTHER_KINDS)) | manifests(
    kind=st.just(HeadKind.EMBEDDING), pool=st.sampled_from(get_args(Pool))
)


@st.composite
def tensor_values(draw: st.DrawFn, rank: int) -> torch.Tensor:
    """Any tensor of this rank, small, of any dtype an artifact may hold; sometimes not contiguous."""
    shape = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    made = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))).to(dtype)
    return made.transpose(0, -1) if rank > 1 and draw(st.booleans()) else made


@st.composite
def artifacts(draw: st.DrawFn) -> Artifact:
    """Any artifact whose parts are well formed; nothing says that they fit each other."""
    tensors = {}
    for place in ("", "decoder_", "cross_"):
        if draw(st.booleans()):
            tensors[place + "embeds"] = draw(tensor_values(2))
        if draw(st.booleans()):
            key = tensors[place + "kv.key"] = draw(tensor_values(4))
            tensors[place + "kv.value"] = -key
    names = st.from_regex(r"(head|pooler)(\.[A-Za-z0-9_]{1,6}){1,3}", fullmatch=True)
    for name in draw(st.lists(names, max_size=3)):
        tensors[name] = draw(tensor_values(draw(st.integers(0, 3))))
    order = draw(st.permutations(list(tensors)))
    return Artifact(draw(MANIFESTS), {name: tensors[name] for name in order})

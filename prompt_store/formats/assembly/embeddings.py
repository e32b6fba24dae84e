"""What an embedding task takes from a checkpoint and its publisher: where it reads, and what it leaves unread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypedDict

from prompt_store.formats.checkpoint import Reasons, shorten
from prompt_store.manifest import HeadKind, Manifest, Pool, PublisherManifest

DEFAULT_POOL: Pool = "mean"
_POOLERS = ("pooler", "text-pooler")


class EmbeddingFields(TypedDict, total=False):
    """The manifest's fields that only an embedding task has."""

    pool: Pool
    normalize: bool


def embedding_fields(kind: HeadKind, publisher: PublisherManifest, base: Manifest | None) -> EmbeddingFields:
    """Return where the task reads, and whether it gives unit vectors, if anybody says so; nothing for other kinds."""
    if kind is not HeadKind.EMBEDDING:
        return {}
    fields: EmbeddingFields = {"pool": publisher.pool or (base.pool if base is not None else None) or DEFAULT_POOL}
    normalize = publisher.normalize if publisher.normalize is not None else base.normalize if base is not None else None
    if normalize is not None:
        fields["normalize"] = normalize
    return fields


def expect_embedding(publisher: PublisherManifest, kind: HeadKind, sent: Iterable[str], reasons: Reasons) -> None:
    """Note what contradicts an embedding, or asks for one where there is none; `sent` names the file's tensors."""
    if kind is not HeadKind.EMBEDDING:
        reasons.expect(publisher.normalize is None, f"normalize is for embedding tasks; this is a {kind} task")
        return
    has_pooler = any(name.startswith("pooler.") for name in sent)
    reasons.expect(
        not has_pooler or publisher.pool not in _POOLERS,
        f"the file brings a pooler of its own; pool {publisher.pool!r} reads the backbone's: say mean, cls or last",
    )


def ignored_head(kind: HeadKind, sent: Iterable[str]) -> Iterator[str]:
    """Say which of the file's layers an embedding, which is read before them, leaves out."""
    layers = sorted(name for name in sent if name.startswith(("head.", "pooler.")))
    if kind is HeadKind.EMBEDDING and layers:
        yield f"head in the file ignored: an embedding is read before {shorten(layers)}"

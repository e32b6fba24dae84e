"""What a publisher sent, and the candidate version it becomes. Judges the bytes; runs no backbone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from prompt_store.artifact import OWN, Artifact, version_of
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.canonical import canonical_json
from prompt_store.errors import CheckpointError
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.manifest import PublisherManifest
from prompt_store.refs import LIVE, Alias, Version
from prompt_store.safefile import FOREIGN, read_tensors
from prompt_store.validate import Limits, validate


@dataclass(frozen=True, slots=True)
class Upload:
    """What a publisher sent: a checkpoint (`weights` and `config`) or a canonical `artifact`, never both.

    With `base_version`, every part that was not sent is taken from that version, so both may be None; so they may
    where the manifest says what the backbone answers without a prompt.
    """

    weights: bytes | None = None  # one safetensors file
    artifact: bytes | None = None  # our canonical bytes
    config: bytes | None = None  # JSON of the checkpoint, e.g. adapter_config.json
    manifest: bytes | None = None  # JSON of a PublisherManifest
    alias: Alias | None = LIVE  # None: do not move any alias
    base_version: Version | None = None
    force: bool = False  # take an artifact made for other backbone weights


@dataclass(frozen=True, slots=True)
class Source:
    """What an upload is recognised by when it comes again."""

    source_digest: str
    manifest_digest: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """An upload as the version it would be."""

    version: Version
    artifact: Artifact
    raw: bytes
    format: str
    checks: tuple[str, ...]


def read_manifest(upload: Upload) -> PublisherManifest:
    """Read what the publisher says. Raises ManifestError."""
    return PublisherManifest.from_json(upload.manifest) if upload.manifest else PublisherManifest()


def source_of(upload: Upload, publisher: PublisherManifest) -> Source:
    """Return the digests of what was sent; the manifest's does not depend on its spelling."""
    digest = hashlib.sha256()
    for part in (upload.weights, upload.artifact, upload.config, (upload.base_version or "").encode()):
        digest.update(b"-" if part is None else hashlib.sha256(part).digest())
    said = canonical_json(publisher.model_dump(mode="json", exclude_none=True))
    return Source("sha256:" + digest.hexdigest(), "sha256:" + hashlib.sha256(said).hexdigest())


def make_candidate(
    upload: Upload, publisher: PublisherManifest, base: bytes | None, spec: BackboneSpec, limits: Limits
) -> Candidate:
    """Convert and validate: the processor-heavy part of a publish. Raises ArtifactError with every reason."""
    base_artifact = Artifact.from_bytes(base) if base is not None else None
    converted = convert(_checkpoint(upload, publisher, base_artifact), publisher, spec, base_artifact)
    checks = validate(converted.artifact, spec, replace(limits, allow_other_weights=upload.force))
    raw = converted.artifact.to_bytes()
    # What is tried and served is what was stored, not what it was written from.
    return Candidate(version_of(raw), Artifact.from_bytes(raw), raw, converted.format, (*converted.checks, *checks))


def _checkpoint(upload: Upload, publisher: PublisherManifest, base: Artifact | None) -> Checkpoint:
    if upload.weights is not None and upload.artifact is not None:
        raise CheckpointError("both weights and an artifact were sent; send one of them")
    config = read_config(upload.config) if upload.config else None
    if upload.artifact is not None:
        Artifact.from_bytes(upload.artifact)
        return Checkpoint(read_tensors(upload.artifact, OWN), config)
    if upload.weights is not None:
        return Checkpoint(read_tensors(upload.weights, FOREIGN), config)
    if base is None and publisher.kind is None and not publisher.label_words:
        raise CheckpointError(
            "no weights were sent: they may be left out with base_version, or for a task on the bare backbone, "
            "whose manifest says kind or label_words"
        )
    return Checkpoint({}, config)

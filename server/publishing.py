"""Publish: what somebody uploaded becomes a version that this replica serves. Knows no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_store.refs import LIVE, Alias, TaskName, Version
from prompt_store.store import AliasState, VersionRecord


@dataclass(frozen=True, slots=True)
class Upload:
    """What a publisher sent: a checkpoint (`weights` and `config`) or a canonical `artifact`, never both.

    With `base_version`, every part that was not sent is taken from that version, so both may be None.
    """

    weights: bytes | None = None  # one safetensors file
    artifact: bytes | None = None  # our canonical bytes
    config: bytes | None = None  # JSON of the checkpoint, e.g. adapter_config.json
    manifest: bytes | None = None  # JSON of a PublisherManifest
    alias: Alias | None = LIVE  # None: do not move any alias
    base_version: Version | None = None
    force: bool = False  # take an artifact made for other backbone weights


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What a publish of this upload would store."""

    version: Version
    format: str
    method: str
    kind: str
    template: str
    num_virtual_tokens: int
    size_bytes: int
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did. `created` is False when the task already had this version."""

    task: TaskName
    record: VersionRecord
    alias: AliasState | None
    created: bool


class Publisher:
    """Turn uploads into served versions."""

    async def plan(self, tenant: str, upload: Upload) -> PublishReport:
        """Convert, validate and try an upload; store nothing. Raises ArtifactError, StoreError, EngineError."""
        raise NotImplementedError

    async def publish(self, task: TaskName, upload: Upload, actor: str) -> Published:
        """Store an upload as a version of `task`; return once this replica serves it under `upload.alias`.

        Raises ArtifactError with every reason, StoreError, EngineError. After an error nothing has moved.
        """
        raise NotImplementedError

    async def verify(self, task: TaskName, version: Version) -> tuple[str, ...]:
        """Run the version's golden examples again; return one line for each that came out. Raises TrialError."""
        raise NotImplementedError

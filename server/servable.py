"""What a request needs of a version besides its tensors. Knows no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_store.artifact import Artifact
from prompt_store.manifest import HeadKind, Manifest
from prompt_store.refs import TaskName, Version
from server.engine.types import LoadRequest, ReadColumns, Reading, ReadSequence, ReadText, ReadTokens
from server.serving_engine import ServingEngine


@dataclass(frozen=True, slots=True)
class Servable:
    """One version, ready to fill its template and to read its answers."""

    task: TaskName
    version: Version
    manifest: Manifest
    reading: Reading


def make_servable(
    task: TaskName, version: Version, artifact: Artifact, engine: ServingEngine
) -> tuple[Servable, LoadRequest]:
    """Return the version's light half, which stays, and its heavy half, which goes to the device.

    Raises ArtifactError when the template or the label words do not fit the tokenizer.
    """
    reading: Reading = {
        HeadKind.SEQUENCE_CLASSIFICATION: ReadSequence(),
        HeadKind.TOKEN_CLASSIFICATION: ReadTokens(),
        HeadKind.LABEL_WORDS: ReadColumns(()),
        HeadKind.GENERATION: ReadText(),
    }[artifact.manifest.kind]
    return Servable(task, version, artifact.manifest, reading), LoadRequest(task, version, artifact, reading)

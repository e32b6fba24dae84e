"""What a request needs of a version besides its tensors. Knows no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.manifest import HeadKind, Manifest
from prompt_store.place_checks import text_place, tokens_at
from prompt_store.refs import TaskName, Version
from server.engine.types import (
    LoadRequest,
    ReadColumns,
    ReadEmbedding,
    Reading,
    ReadSequence,
    ReadText,
    ReadTokens,
    RowInput,
)
from server.text.decoder_start import decoder_start
from server.text.filled import Filled
from server.text.filling import Filler, FillRules
from server.text.label_words import LabelColumns, label_columns
from server.text.tokens import TextTokenizer


@dataclass(frozen=True, slots=True)
class Servable:
    """One version, ready to fill its template and to read its answers."""

    task: TaskName
    version: Version
    manifest: Manifest
    filler: Filler
    tokenizer: TextTokenizer  # the backbone's, shared by all versions
    reading: Reading
    label_columns: LabelColumns | None  # of a label-words task
    null_id: int | None  # the token at which a head says that a question has no answer; None: the tokenizer has none
    num_prefix: int  # virtual tokens that take positions, but no place in the row; of a decoder, where there is one
    decoder_ids: tuple[int, ...] = ()  # what an encoder-decoder's decoder begins with

    def num_taken(self, filled: Filled) -> int:
        """Return the positions that a row takes in front of its first new token."""
        return self.num_prefix + len(self.decoder_ids or filled.input_ids)

    def to_row(self, filled: Filled) -> RowInput:
        """Hand a filled template to the engine, which knows no fields."""
        return RowInput(
            filled.input_ids, filled.soft_positions, filled.token_type_ids, filled.read_position, self.decoder_ids
        )


Made = tuple[Servable, LoadRequest]
"""A version's light half, which stays, and its heavy half, which goes to the device."""


class ServableMaker:
    """Prepare versions for one backbone and its tokenizer. Takes milliseconds of one processor; safe in any thread."""

    def __init__(self, spec: BackboneSpec, tokenizer: TextTokenizer) -> None:
        self.spec = spec
        self._tokenizer = tokenizer

    def make(self, task: TaskName, version: Version, artifact: Artifact) -> Made:
        """Return both halves of a version.

        Raises ArtifactError when the template or the label words do not fit the tokenizer.
        """
        manifest = artifact.manifest
        filler = Filler(self._tokenizer, self._rules(artifact))
        columns = self._label_columns(manifest)
        servable = Servable(
            task=task,
            version=version,
            manifest=manifest,
            filler=filler,
            tokenizer=self._tokenizer,
            reading=_reading(manifest, columns),
            label_columns=columns,
            null_id=self._tokenizer.special_id("cls"),
            num_prefix=_num_prefix(artifact),
            decoder_ids=decoder_start(manifest, self.spec, self._tokenizer),
        )
        return servable, LoadRequest(task, version, artifact, servable.reading, filler.leading)

    def _label_columns(self, manifest: Manifest) -> LabelColumns | None:
        if manifest.kind is not HeadKind.LABEL_WORDS or manifest.label_words is None:
            return None
        return label_columns(manifest.label_words, self._tokenizer, manifest.labels, manifest.label_scoring)

    def _rules(self, artifact: Artifact) -> FillRules:
        of_text = any(place in ("embeds", "kv") for place in artifact.places)
        room = self.spec.max_positions - (artifact.manifest.num_virtual_tokens if of_text else 0)
        return FillRules.of(artifact.manifest, text_place(artifact), self.spec.vocab_size, room)


def _num_prefix(artifact: Artifact) -> int:
    of_decoder: tuple[PromptPlace, ...] = ("decoder_kv", "decoder_embeds")
    if found := [place for place in artifact.places if place in of_decoder]:
        return sum(tokens_at(artifact.manifest, place) for place in found)
    return artifact.manifest.num_virtual_tokens if "kv" in artifact.places else 0


def _reading(manifest: Manifest, columns: LabelColumns | None) -> Reading:
    match manifest.kind:
        case HeadKind.SEQUENCE_CLASSIFICATION | HeadKind.MULTIPLE_CHOICE:
            return ReadSequence()
        case HeadKind.TOKEN_CLASSIFICATION:
            return ReadTokens()
        case HeadKind.QUESTION_ANSWERING:
            return ReadTokens(manifest.qa_offset)
        case HeadKind.LABEL_WORDS:
            assert columns is not None, "the manifest's validator asks for label_words"
            return ReadColumns(columns.columns)
        case HeadKind.GENERATION:
            return ReadText()
        case HeadKind.EMBEDDING:
            assert manifest.pool is not None, "the manifest's validator asks for a pool"
            return ReadEmbedding(manifest.pool)

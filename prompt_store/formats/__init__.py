"""Checkpoints of other people's training code, and what becomes of them: one artifact, baked once.

One family, one module, or a package where it has parts: it states its tensors, its math and its source. `recognise`
picks one, never by guessing.
"""

from __future__ import annotations

from dataclasses import dataclass

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats.assembly.assemble import assemble
from prompt_store.formats.assembly.sources import Sources
from prompt_store.formats.checkpoint import Checkpoint, read_config
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.nemo import family as nemo
from prompt_store.formats.peft import family as peft
from prompt_store.formats.recognise import recognise
from prompt_store.formats.scale import scaled
from prompt_store.manifest import PublisherManifest

__all__ = ["Checkpoint", "Converted", "convert", "read_config"]


@dataclass(frozen=True, slots=True)
class Converted:
    """An artifact, the family it came from, and what its user should know."""

    artifact: Artifact
    format: str
    checks: tuple[str, ...]


def convert(
    checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec, base: Artifact | None = None
) -> Converted:
    """Recognise a checkpoint and turn it into an artifact; parts it does not bring are those of `base`.

    Whether the artifact fits the backbone is for `validate`. Raises CheckpointError, ManifestError, with every reason.
    """
    family = recognise(checkpoint)
    _expect_one(publisher, family)
    _expect_known(family, spec)
    parts = scaled(family.convert(checkpoint, publisher, spec), publisher, family.name)
    if parts.manifest is not None:  # a whole artifact: nothing is missing, so it stands in the place of a base
        base, parts = Artifact(parts.manifest, parts.tensors), Parts()
    artifact, checks = assemble(Sources(parts, publisher, spec, base))
    return Converted(artifact, family.name, (*checks, *_quantized(publisher, spec)))


def _quantized(publisher: PublisherManifest, spec: BackboneSpec) -> tuple[str, ...]:
    """Remark on a backbone that was not itself in training: nothing here can undo what its rounding did."""
    said = publisher.trained_quantization
    if said is None:
        return ()
    return (f"trained on a backbone in {said}, served on {spec.name} in {spec.dtype}: its answers may differ",)


def _expect_known(family: Family, spec: BackboneSpec) -> None:
    """Refuse what no training code made for an encoder-decoder: nothing says where it would stand in one."""
    if spec.is_encoder_decoder and family.needs and not family.takes_encoder_decoders:
        raise CheckpointError(
            f"a {family.name} prompt is trained on one stack of layers; backbone {spec.name} is a {spec.model_type}, "
            "an encoder-decoder"
        )


def _expect_one(publisher: PublisherManifest, family: Family) -> None:
    """Refuse to pick one of several prompts where a file holds one, and what only PEFT's files can be asked."""
    if family is not peft.FAMILY and (publisher.peft_layer_order or publisher.peft_decoder):
        raise CheckpointError(
            f"peft_layer_order and peft_decoder choose between PEFT's own answers; this is a {family.name} file"
        )
    if publisher.prompt_task is not None and family is not nemo.FAMILY:
        raise CheckpointError(
            f"prompt_task {publisher.prompt_task!r} picks one of several named prompts; a {family.name} file holds one"
        )
    if publisher.prompt_task_id is not None and family is not peft.FAMILY:
        raise CheckpointError(
            f"prompt_task_id {publisher.prompt_task_id} picks a row of PEFT's multitask prompts; "
            f"a {family.name} file holds one prompt"
        )

"""Virtual tokens that an older transformers multiplied inside the model, and today's does not."""

from __future__ import annotations

from dataclasses import replace

from prompt_store.artifact import DECODER_EMBEDS, EMBEDS
from prompt_store.errors import CheckpointError
from prompt_store.formats.family import Parts
from prompt_store.manifest import PublisherManifest


def scaled(parts: Parts, publisher: PublisherManifest, family: str) -> Parts:
    """Multiply the file's virtual tokens by what the publisher says, once. Raises CheckpointError where there are none.

    Gemma's words are multiplied by sqrt(hidden_size): before transformers 5 by the model, which took the virtual tokens
    along; since then where a word is looked up, which leaves them as they are.
    """
    scale = publisher.embeds_scale
    if scale is None:
        return parts
    found = [name for name in (EMBEDS, DECODER_EMBEDS) if name in parts.tensors]
    if not found or parts.manifest is not None:
        what = "an artifact, which is served as it is" if parts.manifest is not None else f"a {family} file without any"
        raise CheckpointError(f"embeds_scale is for virtual tokens in the text; this is {what}")
    rows = {name: parts.tensors[name].detach().float() * scale for name in found}
    said = f"virtual tokens multiplied by {scale:g}, as the publisher says"
    return replace(parts, tensors={**parts.tensors, **rows}, checks=(*parts.checks, said))

"""Our own artifact, read back: a download, or what the command line converted on a publisher's machine.

Tensors: those of `prompt_store.artifact`, and `manifest` (U8, canonical JSON). Math: none.
"""

from __future__ import annotations

import torch

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats.checkpoint import Checkpoint
from prompt_store.formats.family import Family, Parts
from prompt_store.manifest import MAX_MANIFEST_BYTES, Manifest, PublisherManifest

_MANIFEST = "manifest"


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence that the file carries a manifest of ours."""
    return f"tensor {_MANIFEST!r}" if _MANIFEST in checkpoint.tensors else None


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Read the manifest and keep every tensor as it is. Raises CheckpointError, ManifestError."""
    raw = checkpoint.tensors[_MANIFEST]
    if raw.dtype != torch.uint8 or raw.ndim != 1 or raw.numel() > MAX_MANIFEST_BYTES:
        raise CheckpointError(
            f"tensor 'manifest' is {raw.dtype} {list(raw.shape)}; expected at most {MAX_MANIFEST_BYTES} bytes of U8"
        )
    manifest = Manifest.from_json(raw.numpy().tobytes())
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name != _MANIFEST}
    return Parts(tensors, manifest.method, manifest.num_virtual_tokens, manifest=manifest)


FAMILY = Family(
    "artifact", "a softmux artifact, with its `manifest` tensor", claim, convert, takes_encoder_decoders=True
)

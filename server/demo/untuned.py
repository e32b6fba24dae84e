"""A demo task without its soft prompt, to measure beside it: same template, head and label words, same backbone."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.manifest import Method, PublisherManifest
from server.demo.publish import parts

_SOFT_SLOT = re.compile(r"<soft:\d+>")


def without_prompt(folder: Path, spec: BackboneSpec) -> Artifact:
    """Return the task in `folder` with the soft prompt left out."""
    shipped = parts(folder)
    checkpoint = Checkpoint(load(shipped["weights"]), read_config(shipped["config"]))
    tuned = convert(checkpoint, PublisherManifest.from_json(shipped["manifest"]), spec).artifact
    bare = {
        "method": Method.NONE,
        "num_virtual_tokens": 0,
        "template": _SOFT_SLOT.sub("", tuned.manifest.template),
    }
    head = {name: tensor for name, tensor in tuned.tensors.items() if name.startswith(("head.", "pooler."))}
    return Artifact(tuned.manifest.model_copy(update=bare), head)
